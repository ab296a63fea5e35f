// Note [register tile]
// A tile of C is up to 3 vectors high and kColumns wide. A step of the sum reads 3 vectors of R and kColumns numbers
// of S: 3 kColumns fused multiply-adds into accumulators that stay in registers.

#include "tile.h"

#include "lanes.h"

#include <algorithm>

namespace svdprune::cpu {

namespace {

// Bytes: of a vector register. kColumns: as many as the register file holds accumulators for.
template <class T, int Bytes, int Columns>
struct Tile {
  using L = Lanes<T, Bytes>;
  using Vector = typename L::Vector;
  static constexpr int64_t kLanes = L::kCount;
  static constexpr int64_t kWidth = 3 * kLanes;
  static constexpr int64_t kColumns = Columns;

  // c [kVectors kLanes, kSome] (+)= r^T s, from the first number of each row on.
  template <int kVectors, int64_t kSome>
  [[gnu::always_inline]] static inline void multiply_tile(int64_t depth, Rows<T> r, Rows<T> s,
                                                          bool add, T* __restrict c, int64_t ldc) {
    const T* __restrict rows = r.values;
    const T* __restrict columns = s.values;
    Vector sum[kSome][kVectors] = {};
    for (int64_t k = 0; k < depth; ++k, rows += r.stride, columns += s.stride) {
      Vector row[kVectors];
#pragma GCC unroll 3
      for (int v = 0; v < kVectors; ++v) {
        L::load(rows + v * kLanes, row[v]);
      }
#pragma GCC unroll 8
      for (int64_t j = 0; j < kSome; ++j) {
        const T factor = columns[j];
#pragma GCC unroll 3
        for (int v = 0; v < kVectors; ++v) {
          sum[j][v] += factor * row[v];
        }
      }
    }
#pragma GCC unroll 8
    for (int64_t j = 0; j < kSome; ++j) {
#pragma GCC unroll 3
      for (int v = 0; v < kVectors; ++v) {
        T* out = c + j * ldc + v * kLanes;
        Vector total = {};
        if (add) {
          L::load(out, total);
        }
        total += sum[j][v];
        L::store(total, out);
      }
    }
  }

  // c [rows, kSome] (+)= r^T s, rows <= kWidth.
  template <int64_t kSome>
  [[gnu::always_inline]] static inline void multiply_columns(int64_t depth, Rows<T> r, Rows<T> s,
                                                             bool add, int64_t rows, T* c,
                                                             int64_t ldc) {
    switch (rows) {
      case 3 * kLanes:
        return multiply_tile<3, kSome>(depth, r, s, add, c, ldc);
      case 2 * kLanes:
        return multiply_tile<2, kSome>(depth, r, s, add, c, ldc);
      case kLanes:
        return multiply_tile<1, kSome>(depth, r, s, add, c, ldc);
      default:
        break;
    }
    T edge[kWidth * kSome];
    multiply_tile<3, kSome>(depth, r, s, false, edge, kWidth);
    for (int64_t column = 0; column < kSome; ++column) {
      for (int64_t row = 0; row < rows; ++row) {
        T& value = c[row + column * ldc];
        value = (add ? value : T(0)) + edge[row + column * kWidth];
      }
    }
  }

  [[gnu::always_inline]] static inline void multiply(int64_t depth, Rows<T> r, Rows<T> s, bool add,
                                                     int64_t rows, int64_t columns, T* c,
                                                     int64_t ldc) {
    int64_t j = 0;
    for (; j + kColumns <= columns; j += kColumns) {
      multiply_columns<kColumns>(depth, r, {s.values + j, s.stride}, add, rows, c + j * ldc, ldc);
    }
    for (; j < columns; ++j) {
      multiply_columns<1>(depth, r, {s.values + j, s.stride}, add, rows, c + j * ldc, ldc);
    }
  }
};

#define SVDPRUNE_TILE(name, attributes, bytes, columns)                                     \
  template <class T>                                                                        \
  struct name : Tile<T, bytes, columns> {                                                   \
    attributes static void run(int64_t depth, Rows<T> r, Rows<T> s, bool add, int64_t rows, \
                               int64_t column_count, T* c, int64_t ldc) {                   \
      Tile<T, bytes, columns>::multiply(depth, r, s, add, rows, column_count, c, ldc);      \
    }                                                                                       \
    static constexpr TileKernel<T> kKernel{Tile<T, bytes, columns>::kLanes,                 \
                                           Tile<T, bytes, columns>::kWidth, &run};          \
  }

// 16 registers: 4 x 3 sums, 3 row vectors, 1 factor. 32 registers: 8 x 3.
#if defined(__x86_64__)
SVDPRUNE_TILE(Avx512, [[gnu::target("avx512f")]], 64, 8);
SVDPRUNE_TILE(Avx2, [[gnu::target("avx2,fma")]], 32, 4);
SVDPRUNE_TILE(Baseline, , 16, 2);
#else
SVDPRUNE_TILE(Baseline, , 16, 8);
#endif
#undef SVDPRUNE_TILE

}  // namespace

InstructionSet best_instruction_set() {
#if defined(__x86_64__)
  static const InstructionSet best =
      __builtin_cpu_supports("avx512f")                                 ? InstructionSet::kAvx512
      : __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? InstructionSet::kAvx2
                                                                        : InstructionSet::kBaseline;
  return best;
#else
  return InstructionSet::kBaseline;
#endif
}

template <class T>
TileKernel<T> tile_kernel(InstructionSet set) {
  switch (set) {
#if defined(__x86_64__)
    case InstructionSet::kAvx512:
      return Avx512<T>::kKernel;
    case InstructionSet::kAvx2:
      return Avx2<T>::kKernel;
#endif
    default:
      return Baseline<T>::kKernel;
  }
}

template TileKernel<float> tile_kernel(InstructionSet);
template TileKernel<double> tile_kernel(InstructionSet);

}  // namespace svdprune::cpu
