// Note [rank-k product]
// Rows of P are packed in panels as wide as a register tile is high, each panel depth-major: see Note [register
// tile] in tile.cpp. One packed form serves both sides of the product, and only pairs of panels on or below the
// diagonal are multiplied: half the work of a general product, where LAPACK's ssyrk is not exported by libtorch.
// The depth is cut so that a pair of panels stays in the first two cache levels.
//
// A great depth is cut in two slices first, each with a sum of its own: two threads then have a slice each and share no
// packed panels, which would have to travel from one's cache to the other's. The slices are there for one thread too, one
// after the other, so that the sums are the same.

#include "rank_k.h"

#include "aligned.h"

#include <algorithm>

namespace svdprune::cpu {

namespace {

// For two slices. A larger order multiplies a panel so often that its way to another cache does not show.
constexpr int64_t kLeastDepth = 4 * kPanelDepth, kMostOrder = 1024;

int64_t round_up(int64_t value, int64_t unit) {
  return (value + unit - 1) / unit * unit;
}

}  // namespace

template <class T>
void rank_k_product(Crew& crew, int64_t depth, const FillPanel<T>& fill, SquareMatrix<T>& product,
                    InstructionSet set) {
  const int64_t n = product.n, ld = product.ld;
  const TileKernel<T> kernel = tile_kernel<T>(set);
  const int64_t width = kernel.width, panels = (n + width - 1) / width;
  const int64_t panel_size = width * std::min(depth, kPanelDepth);
  const int64_t packed_size = panels * panel_size + width;
  const int64_t slices = depth >= kLeastDepth && n <= kMostOrder ? 2 : 1;
  const int64_t slice_depth = round_up(depth, slices * kPanelDepth) / slices;
  const int64_t at_once = crew.is_alone() ? 1 : slices;
  // One piece of memory, which malloc keeps for the next call where it returns several to the system.
  const AlignedArray<T> memory = aligned_array<T>(at_once * packed_size + (slices - 1) * n * ld);
  T* const packed = memory.get();
  T* const second = packed + at_once * packed_size;
  const auto rows_of = [&](int64_t p) { return std::min(width, n - p * width); };

  const auto multiply_row = [&](const T* packed_slice, int64_t p, int64_t deep, bool add, T* sum) {
    const T* own = packed_slice + p * panel_size;
    T* row = sum + p * width;
    for (int64_t q = 0; q < p; ++q) {
      kernel.multiply(deep, {own, width}, {packed_slice + q * panel_size, width}, add, rows_of(p),
                      rows_of(q), row + q * width * ld, ld);
    }
    // On the diagonal, from that down, a vector's width of columns at a time.
    for (int64_t j = 0; j < rows_of(p); j += kernel.lanes) {
      const int64_t rows = rows_of(p) - j;
      kernel.multiply(deep, {own + j, width}, {own + j, width}, add, rows,
                      std::min(rows, kernel.lanes), row + p * width * ld + j * (ld + 1), ld);
    }
  };

  for (int64_t first = 0; first < slices; first += at_once) {
    for (int64_t k = 0; k < slice_depth; k += kPanelDepth) {
      const auto begin = [&](int64_t slice) { return (first + slice) * slice_depth + k; };
      const auto deep = [&](int64_t slice) {
        return std::clamp<int64_t>(depth - begin(slice), 0, kPanelDepth);
      };
      crew.for_each(at_once * panels, [&](int64_t item) {
        const int64_t slice = item / panels, p = item % panels;
        T* panel = packed + slice * packed_size + p * panel_size;
        if (deep(slice) == 0) {
          return;
        }
        if (rows_of(p) < width) {
          std::fill_n(panel, panel_size, T(0));
        }
        fill({p * width, rows_of(p), begin(slice), deep(slice), width}, panel);
      });
      // A row of panels and its mirror image together, so that every item is the same work.
      const int64_t pairs = (panels + 1) / 2;
      crew.for_each(at_once * pairs, [&](int64_t item) {
        const int64_t slice = item / pairs, p = item % pairs, mirror = panels - 1 - p;
        T* sum = first + slice == 0 ? product.values.get() : second;
        if (deep(slice) == 0) {
          return;
        }
        multiply_row(packed + slice * packed_size, p, deep(slice), k > 0, sum);
        if (mirror != p) {
          multiply_row(packed + slice * packed_size, mirror, deep(slice), k > 0, sum);
        }
      });
    }
  }
  if (slices == 2) {
    crew.for_each(panels, [&](int64_t p) {
      for (int64_t j = p * width; j < p * width + rows_of(p); ++j) {
        const T once = 1;
        add_rows({second + j * ld, ld}, 1, &once, j, n, product.column(j));
      }
    });
  }
}

template void rank_k_product(Crew&, int64_t, const FillPanel<float>&, SquareMatrix<float>&,
                             InstructionSet);
template void rank_k_product(Crew&, int64_t, const FillPanel<double>&, SquareMatrix<double>&,
                             InstructionSet);

}  // namespace svdprune::cpu
