// X times the basis, a strip of tokens at a time, so that no N x r matrix is held.
#pragma once

#include "blas.h"
#include "spectrum.h"

#include <algorithm>

namespace svdprune::cpu {

constexpr int64_t kStrip = 256;  // tokens

inline int64_t strips_of(const Image& image) {
  return (image.tokens + kStrip - 1) / kStrip;
}

// Calls use(i, rows, product) with product [rows, columns] = X[i : i + rows] basis, i = kStrip * strip, basis
// [d, columns]; both column-major.
template <class T, class F>
void multiply_strip(const Image& image, const Transform& transform, int64_t d, const T* basis,
                    int64_t columns, int64_t strip, const F& use) {
  const T* x = direct<T>(image, transform);
  const int64_t ld = x ? image.token_stride : d;
  const int64_t i = strip * kStrip, rows = std::min(kStrip, image.tokens - i);
  std::vector<T> panel(x ? 0 : rows * d);
  std::vector<T> product(rows * columns);
  if (!x) {
    pack(image, transform, i, rows, 0, d, panel.data(), d);
  }
  gemm<T>('T', 'N', rows, columns, d, x ? x + i * ld : panel.data(), ld, basis, d, 0,
          product.data(), rows);
  use(i, rows, product.data());
}

// The same for all strips: one by one where the crew is one thread, and side by side where it is not.
template <class T, class F>
void for_each_strip(Crew& crew, const Image& image, const Transform& transform, int64_t d,
                    const T* basis, int64_t columns, const F& use) {
  crew.for_each(strips_of(image), [&](int64_t strip) {
    multiply_strip(image, transform, d, basis, columns, strip, use);
  });
}

}  // namespace svdprune::cpu
