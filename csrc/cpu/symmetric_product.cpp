// Note [diagonal blocks]
// An element below the diagonal serves twice while it is in a register, for its own row and as its mirror image. Columns
// are taken 16 at a time, and their block on the diagonal is stored in full, so that it needs no edge of a triangle, whose
// short loops took a third of the time.

#include "symmetric_product.h"

#include "clones.h"
#include "lanes.h"

#include <cstring>

namespace svdprune::cpu {

namespace {

constexpr int64_t kColumns = 4;  // taken together below the diagonal, sharing loads of x and y

// y += a x of a whole block on the diagonal, a its first element.
template <class T>
[[gnu::always_inline]] inline void add_diagonal(int64_t n, const T* a, const T* x, T* y) {
  using L = Lanes<T>;
  typename L::Vector sum[kDiagonalBlock / L::kCount];
  std::memcpy(sum, y, sizeof(sum));
  for (int64_t j = 0; j < kDiagonalBlock; ++j) {
#pragma GCC unroll 4
    for (int64_t v = 0; v < kDiagonalBlock / L::kCount; ++v) {
      typename L::Vector own;
      L::load(a + j * n + v * L::kCount, own);
      sum[v] += own * x[j];
    }
  }
  std::memcpy(y, sum, sizeof(sum));
}

// y += the share in a x of rows below .. n of kColumns columns from j on, and of their mirror images.
template <class T>
[[gnu::always_inline]] inline void add_below(int64_t n, int64_t below, int64_t j,
                                             const T* __restrict a, const T* __restrict x,
                                             T* __restrict y) {
  using L = Lanes<T>;
  const T* __restrict column = a + j * n;
  typename L::Vector mirrored[kColumns] = {};
  int64_t i = below;
  for (; i + L::kCount <= n; i += L::kCount) {
    typename L::Vector own, sum;
    L::load(x + i, own);
    L::load(y + i, sum);
#pragma GCC unroll 4
    for (int64_t c = 0; c < kColumns; ++c) {
      typename L::Vector value;
      L::load(column + c * n + i, value);
      mirrored[c] += value * own;
      sum += value * x[j + c];
    }
    L::store(sum, y + i);
  }
#pragma GCC unroll 4
  for (int64_t c = 0; c < kColumns; ++c) {
    T sum = L::sum(mirrored[c]);
    for (int64_t row = i; row < n; ++row) {
      sum += column[c * n + row] * x[row];
      y[row] += column[c * n + row] * x[j + c];
    }
    y[j + c] += sum;
  }
}

template <class T>
[[gnu::always_inline]] inline void add_product(int64_t n, int64_t begin, int64_t end, const T* a,
                                               const T* x, T* y) {
  for (int64_t block = begin; block < end; block += kDiagonalBlock) {
    if (block + kDiagonalBlock > n) {
      for (int64_t j = block; j < n; ++j) {
        for (int64_t i = block; i < n; ++i) {
          y[i] += a[i + j * n] * x[j];
        }
      }
      return;
    }
    add_diagonal(n, a + block * (n + 1), x + block, y + block);
    for (int64_t j = block; j < block + kDiagonalBlock; j += kColumns) {
      add_below(n, block + kDiagonalBlock, j, a, x, y);
    }
  }
}

}  // namespace

SVDPRUNE_CLONES void add_symmetric_product(int64_t n, int64_t begin, int64_t end, const float* a,
                                           const float* x, float* y) {
  add_product(n, begin, end, a, x, y);
}

SVDPRUNE_CLONES void add_symmetric_product(int64_t n, int64_t begin, int64_t end, const double* a,
                                           const double* x, double* y) {
  add_product(n, begin, end, a, x, y);
}

}  // namespace svdprune::cpu
