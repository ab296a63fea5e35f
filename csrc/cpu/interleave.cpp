#include "interleave.h"

#include "clones.h"

#include <cstring>

namespace svdprune::cpu {

namespace {

constexpr int64_t kBlock = 8;

// An 8 x 8 block in three rounds, each exchanging halves of twice the width between pairs of rows.
template <class T>
[[gnu::always_inline]] inline void transpose_block(const T* rows, int64_t ld, T* out,
                                                   int64_t width) {
  using Row [[gnu::vector_size(kBlock * sizeof(T))]] = T;
  Row a[kBlock], b[kBlock];
  for (int64_t i = 0; i < kBlock; ++i) {
    std::memcpy(&a[i], rows + i * ld, sizeof(Row));
  }
  for (int64_t i = 0; i < kBlock; i += 2) {
    b[i] = __builtin_shufflevector(a[i], a[i + 1], 0, 8, 2, 10, 4, 12, 6, 14);
    b[i + 1] = __builtin_shufflevector(a[i], a[i + 1], 1, 9, 3, 11, 5, 13, 7, 15);
  }
  for (int64_t i = 0; i < kBlock; i += 4) {
    for (int64_t h = i; h < i + 2; ++h) {
      a[h] = __builtin_shufflevector(b[h], b[h + 2], 0, 1, 8, 9, 4, 5, 12, 13);
      a[h + 2] = __builtin_shufflevector(b[h], b[h + 2], 2, 3, 10, 11, 6, 7, 14, 15);
    }
  }
  for (int64_t h = 0; h < kBlock / 2; ++h) {
    b[h] = __builtin_shufflevector(a[h], a[h + 4], 0, 1, 2, 3, 8, 9, 10, 11);
    b[h + 4] = __builtin_shufflevector(a[h], a[h + 4], 4, 5, 6, 7, 12, 13, 14, 15);
  }
  for (int64_t i = 0; i < kBlock; ++i) {
    std::memcpy(out + i * width, &b[i], sizeof(Row));
  }
}

template <class T>
[[gnu::always_inline]] inline void interleave_body(const T* rows, int64_t count, int64_t ld,
                                                   int64_t depth, T* panel, int64_t width) {
  const int64_t full_rows = count / kBlock * kBlock, full_depth = depth / kBlock * kBlock;
  // Eight rows to their end: a cache prefetches a few long streams, not one for each of a panel's rows.
  for (int64_t i = 0; i < full_rows; i += kBlock) {
    for (int64_t k = 0; k < full_depth; k += kBlock) {
      transpose_block(rows + i * ld + k, ld, panel + k * width + i, width);
    }
  }
  for (int64_t k = 0; k < depth; ++k) {
    for (int64_t i = k < full_depth ? full_rows : 0; i < count; ++i) {
      panel[k * width + i] = rows[i * ld + k];
    }
  }
}

}  // namespace

SVDPRUNE_CLONES void interleave(const float* rows, int64_t count, int64_t ld, int64_t depth,
                                float* panel, int64_t width) {
  interleave_body(rows, count, ld, depth, panel, width);
}

SVDPRUNE_CLONES void interleave(const double* rows, int64_t count, int64_t ld, int64_t depth,
                                double* panel, int64_t width) {
  interleave_body(rows, count, ld, depth, panel, width);
}

}  // namespace svdprune::cpu
