// X times the basis, a strip of tokens at a time, so that no N x r matrix is held.
#pragma once

#include "blas.h"
#include "spectrum.h"

#include <algorithm>

namespace svdprune::cpu {

// Calls use(i, rows, product) with product [rows, columns] = X[i : i + rows] basis, basis [d, columns]; both
// column-major.
template <class T, class F>
void for_each_strip(const Image& image, const Transform& transform, int64_t d, const T* basis,
                    int64_t columns, F&& use) {
  const int64_t strip = std::min<int64_t>(256, image.tokens);
  const T* x = direct<T>(image, transform);
  const int64_t ld = x ? image.token_stride : d;
  std::vector<T> panel(x ? 0 : strip * d);
  std::vector<T> product(strip * columns);
  for (int64_t i = 0; i < image.tokens; i += strip) {
    const int64_t rows = std::min(strip, image.tokens - i);
    if (!x) {
      pack(image, transform, i, rows, 0, d, panel.data(), d);
    }
    gemm<T>('T', 'N', rows, columns, d, x ? x + i * ld : panel.data(), ld, basis, d, 0,
            product.data(), rows);
    use(i, rows, product.data());
  }
}

// The same with a spectrum of the features' side.
template <class T, class F>
void for_each_strip(const Image& image, const Spectrum<T>& spectrum, F&& use) {
  for_each_strip<T>(image, spectrum.transform, spectrum.n, spectrum.basis, spectrum.rank, use);
}

}  // namespace svdprune::cpu
