// Note [diagonal blocks]
// An element below the diagonal serves twice while it is in a register, for its own row and as its mirror image. Columns
// are taken 16 at a time, and their block on the diagonal is stored in full, so that it needs no edge of a triangle, whose
// short loops took a third of the time.

#include "symmetric_product.h"

#include "lanes.h"
#include "tile.h"

#include <cstring>

namespace svdprune::cpu {

namespace {

constexpr int64_t kColumns = 8;  // taken together below the diagonal, sharing loads of x and y

// y += a x of a whole block on the diagonal, a its first element.
template <class T, int Bytes>
[[gnu::always_inline]] inline void add_diagonal(const T* a, int64_t lda, const T* x, T* y) {
  using L = Lanes<T, Bytes>;
  typename L::Vector sum[kDiagonalBlock / L::kCount];
  std::memcpy(sum, y, sizeof(sum));
  for (int64_t j = 0; j < kDiagonalBlock; ++j) {
#pragma GCC unroll 8
    for (int64_t v = 0; v < kDiagonalBlock / L::kCount; ++v) {
      typename L::Vector own;
      L::load(a + j * lda + v * L::kCount, own);
      sum[v] += own * x[j];
    }
  }
  std::memcpy(y, sum, sizeof(sum));
}

// y += the share in a x of rows below .. n of kColumns columns from j on, and of their mirror images.
template <class T, int Bytes>
[[gnu::always_inline]] inline void add_below(int64_t n, int64_t below, int64_t j,
                                             const T* __restrict a, int64_t lda,
                                             const T* __restrict x, T* __restrict y) {
  using L = Lanes<T, Bytes>;
  const T* __restrict column = a + j * lda;
  typename L::Vector mirrored[kColumns] = {};
  int64_t i = below;
  for (; i + L::kCount <= n; i += L::kCount) {
    typename L::Vector own, sum;
    L::load(x + i, own);
    L::load(y + i, sum);
#pragma GCC unroll 8
    for (int64_t c = 0; c < kColumns; ++c) {
      typename L::Vector value;
      L::load(column + c * lda + i, value);
      mirrored[c] += value * own;
      sum += value * x[j + c];
    }
    L::store(sum, y + i);
  }
#pragma GCC unroll 8
  for (int64_t c = 0; c < kColumns; ++c) {
    T sum = L::sum(mirrored[c]);
    for (int64_t row = i; row < n; ++row) {
      sum += column[c * lda + row] * x[row];
      y[row] += column[c * lda + row] * x[j + c];
    }
    y[j + c] += sum;
  }
}

template <class T, int Bytes>
[[gnu::always_inline]] inline void add_product(int64_t n, int64_t begin, int64_t end, const T* a,
                                               int64_t lda, const T* x, T* y) {
  for (int64_t block = begin; block < end; block += kDiagonalBlock) {
    if (block + kDiagonalBlock > n) {
      for (int64_t j = block; j < n; ++j) {
        for (int64_t i = block; i < n; ++i) {
          y[i] += a[i + j * lda] * x[j];
        }
      }
      return;
    }
    add_diagonal<T, Bytes>(a + block * (lda + 1), lda, x + block, y + block);
    for (int64_t j = block; j < block + kDiagonalBlock; j += kColumns) {
      add_below<T, Bytes>(n, block + kDiagonalBlock, j, a, lda, x, y);
    }
  }
}

#define SVDPRUNE_PRODUCT(name, attributes, bytes)                                                  \
  template <class T>                                                                               \
  attributes void name(int64_t n, int64_t begin, int64_t end, const T* a, int64_t lda, const T* x, \
                       T* y) {                                                                     \
    add_product<T, bytes>(n, begin, end, a, lda, x, y);                                            \
  }

#if defined(__x86_64__)
SVDPRUNE_PRODUCT(with_avx512, [[gnu::target("avx512f")]], 64)
SVDPRUNE_PRODUCT(with_avx2, [[gnu::target("avx2,fma")]], 32)
#endif
SVDPRUNE_PRODUCT(baseline, , 16)
#undef SVDPRUNE_PRODUCT

}  // namespace

template <class T>
SymmetricProduct<T>* symmetric_product(InstructionSet set) {
  switch (set) {
#if defined(__x86_64__)
    case InstructionSet::kAvx512:
      return &with_avx512<T>;
    case InstructionSet::kAvx2:
      return &with_avx2<T>;
#endif
    default:
      return &baseline<T>;
  }
}

template SymmetricProduct<float>* symmetric_product(InstructionSet);
template SymmetricProduct<double>* symmetric_product(InstructionSet);

}  // namespace svdprune::cpu
