// X times the basis, a strip of tokens at a time, so that no N x r matrix is held.
#pragma once

#include "blas.h"
#include "spectrum.h"

#include <algorithm>

namespace svdprune::cpu {

// D x D only. Calls use(i, rows, product) with product [rows, r] = X[i : i + rows] basis,
// column-major.
template <class T, class F>
void for_each_strip(const Image& image, const Spectrum<T>& spectrum, F&& use) {
  const int64_t d = spectrum.n;
  const int64_t strip = std::min<int64_t>(256, image.tokens);
  const T* x = direct<T>(image, spectrum.transform);
  const int64_t ld = x ? image.token_stride : d;
  std::vector<T> panel(x ? 0 : strip * d);
  std::vector<T> product(strip * spectrum.rank);
  for (int64_t i = 0; i < image.tokens; i += strip) {
    const int64_t rows = std::min(strip, image.tokens - i);
    if (!x) {
      pack(image, spectrum.transform, i, rows, 0, d, panel.data());
    }
    gemm<T>('T', 'N', rows, spectrum.rank, d, x ? x + i * ld : panel.data(), ld, spectrum.basis, d,
            0, product.data(), rows);
    use(i, rows, product.data());
  }
}

}  // namespace svdprune::cpu
