// X times the basis, a strip of tokens at a time, so that no N x r matrix is held.
#pragma once

#include "blas.h"
#include "spectrum.h"

#include <algorithm>

namespace svdprune::cpu {

// Calls use(i, rows, product) with product [rows, columns] = X[i : i + rows] basis, basis [d, columns]; both
// column-major. Strips come in order where the crew is one thread, and side by side where it is not.
template <class T, class F>
void for_each_strip(Crew& crew, const Image& image, const Transform& transform, int64_t d,
                    const T* basis, int64_t columns, const F& use) {
  const int64_t strip = std::min<int64_t>(256, image.tokens);
  const int64_t strips = (image.tokens + strip - 1) / strip;
  const int parts = static_cast<int>(std::min<int64_t>(strips, Crew::kMostParts));
  const T* x = direct<T>(image, transform);
  const int64_t ld = x ? image.token_stride : d;
  crew.phase(parts, [&](int part) {
    std::vector<T> panel(x ? 0 : strip * d);
    std::vector<T> product(strip * columns);
    for (int64_t i = part * strip; i < image.tokens; i += parts * strip) {
      const int64_t rows = std::min(strip, image.tokens - i);
      if (!x) {
        pack(image, transform, i, rows, 0, d, panel.data(), d);
      }
      gemm<T>('T', 'N', rows, columns, d, x ? x + i * ld : panel.data(), ld, basis, d, 0,
              product.data(), rows);
      use(i, rows, product.data());
    }
  });
}

// The same with a spectrum of the features' side.
template <class T, class F>
void for_each_strip(Crew& crew, const Image& image, const Spectrum<T>& spectrum, const F& use) {
  for_each_strip<T>(crew, image, spectrum.transform, spectrum.n, spectrum.basis, spectrum.rank,
                    use);
}

}  // namespace svdprune::cpu
