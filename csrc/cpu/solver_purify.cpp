// Solver "purify": the projector onto the leading eigenvectors by matrix products alone, a cross-check of the
// solvers that compute eigenvalues. Plain, and in float64 throughout.
//
// Note [purification]
// The projector P_r onto the r leading eigenvectors of G is a step function of G. It is built up of steps
// x -> x^2 and x -> 2x - x^2, which keep eigenvectors and the order of eigenvalues, map [0, 1] into itself and
// have 0 and 1 as fixed points, one drawing in each (Palser, Manolopoulos 1998; SP2, Niklasson 2002).
//
// Start. lambda_1 <= min(||G||_F, ||G||_inf) = b and, up to rounding, lambda_n >= 0, so that with s = n eps b
//   X = (G + s) / (2 (b + s)) has its spectrum in (0, 1/2].
//
// Steering. Of the two steps the one is taken that leaves tr(X G) nearer to variance * tr(G). Whatever is
// above the cut goes to 1 and whatever is below goes to 0; lambda_r alone stays between, as the threshold is
// reached with a fraction x_r of it: E_r-1 < tr(X G) = E_r-1 + x_r lambda_r < E_r. Steering by tr(X) to a whole
// number r instead converges, quadratically in the end, to P_r.
//
// Reading the cut. Y = X - X^2 has the eigenvalues w = x (1 - x), and with them
//   m = tr(Y)^2 / ||Y||_F^2   is the number of fractions, if they are equal, and else no whole number;
//   x = tr(X Y) / tr(Y)       is their value, and lambda = tr(Y G) / tr(Y) their eigenvalue of G;
//   k = tr(X) - m x           is how many are 1, and E_k = tr(X G) - m x lambda what these hold.
// The cut is found when m and k are whole numbers. With m > 1 the fractions may still part, unless they belong
// to one multiple eigenvalue, as ||Y G - lambda Y||_F at the level of rounding says. Then
//   r = k + ceil((variance * tr(G) - E_k) / lambda)
// is the smallest rank that reaches the threshold. If r = k + m, X steered on by tr(X) is P_r, and both sides
// are checked again: tr(P_r G) reaches the threshold and tr(P_r G) - lambda_r does not. If r < k + m the
// projector is not defined, and any r - k directions of the multiple eigenvalue serve, next to all of P_k.
//
// If E_r equals the threshold to rounding, no fraction is left, and X becomes a projector of a rank that
// rounding decides. The ranks about it are then tried one after the other, by tr(X).
//
// From the projector to the basis. A projector's Cholesky factor with pivots, P = L L^T with L [n, r], is
// orthonormal: L L^T L L^T = L L^T. Its pivots are at least 1 / n, as what is left of P after j columns is a
// projector of rank r - j.
//
// Each step parts the eigenvalues next to the cut by a factor of 1 to 2. A gap of 1e-7 lambda_1 took 130 to 230
// products, an ordinary one 20 to 60. After 500 "eigh" takes over.
//
// Always on the tokens' side, as a projector has no eigenvalues to whiten with. Memory, in N x N matrices of
// float64: G, X, Y, and a product or a copy of X.

#include "purification.h"
#include "spectrum.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <utility>

namespace svdprune::cpu {

namespace {

constexpr double kReached = 1 - 1e-13;  // share of the threshold that counts as all of it

// p [n, n] = L L^T: L [n, rank] into basis.
void pivoted_cholesky(const Matrix& p, int64_t n, int64_t rank, double* basis) {
  Matrix left(n);  // the diagonal of what is left of P
  for (int64_t i = 0; i < n; ++i) {
    left[i] = p[i * (n + 1)];
  }
  for (int64_t j = 0; j < rank; ++j) {
    const int64_t pivot = std::max_element(left.begin(), left.end()) - left.begin();
    const double value = left[pivot];
    if (!(value > 0.5 * static_cast<double>(rank - j) / static_cast<double>(n))) {
      throw NotSeparated();
    }
    double* column = basis + j * n;
    std::copy_n(p.data() + pivot * n, n, column);
    for (int64_t k = 0; k < j; ++k) {
      const double* earlier = basis + k * n;
      const double factor = earlier[pivot];
      for (int64_t i = 0; i < n; ++i) {
        column[i] -= factor * earlier[i];
      }
    }
    const double scale = 1 / std::sqrt(value);
    for (int64_t i = 0; i < n; ++i) {
      column[i] *= scale;
      left[i] -= column[i] * column[i];
    }
  }
}

// The smallest rank whose energy reaches the threshold, and what it was read from: P_r, or a cut through a
// multiple eigenvalue. Both sides are checked: P_r reaches it, and P_r-1 does not.
std::pair<int64_t, Purified> by_energy(Purification& purification, int64_t n, double threshold) {
  int64_t rank = purification.rank_near(threshold);
  while (rank > 1 && purification.to_rank(rank - 1).energy_of(rank - 1) >= threshold) {
    --rank;
  }
  Purified result = purification.to_rank(rank);
  while (rank < n && result.energy_of(rank) < threshold) {
    result = purification.to_rank(++rank);
  }
  return {rank, std::move(result)};
}

// Columns [n, rank] that span the leading directions, into basis.
void span(Purification& purification, Purified result, int64_t rank, int64_t n, double* basis) {
  if (result.split == 0) {
    pivoted_cholesky(result.x, n, rank, basis);
    return;
  }
  Matrix split = purification.to_projector(result.x, result.whole + result.split);
  const Matrix whole = purification.to_projector(std::move(result.x), result.whole);
  std::transform(split.begin(), split.end(), whole.begin(), split.begin(), std::minus<>());
  pivoted_cholesky(whole, n, result.whole, basis);
  pivoted_cholesky(split, n, rank - result.whole, basis + n * result.whole);
}

}  // namespace

Spectrum<double> solve_purify(Gram<double> gram, const Options& options) {
  const int64_t n = gram.n;
  Purification purification(n, gram.values.get());
  gram.values.reset();
  auto [rank, result] = options.rank
                            ? std::pair(*options.rank, purification.to_rank(*options.rank))
                            : by_energy(purification, n, kReached * options.variance * gram.trace);
  std::unique_ptr<double[]> storage(new double[n * rank]);
  double* basis = storage.get();
  span(purification, std::move(result), rank, n, basis);
  return Spectrum<double>{
      .side = gram.side,
      .n = n,
      .rank = rank,
      .eigenvalues = {},
      .storage = std::move(storage),
      .basis = basis,
      .columns = rank,
      .complement = false,
      .transform = std::move(gram.transform),
      .steps = purification.products(),
      .solver = Solver::kPurify,
      .cut = {},
  };
}

}  // namespace svdprune::cpu
