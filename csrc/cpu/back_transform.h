// From eigenvectors of the tridiagonal matrix to those of the matrix it was reduced from.
#pragma once

#include "crew.h"
#include "square_matrix.h"
#include "tile.h"

#include <cstdint>
#include <vector>

namespace svdprune::cpu {

// Q = H_0 H_1 ... H_count-1, H_k = I - tau[k] v_k v_k^T, to be multiplied by.
template <class T>
class BackTransform {
 public:
  // v_k stands in column k of `reflectors`, below the diagonal, its leading 1 in row k + 1. What stands above it within
  // 32 columns is set to zero; the matrix must outlive this object.
  BackTransform(Crew& crew, SquareMatrix<T>& reflectors, int64_t count, const T* tau);

  // basis [n, columns] <- Q basis.
  void apply(Crew& crew, int64_t columns, T* basis) const;

 private:
  struct Workspace;
  void apply_block(int64_t block, Workspace& work) const;

  const int64_t n_, count_;
  const SquareMatrix<T>& reflectors_;
  const TileKernel<T> kernel_;
  std::vector<T> factors_;  // the triangular factor of each block
};

}  // namespace svdprune::cpu
