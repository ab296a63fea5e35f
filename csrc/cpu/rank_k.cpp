// Note [rank-k product]
// Rows of P are packed in panels of kWidth = 3 vectors, each panel depth-major, so that a step along the depth
// reads 3 vectors of one panel and kColumns numbers of another: 3 kColumns fused multiply-adds into
// accumulators that stay in registers. One packed form serves both sides of the product, and only pairs of
// panels on or below the diagonal are multiplied: half the work of a general product, where LAPACK's
// ssyrk is not exported by libtorch. The depth is cut so that a pair of panels stays in the first two
// cache levels.

#include "rank_k.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <new>

namespace svdprune::cpu {

namespace {

// Bytes: of a vector register. kColumns: as many as the register file holds accumulators for.
template <class T, int Bytes, int Columns>
struct Tile {
  static constexpr int64_t kLanes = Bytes / sizeof(T);
  static constexpr int64_t kWidth = 3 * kLanes;
  static constexpr int64_t kColumns = Columns;
  static_assert(kWidth % kColumns == 0);
  using Vector [[gnu::vector_size(Bytes)]] = T;

  [[gnu::always_inline]] static inline void load(const T* p, Vector& vector) {
    std::memcpy(&vector, p, sizeof(vector));
  }

  // c [kWidth, kColumns], column-major, (+)= panel^T of `rows` times columns 0 .. kColumns of `columns`.
  [[gnu::always_inline]] static inline void multiply(int64_t depth, const T* __restrict rows,
                                                     const T* __restrict columns, bool add,
                                                     T* __restrict c, int64_t ldc) {
    Vector sum[kColumns][3] = {};
    for (int64_t k = 0; k < depth; ++k) {
      Vector row0, row1, row2;
      load(rows + k * kWidth, row0);
      load(rows + k * kWidth + kLanes, row1);
      load(rows + k * kWidth + 2 * kLanes, row2);
#pragma GCC unroll 8
      for (int64_t j = 0; j < kColumns; ++j) {
        const T factor = columns[k * kWidth + j];
        sum[j][0] += factor * row0;
        sum[j][1] += factor * row1;
        sum[j][2] += factor * row2;
      }
    }
#pragma GCC unroll 8
    for (int64_t j = 0; j < kColumns; ++j) {
#pragma GCC unroll 3
      for (int v = 0; v < 3; ++v) {
        T* out = c + j * ldc + v * kLanes;
        Vector total = {};
        if (add) {
          load(out, total);
        }
        total += sum[j][v];
        std::memcpy(out, &total, sizeof(total));
      }
    }
  }

  // c [rows, columns] of a larger lower triangle (+)= the product of two panels.
  [[gnu::always_inline]] static inline void multiply_panels(int64_t depth, const T* row_panel,
                                                            const T* column_panel, bool add,
                                                            int64_t rows, int64_t columns, T* c,
                                                            int64_t ldc) {
    for (int64_t j = 0; j < columns; j += kColumns) {
      if (rows == kWidth && j + kColumns <= columns) {
        multiply(depth, row_panel, column_panel + j, add, c + j * ldc, ldc);
        continue;
      }
      T edge[kWidth * kColumns];
      multiply(depth, row_panel, column_panel + j, false, edge, kWidth);
      for (int64_t column = j; column < std::min(columns, j + kColumns); ++column) {
        for (int64_t row = 0; row < rows; ++row) {
          T& value = c[row + column * ldc];
          value = (add ? value : T(0)) + edge[row + (column - j) * kWidth];
        }
      }
    }
  }
};

// A tile's two facts that the callers need, for the instruction set chosen at run time.
template <class T>
struct Kernel {
  int64_t width;
  void (*multiply_panels)(int64_t depth, const T* row_panel, const T* column_panel, bool add,
                          int64_t rows, int64_t columns, T* c, int64_t ldc);
};

#define SVDPRUNE_KERNEL(name, attributes, bytes, columns)                                          \
  template <class T>                                                                               \
  struct name : Tile<T, bytes, columns> {                                                          \
    attributes static void run(int64_t depth, const T* row_panel, const T* column_panel, bool add, \
                               int64_t rows, int64_t column_count, T* c, int64_t ldc) {            \
      Tile<T, bytes, columns>::multiply_panels(depth, row_panel, column_panel, add, rows,          \
                                               column_count, c, ldc);                              \
    }                                                                                              \
    static constexpr Kernel<T> kKernel{Tile<T, bytes, columns>::kWidth, &run};                     \
  }

// 16 registers: 4 x 3 sums, 3 row vectors, 1 factor. 32 registers: 8 x 3 or, with a width of 6 or 12, 6 x 3.
#if defined(__x86_64__)
SVDPRUNE_KERNEL(Avx512, [[gnu::target("avx512f")]], 64, 8);
SVDPRUNE_KERNEL(Avx2, [[gnu::target("avx2,fma")]], 32, 4);
SVDPRUNE_KERNEL(Baseline, , 16, 2);
#else
SVDPRUNE_KERNEL(Baseline, , 16, 6);
#endif
#undef SVDPRUNE_KERNEL

template <class T>
Kernel<T> kernel_of(InstructionSet set) {
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
void rank_k_product(Crew& crew, int64_t n, int64_t depth, const FillPanel<T>& fill, T* values,
                    InstructionSet set) {
  const Kernel<T> kernel = kernel_of<T>(set);
  const int64_t width = kernel.width;
  const int64_t panels = (n + width - 1) / width;
  const int64_t panel_size = width * std::min(depth, kPanelDepth);
  constexpr std::align_val_t kLine{64};
  const auto release = [=](T* p) { ::operator delete[](p, kLine); };
  const std::unique_ptr<T[], decltype(release)> packed(
      static_cast<T*>(::operator new[](panels * panel_size * sizeof(T), kLine)), release);
  const auto rows_of = [&](int64_t p) { return std::min(width, n - p * width); };

  const auto multiply_row = [&](int64_t p, int64_t deep, bool add) {
    for (int64_t q = 0; q <= p; ++q) {
      kernel.multiply_panels(deep, packed.get() + p * panel_size, packed.get() + q * panel_size,
                             add, rows_of(p), rows_of(q), values + p * width + q * width * n, n);
    }
  };

  for (int64_t k = 0; k < depth; k += kPanelDepth) {
    const int64_t deep = std::min(kPanelDepth, depth - k);
    crew.for_each(panels, [&](int64_t p) {
      T* panel = packed.get() + p * panel_size;
      if (rows_of(p) < width) {
        std::fill_n(panel, panel_size, T(0));
      }
      fill({p * width, rows_of(p), k, deep, width}, panel);
    });
    // A row of panels and its mirror image together, so that every item is the same work.
    crew.for_each((panels + 1) / 2, [&](int64_t p) {
      multiply_row(p, deep, k > 0);
      if (panels - 1 - p != p) {
        multiply_row(panels - 1 - p, deep, k > 0);
      }
    });
  }
}

template void rank_k_product(Crew&, int64_t, int64_t, const FillPanel<float>&, float*,
                             InstructionSet);
template void rank_k_product(Crew&, int64_t, int64_t, const FillPanel<double>&, double*,
                             InstructionSet);

}  // namespace svdprune::cpu
