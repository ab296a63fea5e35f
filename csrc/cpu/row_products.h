// Columns of the Gram matrix X X^T, one at a time, from the features themselves.
#pragma once

#include "crew.h"
#include "pack.h"

#include <vector>

namespace svdprune::cpu {

// Sums in float64. Cheaper than the matrix while few of its columns are asked for.
template <class T>
class RowProducts {
 public:
  // Copies the features where they cannot be read as they are. `image` must outlive this.
  RowProducts(Crew& crew, const Image& image, const Transform& transform);

  int64_t tokens() const {
    return tokens_;
  }
  void diagonal(double* squares) const;                // [N]
  void column(int64_t token, double* products) const;  // [N]

 private:
  const T* row(int64_t token) const {
    return rows_ + token * stride_;
  }

  Crew& crew_;
  int64_t tokens_, features_;
  std::vector<T> packed_;
  const T* rows_;
  int64_t stride_;
};

}  // namespace svdprune::cpu
