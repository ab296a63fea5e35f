// Columns of the Gram matrix X X^T, a few at a time, from the features themselves.
#pragma once

#include "crew.h"
#include "pack.h"

#include <vector>

namespace svdprune::cpu {

// Cheaper than the matrix while few of its columns are asked for. Each product is summed in an order of its own,
// whatever is made along with it and by how many threads: in float32 over 256 features at most, those sums in float64.
class RowProducts {
 public:
  // Copies the features where they cannot be read as they are, or not be squared: see Note [scaling]. `image` must
  // outlive this. Throws NotFinite.
  RowProducts(Crew& crew, const Image& image, Transform transform);

  int64_t tokens() const {
    return tokens_;
  }
  const std::vector<double>& diagonal() const {
    return squares_;
  }

  // products [N]. Where that column is not there yet, those of the tokens with the highest `worth` [N], which may be
  // asked for next, are made with it.
  void column(int64_t token, const double* worth, double* products);

 private:
  const float* row(int64_t token) const {
    return rows_ + token * stride_;
  }
  void read(const Image& image, const Transform& transform);
  void make(int64_t token, const double* worth);

  Crew& crew_;
  int64_t tokens_, features_;
  std::vector<float> packed_;
  const float* rows_ = nullptr;
  int64_t stride_ = 0;
  std::vector<double> squares_;
  std::vector<std::vector<double>> made_;  // columns [N], empty ones not there yet
};

}  // namespace svdprune::cpu
