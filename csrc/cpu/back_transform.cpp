// Note [compact WY]
// The product of b reflectors is I - V T V^T, V [n, b] their vectors and T [b, b] upper triangular (Schreiber,
// Van Loan 1989), so that a block of them is applied by matrix products, here of register tiles. T is found once,
// for all threads and all calls. A thread takes some columns of the basis as a panel, a row of the basis after the
// other, through all blocks; of V it transposes a block at a time.

#include "back_transform.h"

#include "aligned.h"
#include "blas.h"
#include "interleave.h"

#include <algorithm>

namespace svdprune::cpu {

namespace {

constexpr int64_t kReflectors = 32;  // of a block

int64_t blocks_of(int64_t reflectors) {
  return (reflectors + kReflectors - 1) / kReflectors;
}

// -T, from products = V^T V.
template <class T>
void negative_factor(int64_t size, const T* products, const T* tau, T* factor) {
  for (int64_t j = 0; j < size; ++j) {
    T* column = factor + j * size;
    std::fill_n(column, size, T(0));
    column[j] = -tau[j];
    for (int64_t k = 0; k < j; ++k) {
      const T scale = tau[j] * products[k + j * size];
      for (int64_t i = 0; i <= k; ++i) {
        column[i] -= scale * factor[i + k * size];
      }
    }
  }
}

}  // namespace

template <class T>
BackTransform<T>::BackTransform(Crew& crew, SquareMatrix<T>& reflectors, int64_t count,
                                const T* tau)
    : n_(reflectors.n),
      count_(count),
      reflectors_(reflectors),
      kernel_(tile_kernel<T>(best_instruction_set())),
      factors_(blocks_of(count) * kReflectors * kReflectors) {
  crew.for_each(blocks_of(count), [&](int64_t block) {
    const int64_t first = block * kReflectors, size = std::min(kReflectors, count - first);
    const int64_t ld = reflectors.ld;
    T* v = reflectors.column(first) + first + 1;
    for (int64_t j = 0; j < size; ++j) {
      std::fill_n(v + j * ld, j, T(0));
      v[j * (ld + 1)] = 1;
    }
    T products[kReflectors * kReflectors];
    gemm<T>('T', 'N', size, size, n_ - first - 1, v, ld, v, ld, 0, products, size);
    negative_factor(size, products, tau + first,
                    factors_.data() + block * kReflectors * kReflectors);
  });
}

// What a thread works in. The panel holds `columns` columns of the basis, transposed, the width of
// a tile apart.
template <class T>
struct BackTransform<T>::Workspace {
  int64_t columns;
  AlignedArray<T> panel;       // [n, width]
  AlignedArray<T> transposed;  // V^T of a block: [n, kReflectors]
  AlignedArray<T> products;    // [2, kReflectors, width]
};

template <class T>
void BackTransform<T>::apply_block(int64_t block, Workspace& work) const {
  const int64_t first = block * kReflectors, size = std::min(kReflectors, count_ - first);
  const int64_t height = n_ - first - 1, columns = work.columns, width = kernel_.width;
  const T* v = reflectors_.column(first) + first + 1;
  const T* factor = factors_.data() + block * kReflectors * kReflectors;
  T* rows = work.panel.get() + (first + 1) * width;
  T* product = work.products.get();
  T* scaled = product + kReflectors * width;
  interleave(v, size, reflectors_.ld, height, work.transposed.get(), kReflectors);
  kernel_.multiply(height, {rows, width}, {work.transposed.get(), kReflectors}, false, columns,
                   size, product, width);
  kernel_.multiply(size, {product, width}, {factor, size}, false, columns, size, scaled, width);
  kernel_.multiply(size, {scaled, width}, {v, reflectors_.ld}, true, columns, height, rows, width);
}

template <class T>
void BackTransform<T>::apply(Crew& crew, int64_t columns, T* basis) const {
  // A part has whole vectors of columns, as many as a tile is high at most, and all parts about as many.
  const int64_t vectors = (columns + kernel_.lanes - 1) / kernel_.lanes;
  const int64_t parts = (columns + kernel_.width - 1) / kernel_.width;
  const auto begin = [&](int64_t part) {
    return std::min(columns, part * vectors / parts * kernel_.lanes);
  };
  crew.for_each(parts, [&](int64_t part) {
    const int64_t own = begin(part + 1) - begin(part);
    T* mine = basis + begin(part) * n_;
    const int64_t width = kernel_.width;
    Workspace work{(own + kernel_.lanes - 1) / kernel_.lanes * kernel_.lanes,
                   aligned_array<T>(n_ * width), aligned_array<T>(n_ * kReflectors),
                   aligned_array<T>(2 * kReflectors * width)};
    std::fill_n(work.panel.get(), n_ * width, T(0));
    interleave(mine, own, n_, n_, work.panel.get(), width);
    for (int64_t block = blocks_of(count_) - 1; block >= 0; --block) {
      apply_block(block, work);
    }
    interleave(work.panel.get(), n_, width, own, mine, n_);
  });
}

template class BackTransform<float>;
template class BackTransform<double>;

}  // namespace svdprune::cpu
