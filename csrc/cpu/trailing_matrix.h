// What the reduction has yet to reduce: a symmetric matrix that loses a row and a column a step, and takes its
// rank-2 updates some at a time.
#pragma once

#include "aligned.h"
#include "crew.h"
#include "square_matrix.h"
#include "symmetric_product.h"
#include "tile.h"

#include <cstdint>

namespace svdprune::cpu {

// Holds the lower triangle of a [n, n]. Rows and columns from first() on are left; vectors are indexed as a
// is, and must be 0 before first(). See Note [delayed updates].
template <class T>
class TrailingMatrix {
 public:
  TrailingMatrix(Crew& crew, SquareMatrix<T>& a);

  int64_t order() const {
    return n_;
  }
  int64_t first() const {
    return first_;
  }

  // Column first(), from its diagonal on, with all updates; row and column leave the matrix.
  T* take_column();

  // a -= v w^T + w v^T. A product, which takes kDelay updates into the matrix, must follow before the next.
  void subtract(const T* v, const T* w);

  // y = a x.
  void multiply(const T* x, T* y);

  // Column j >= first(), of which the entries below the diagonal and on it count. Brings all columns up to date.
  const T* column(int64_t j);

 private:
  static constexpr int64_t kDelay = 8;
  static constexpr int kMostParts = 8;

  // The columns that are left, cut into parts: begin[part] .. begin[part + 1].
  struct Parts {
    int count;
    int64_t begin[kMostParts + 1];
  };

  Parts cut() const;
  Rows<T> rows(int64_t group) const;
  T& entry(int64_t group, int64_t l, int64_t i) {
    return updates_[(group * kDelay + l) * stride_ + i];
  }
  // The updates to columns begin .. end, which are whole blocks.
  void apply(int64_t begin, int64_t end);

  Crew& crew_;
  SquareMatrix<T>& a_;
  int64_t n_, first_ = 0;
  TileKernel<T> kernel_;
  SymmetricProduct<T>* add_symmetric_product_;
  int64_t stride_;       // of updates_ and products_
  int64_t pending_ = 0;  // updates that wait
  // Three groups of kDelay rows: V, -W and V again. The first two are V and -W, the last two -W and V: the sum of the
  // updates is one product of the former and the latter.
  AlignedArray<T> updates_;
  AlignedArray<T> products_;  // a row for each part
};

}  // namespace svdprune::cpu
