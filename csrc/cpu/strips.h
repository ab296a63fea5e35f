// X times the basis, a strip of tokens at a time, so that no N x r matrix is held.
#pragma once

#include "blas.h"
#include "spectrum.h"

#include <algorithm>

namespace svdprune::cpu {

// Calls use(i, rows, product) with product [rows, columns] = X[i : i + rows] basis, basis [d, columns]; both
// column-major. Strips come one by one where the crew is one thread, and side by side where it is not.
template <class T, class F>
void for_each_strip(Crew& crew, const Image& image, const Transform& transform, int64_t d,
                    const T* basis, int64_t columns, const F& use) {
  const int64_t strip = std::min<int64_t>(256, image.tokens);
  const T* x = direct<T>(image, transform);
  const int64_t ld = x ? image.token_stride : d;
  crew.for_each((image.tokens + strip - 1) / strip, [&](int64_t item) {
    const int64_t i = item * strip, rows = std::min(strip, image.tokens - i);
    std::vector<T> panel(x ? 0 : rows * d);
    std::vector<T> product(rows * columns);
    if (!x) {
      pack(image, transform, i, rows, 0, d, panel.data(), d);
    }
    gemm<T>('T', 'N', rows, columns, d, x ? x + i * ld : panel.data(), ld, basis, d, 0,
            product.data(), rows);
    use(i, rows, product.data());
  });
}

// The same with a spectrum of the features' side.
template <class T, class F>
void for_each_strip(Crew& crew, const Image& image, const Spectrum<T>& spectrum, const F& use) {
  for_each_strip<T>(crew, image, spectrum.transform, spectrum.n, spectrum.basis, spectrum.rank,
                    use);
}

}  // namespace svdprune::cpu
