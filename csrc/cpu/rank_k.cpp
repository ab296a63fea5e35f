// Note [rank-k product]
// Rows of P are packed in panels as wide as a register tile is high, each panel depth-major: see Note [register
// tile] in tile.cpp. One packed form serves both sides of the product, and only pairs of panels on or below the
// diagonal are multiplied: half the work of a general product, where LAPACK's ssyrk is not exported by libtorch.
// The depth is cut so that a pair of panels stays in the first two cache levels.

#include "rank_k.h"

#include "aligned.h"

#include <algorithm>

namespace svdprune::cpu {

namespace {

constexpr int64_t kLeastSlice = 512;

template <class T>
void add_vector(int64_t n, const T* x, T* y) {
  for (int64_t i = 0; i < n; ++i) {
    y[i] += x[i];
  }
}

}  // namespace

template <class T>
void rank_k_product(Crew& crew, int64_t n, int64_t depth, const FillPanel<T>& fill, T* values,
                    InstructionSet set) {
  const TileKernel<T> kernel = tile_kernel<T>(set);
  const int64_t width = kernel.width;
  const int64_t panels = (n + width - 1) / width;
  const int64_t panel_size = width * std::min(depth, kPanelDepth);
  const int64_t slices = depth < kLeastSlice * 2 ? 1 : 2;
  const int64_t slice_depth =
      (depth / slices + kPanelDepth - 1) / kPanelDepth * kPanelDepth;  // the last one's may be less
  const int64_t packed_size = panels * panel_size + width;
  const AlignedArray<T> packed = aligned_array<T>(slices * packed_size);
  const AlignedArray<T> other = aligned_array<T>(slices > 1 ? n * n : 0);
  T* const sums[] = {values, other.get()};
  const auto rows_of = [&](int64_t p) { return std::min(width, n - p * width); };

  const auto multiply_row = [&](const T* packed_panels, T* sum, int64_t p, int64_t deep, bool add) {
    const T* own = packed_panels + p * panel_size;
    T* row = sum + p * width;
    for (int64_t q = 0; q < p; ++q) {
      kernel.multiply(deep, {own, width}, {packed_panels + q * panel_size, width}, add, rows_of(p),
                      rows_of(q), row + q * width * n, n);
    }
    // On the diagonal, from that down, a vector's width of columns at a time.
    for (int64_t j = 0; j < rows_of(p); j += kernel.lanes) {
      const int64_t rows = rows_of(p) - j;
      kernel.multiply(deep, {own + j, width}, {own + j, width}, add, rows,
                      std::min(rows, kernel.lanes), row + p * width * n + j * (n + 1), n);
    }
  };

  // Slices begin .. end, a panel's depth of each at a time.
  const auto multiply_slices = [&](int64_t begin, int64_t end) {
    for (int64_t k = 0; k < slice_depth; k += kPanelDepth) {
      const auto deep = [&](int64_t slice) {
        return std::clamp<int64_t>(depth - slice * slice_depth - k, 0, kPanelDepth);
      };
      crew.for_each((end - begin) * panels, [&](int64_t item) {
        const int64_t slice = begin + item / panels, p = item % panels;
        T* panel = packed.get() + (slice - begin) * packed_size + p * panel_size;
        if (rows_of(p) < width) {
          std::fill_n(panel, panel_size, T(0));
        }
        if (deep(slice) > 0) {
          fill({p * width, rows_of(p), slice * slice_depth + k, deep(slice), width}, panel);
        }
      });
      // A row of panels and its mirror image together, so that every item is the same work.
      const int64_t pairs = (panels + 1) / 2;
      crew.for_each((end - begin) * pairs, [&](int64_t item) {
        const int64_t slice = begin + item / pairs, p = item % pairs;
        const T* own = packed.get() + (slice - begin) * packed_size;
        multiply_row(own, sums[slice], p, deep(slice), k > 0);
        if (panels - 1 - p != p) {
          multiply_row(own, sums[slice], panels - 1 - p, deep(slice), k > 0);
        }
      });
    }
  };
  if (crew.is_alone()) {
    for (int64_t slice = 0; slice < slices; ++slice) {
      multiply_slices(slice, slice + 1);
    }
  } else {
    multiply_slices(0, slices);
  }
  if (slices > 1) {
    crew.for_each(panels, [&](int64_t p) {
      for (int64_t j = p * width; j < p * width + rows_of(p); ++j) {
        add_vector(n - j, other.get() + j * (n + 1), values + j * (n + 1));
      }
    });
  }
}

template void rank_k_product(Crew&, int64_t, int64_t, const FillPanel<float>&, float*,
                             InstructionSet);
template void rank_k_product(Crew&, int64_t, int64_t, const FillPanel<double>&, double*,
                             InstructionSet);

}  // namespace svdprune::cpu
