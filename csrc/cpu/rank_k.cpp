// Note [rank-k product]
// Rows of P are packed in panels as wide as a register tile is high, each panel depth-major: see Note [register
// tile] in tile.cpp. One packed form serves both sides of the product, and only pairs of panels on or below the
// diagonal are multiplied: half the work of a general product, where LAPACK's ssyrk is not exported by libtorch.
// The depth is cut so that a pair of panels stays in the first two cache levels.

#include "rank_k.h"

#include "aligned.h"

#include <algorithm>

namespace svdprune::cpu {

template <class T>
void rank_k_product(Crew& crew, int64_t n, int64_t depth, const FillPanel<T>& fill, T* values,
                    InstructionSet set) {
  const TileKernel<T> kernel = tile_kernel<T>(set);
  const int64_t width = kernel.width;
  const int64_t panels = (n + width - 1) / width;
  const int64_t panel_size = width * std::min(depth, kPanelDepth);
  const AlignedArray<T> packed = aligned_array<T>(panels * panel_size + width);
  const auto rows_of = [&](int64_t p) { return std::min(width, n - p * width); };

  const auto multiply_row = [&](int64_t p, int64_t deep, bool add) {
    const T* own = packed.get() + p * panel_size;
    for (int64_t q = 0; q < p; ++q) {
      kernel.multiply(deep, {own, width}, {packed.get() + q * panel_size, width}, add, rows_of(p),
                      rows_of(q), values + p * width + q * width * n, n);
    }
    // On the diagonal, from that down, a vector's width of columns at a time.
    for (int64_t j = 0; j < rows_of(p); j += kernel.lanes) {
      const int64_t rows = rows_of(p) - j;
      kernel.multiply(deep, {own + j, width}, {own + j, width}, add, rows,
                      std::min(rows, kernel.lanes), values + (p * width + j) * (n + 1), n);
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
