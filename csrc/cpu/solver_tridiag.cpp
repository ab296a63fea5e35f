// Solver "tridiag": Householder tridiagonalisation that stops as soon as a certificate says that
// the leading subspace is there, eigenpairs of the tridiagonal matrix in float64, and the way back.
//
// Note [certificate]
// After m steps Q^T G Q = [T_m, e; e^T, R], with a single coupling e_m between T_m's last row and
// R's first. With Ritz pairs (theta_j, z_j) of T_m, the r leading ones are G's to the tolerance eps
// when
//  (i)   their sum reaches variance * trace(G) (a given rank needs m > r instead);
//  (ii)  ||e_m z_last,1..r|| < eps (theta_r - theta_r+1): the residual over the gap bounds the sine
//  of the
//        angle between the subspaces (Davis, Kahan 1970), and with it the error of any leverage;
//  (iii) ||R||_F + e_m < theta_r: no eigenvalue above theta_r hides in R. The norm is taken of R
//  itself;
//        ||G||_F^2 - ||T_m||_F^2 would cancel.
// At m = n all hold with nothing left over, so a spectrum without a gap gets the full reduction.

#include "blas.h"
#include "spectrum.h"
#include "tridiagonal_eigen.h"
#include "tridiagonalise.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

namespace svdprune::cpu {

namespace {

constexpr int64_t kFirstCheck = 16;
constexpr double kCheckGrowth = 1.4;
constexpr double kLastCheck = 0.5;    // of n: past it, going on to the end costs less than failing
constexpr double kClusterGap = 1e-5;  // of the largest eigenvalue
constexpr double kMostOverlap = 0.9999;  // cosine with a cluster's earlier vectors

// eps of the certificate: well under the accuracy promised for the scores.
template <class T>
constexpr double kTolerance = sizeof(T) == sizeof(float) ? 1e-4 : 1e-11;

std::vector<int64_t> check_steps(int64_t n, const Options& options) {
  std::vector<int64_t> steps;
  const int64_t least = options.rank.value_or(0) + 8;
  for (double m = kFirstCheck; m <= kLastCheck * n; m *= kCheckGrowth) {
    if (static_cast<int64_t>(m) >= least) {
      steps.push_back(static_cast<int64_t>(m));
    }
  }
  return steps;
}

// The last component of a unit eigenvector of T_m.
double last_component(const std::vector<double>& diagonal, const std::vector<double>& coupling,
                      double eigenvalue, std::vector<double>& z) {
  tridiagonal_eigenvector(diagonal, coupling, eigenvalue, z.data());
  return z.back();
}

// Parts (i) to (iii), cheapest first.
template <class T>
bool certified(const Tridiagonal<T>& reduced, const Remainder<T>& remainder, double trace,
               const Options& options) {
  const int64_t m = reduced.steps;
  double captured = 0;
  for (const double value : reduced.diagonal) {
    captured += value;
  }
  if (!options.rank && captured < options.variance * trace) {
    return false;
  }
  const std::vector<double> ritz = tridiagonal_eigenvalues(reduced.diagonal, reduced.coupling);
  if (ritz.empty()) {
    return false;
  }
  const int64_t rank =
      options.rank.value_or(rank_for_variance(ritz.data(), m, options.variance, trace));
  if (rank >= m) {
    return false;
  }
  const double coupling = std::fabs(reduced.coupling.back());
  const double gap = ritz[rank - 1] - ritz[rank];
  std::vector<double> z(m);
  double residual = 0;
  for (int64_t j = 0; j < rank; ++j) {
    residual = std::hypot(
        residual, coupling * last_component(reduced.diagonal, reduced.coupling, ritz[j], z));
    if (!(residual < kTolerance<T> * gap)) {
      return false;
    }
  }
  return remainder.frobenius_norm() + coupling < ritz[rank - 1];
}

// Eigenvectors of T_m for its `rank` leading eigenvalues (descending) as the leading rows of basis
// [n, rank], zeros below. False if two of one cluster could not be told apart.
template <class T>
bool leading_eigenvectors(const Tridiagonal<T>& reduced, const std::vector<double>& eigenvalues,
                          int64_t n, int64_t rank, T* basis) {
  const int64_t m = reduced.steps;
  const double cluster = kClusterGap * eigenvalues[0];
  std::vector<double> z(m);
  for (int64_t j = 0; j < rank; ++j) {
    tridiagonal_eigenvector(reduced.diagonal, reduced.coupling, eigenvalues[j], z.data());
    for (int64_t i = j - 1; i >= 0 && eigenvalues[i] - eigenvalues[j] < cluster; --i) {
      const T* earlier = basis + i * n;
      double overlap = 0;
      for (int64_t k = 0; k < m; ++k) {
        overlap += earlier[k] * z[k];
      }
      double left = 0;
      for (int64_t k = 0; k < m; ++k) {
        z[k] -= overlap * earlier[k];
        left += z[k] * z[k];
      }
      if (!(left > 1 - kMostOverlap * kMostOverlap)) {
        return false;
      }
      for (int64_t k = 0; k < m; ++k) {
        z[k] /= std::sqrt(left);
      }
    }
    T* column = basis + j * n;
    std::transform(z.begin(), z.end(), column, [](double value) { return static_cast<T>(value); });
    std::fill(column + m, column + n, T(0));
  }
  return true;
}

}  // namespace

template <class T>
Spectrum<T> solve_tridiag(Gram<T> gram, const Options& options) {
  const int64_t n = gram.n;
  const auto enough = [&](const Tridiagonal<T>& reduced, const Remainder<T>& remainder) {
    return certified(reduced, remainder, gram.trace, options);
  };
  const Tridiagonal<T> reduced =
      tridiagonalise<T>(n, gram.values.get(), check_steps(n, options), enough);
  const std::vector<double> ritz = tridiagonal_eigenvalues(reduced.diagonal, reduced.coupling);

  if (ritz.empty()) {
    throw NotSeparated();
  }
  double total = gram.trace;
  if (reduced.steps == n) {
    total = 0;
    for (const double value : ritz) {
      total += std::max(value, 0.0);
    }
  }
  const int64_t rank = options.rank.value_or(std::min(
      reduced.steps, rank_for_variance(ritz.data(), reduced.steps, options.variance, total)));

  std::unique_ptr<T[]> basis(new T[n * rank]);
  if (!leading_eigenvectors(reduced, ritz, n, rank, basis.get())) {
    throw NotSeparated();
  }
  apply_reflectors(n, rank, reduced.steps - 1, gram.values.get(), reduced.tau.data(), basis.get());
  T* columns = basis.get();
  return Spectrum<T>{
      .side = gram.side,
      .n = n,
      .rank = rank,
      .eigenvalues = std::vector<T>(ritz.begin(), ritz.begin() + rank),
      .storage = std::move(basis),
      .basis = columns,
      .transform = std::move(gram.transform),
      .steps = reduced.steps,
  };
}

template Spectrum<float> solve_tridiag(Gram<float>, const Options&);
template Spectrum<double> solve_tridiag(Gram<double>, const Options&);

}  // namespace svdprune::cpu
