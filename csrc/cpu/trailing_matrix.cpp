// Note [delayed updates]
// A step of the reduction multiplies the trailing matrix by a vector and then takes a rank-2 update from it.
// Applied at once, the updates read and write the matrix in every step. Up to kDelay of them wait instead: products
// and the next column are corrected for them, which costs their length, and then the matrix takes all in one pass,
// by register tiles (Dongarra, Sorensen, Hammarling 1989; LAPACK's sytrd does the same with 32). The pass is joined to
// the product of that step, so each thread finds its columns in its own cache.
//
// A block on the diagonal whose first columns have left the matrix is still taken whole: vectors are 0 there. See Note
// [diagonal blocks] in symmetric_product.cpp.

#include "trailing_matrix.h"

#include "rows.h"
#include "vector.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace svdprune::cpu {

namespace {

constexpr int64_t kOrderPerPart = 128;
constexpr double kColumnCost = 50;  // elements

// Of the block that row or column i is in.
int64_t block_start(int64_t i) {
  return i / kDiagonalBlock * kDiagonalBlock;
}

}  // namespace

template <class T>
TrailingMatrix<T>::TrailingMatrix(Crew& crew, SquareMatrix<T>& a)
    : crew_(crew),
      a_(a),
      n_(a.n),
      kernel_(tile_kernel<T>(best_instruction_set())),
      add_symmetric_product_(symmetric_product<T>(best_instruction_set())),
      stride_(block_start(n_) + 2 * kDiagonalBlock + kernel_.width),
      updates_(aligned_zeros<T>(3 * kDelay * stride_)),
      products_(aligned_array<T>(kMostParts * stride_)) {
  for (int64_t j = 0; j < n_; ++j) {
    for (int64_t i = block_start(j); i < j; ++i) {
      a.column(j)[i] = a.at(j, i);
    }
  }
}

// The parts cost about as much each: a column its length and kColumnCost. Their products are summed in their order, so
// the result depends on the shape alone, not on the crew.
template <class T>
typename TrailingMatrix<T>::Parts TrailingMatrix<T>::cut() const {
  const int64_t start = block_start(first_);
  const double columns = static_cast<double>(n_ - start), length = columns + kColumnCost;
  const double cost = columns * (columns / 2 + kColumnCost);
  Parts parts;
  parts.count = static_cast<int>(std::clamp<int64_t>((n_ - first_) / kOrderPerPart, 1, kMostParts));
  for (int part = 0; part < parts.count; ++part) {
    const double before = length - std::sqrt(length * length - 2 * cost * part / parts.count);
    parts.begin[part] = start + block_start(static_cast<int64_t>(before) + kDiagonalBlock / 2);
  }
  parts.begin[parts.count] = n_;
  return parts;
}

template <class T>
Rows<T> TrailingMatrix<T>::rows(int64_t group) const {
  return {updates_.get() + group * kDelay * stride_, stride_};
}

template <class T>
void TrailingMatrix<T>::apply(int64_t begin, int64_t end) {
  const Rows<T> left = rows(0), right = rows(1);
  for (int64_t block = begin; block < end; block += kDiagonalBlock) {
    const int64_t columns = std::min(kDiagonalBlock, n_ - block);
    for (int64_t i = block; i < n_; i += kernel_.width) {
      kernel_.multiply(2 * kDelay, {left.values + i, stride_}, {right.values + block, stride_},
                       true, std::min(kernel_.width, n_ - i), columns, a_.column(block) + i, a_.ld);
    }
  }
}

template <class T>
T* TrailingMatrix<T>::take_column() {
  const int64_t k = first_++;
  T* column = a_.column(k);
  T v[kDelay], u[kDelay];
  for (int64_t l = 0; l < pending_; ++l) {
    v[l] = std::exchange(entry(0, l, k), T(0));
    u[l] = std::exchange(entry(1, l, k), T(0));
    entry(2, l, k) = 0;
  }
  add_rows(rows(0), pending_, u, block_start(k), n_, column);
  add_rows(rows(1), pending_, v, block_start(k), n_, column);
  for (int64_t l = 0; l < pending_; ++l) {
    column[k] += 2 * u[l] * v[l];
  }
  return column;
}

template <class T>
void TrailingMatrix<T>::subtract(const T* v, const T* w) {
  const int64_t start = block_start(first_), left = n_ - start;
  std::copy_n(v + start, left, &entry(0, pending_, start));
  combine(-1, w + start, 0, w + start, left, &entry(1, pending_, start));
  std::copy_n(v + start, left, &entry(2, pending_, start));
  ++pending_;
}

template <class T>
void TrailingMatrix<T>::multiply(const T* x, T* y) {
  const bool full = pending_ == kDelay;
  const Parts parts = cut();
  crew_.phase(parts.count, [&](int part) {
    const int64_t from = parts.begin[part], to = parts.begin[part + 1];
    if (full) {
      apply(from, to);
    }
    T* product = products_.get() + part * stride_;
    std::fill(product + from, product + n_, T(0));
    add_symmetric_product_(n_, from, to, a_.values.get(), a_.ld, x, product);
  });
  const int64_t start = block_start(first_);
  std::copy(products_.get() + start, products_.get() + n_, y + start);
  for (int part = 1; part < parts.count; ++part) {
    const T once = 1;
    add_rows({products_.get() + part * stride_, stride_}, 1, &once, parts.begin[part], n_, y);
  }
  if (full) {
    pending_ = 0;
    return;
  }
  T factors[kDelay];
  for (const int group : {0, 1}) {
    multiply_rows(rows(group), pending_, x, start, n_, factors);
    add_rows(rows(1 - group), pending_, factors, start, n_, y);
  }
}

template <class T>
const T* TrailingMatrix<T>::column(int64_t j) {
  if (pending_ > 0) {
    for (const int group : {0, 1, 2}) {
      std::fill_n(&entry(group, pending_, 0), (kDelay - pending_) * stride_, T(0));
    }
    const Parts parts = cut();
    crew_.phase(parts.count, [&](int part) { apply(parts.begin[part], parts.begin[part + 1]); });
    pending_ = 0;
  }
  return a_.column(j);
}

template class TrailingMatrix<float>;
template class TrailingMatrix<double>;

}  // namespace svdprune::cpu
