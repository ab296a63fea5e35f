// Purification: a symmetric matrix turned into a projector onto its leading eigenvectors by products alone.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace svdprune::cpu {

using Matrix = std::vector<double>;  // [n, n], symmetric

// What X is steered to: tr(X), or tr(X G).
struct Target {
  enum class Kind { kCount, kEnergy } kind;
  double value;

  static Target count(int64_t rank) {
    return {Kind::kCount, static_cast<double>(rank)};
  }

  static Target energy(double threshold) {
    return {Kind::kEnergy, threshold};
  }
};

// Of an X with the eigenvalues 1, 0, and a fraction where they belong to one eigenvalue of G.
struct PurifiedCut {
  int64_t whole = 0;      // k, directions at 1
  int64_t split = 0;      // m, directions at the fraction; 0 where X is a projector
  double energy = 0;      // E_k
  double eigenvalue = 0;  // lambda, of the split directions

  double energy_of(int64_t rank) const {
    return energy + static_cast<double>(rank - whole) * eigenvalue;
  }
};

// The steps of Note [purification] in solver_purify.cpp, which has the mathematics. Members throw
// NotSeparated when more than 500 products have been taken, or a projector has not the rank asked for.
class Purification {
 public:
  // gram: [n, n], column-major, lower triangle; not zero.
  Purification(int64_t n, const double* gram);

  // X before the first step.
  Matrix start() const;

  // Takes x on until it is a projector, or until the target cuts one eigenvalue of G. A cut by energy may be
  // of one direction; a count, being whole, cuts a multiple eigenvalue only.
  PurifiedCut steer(Matrix& x, const Target& target);

  // The projector that x, which has a gap at `rank`, is on the way to.
  Matrix projector(Matrix x, int64_t rank);

  // tr(x G).
  double energy(const Matrix& x) const;

  int64_t products() const {
    return products_;
  }

 private:
  void multiply(const Matrix& a, const Matrix& b, Matrix& out);
  double excess(const Matrix& x, const Target& target) const;
  std::optional<PurifiedCut> read(const Matrix& x, const Matrix& y, const Target& target);
  bool is_one_eigenvalue(const Matrix& y, double norm, double eigenvalue);

  int64_t n_;
  Matrix g_;
  double norm_;  // ||G||_F
  int64_t products_ = 0;
  int64_t next_test_ = 0;  // of the products, before which none is spent on a test
};

}  // namespace svdprune::cpu
