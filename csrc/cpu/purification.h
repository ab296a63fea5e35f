// Purification: a symmetric matrix turned into a projector onto its leading eigenvectors by products alone.
#pragma once

#include "square_matrix.h"

#include <cstdint>
#include <optional>
#include <vector>

namespace svdprune::cpu {

constexpr int64_t kMostProducts = 600;

using Matrix = std::vector<double>;  // [n, n], symmetric

// A symmetric X with the eigenvalues 1, 0, and a fraction for directions of one eigenvalue of G.
struct Purified {
  Matrix x;
  int64_t whole;      // k, directions at 1
  int64_t split;      // m, directions at the fraction; 0 where X is a projector
  double energy;      // E_k = tr(P_k G)
  double eigenvalue;  // of the split directions

  // Of P_rank, whichever of the split directions it takes.
  double energy_of(int64_t rank) const {
    return energy + static_cast<double>(rank - whole) * eigenvalue;
  }
};

// The steps of Note [purification] in solver_purify.cpp, which has the mathematics. Members throw
// NeedsOtherSolver when more products than `most` would be taken.
class Purification {
 public:
  // gram: its lower triangle; not zero.
  Purification(const SquareMatrix<double>& gram, int64_t most);

  // G steered by tr(X) to `rank`: its projector, or a cut through one multiple eigenvalue.
  Purified to_rank(int64_t rank);

  // x, with a gap at `rank`, steered on to the projector.
  Matrix to_projector(Matrix x, int64_t rank);

  // The rank at which the energy reaches the threshold, or one near it: G steered by tr(X G).
  int64_t rank_near(double threshold);

  int64_t products() const {
    return products_;
  }

 private:
  Matrix start() const;
  Purified steer(Matrix x, int64_t rank);
  void multiply(const Matrix& a, const Matrix& b, Matrix& out);
  std::optional<Purified> read(Matrix& x, const Matrix& y, int64_t rank);
  bool is_one_eigenvalue(const Matrix& y, double norm, double eigenvalue);

  int64_t n_;
  Matrix g_;
  double norm_;  // ||G||_F
  int64_t most_;
  int64_t products_ = 0;
  int64_t next_test_ = 0;  // of the products, before which none is spent on a test
};

}  // namespace svdprune::cpu
