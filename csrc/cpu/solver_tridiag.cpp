// Solver "tridiag": Householder tridiagonalisation that stops as soon as a certificate says that
// the leading subspace is there, eigenpairs of the tridiagonal matrix in float64, and the way back.
//
// Note [certificate]
// After m steps Q^T G Q = [T_m, e; e^T, R], with a single coupling e_m between T_m's last row and
// R's first. With Ritz pairs (theta_j, z_j) of T_m, the r leading ones are G's to the tolerance eps
// when
//  (i)   their sum reaches variance * trace(G) (a given rank needs m > r instead);
//  (ii)  ||e_m z_last,1..r|| < eps (theta_r - theta_r+1): the residual over the gap bounds the
//        sine of the angle between the subspaces (Davis, Kahan 1970), and with it the error of any
//        leverage;
//  (iii) a bound on R's largest eigenvalue, plus e_m, is below theta_r: no eigenvalue above theta_r
//        hides in R. It is taken of R itself; ||G||_F^2 - ||T_m||_F^2 would cancel.
// At m = n all hold with nothing left over, so a spectrum without a gap gets the full reduction.

#include "blas.h"
#include "spectrum.h"
#include "tridiagonal_eigen.h"
#include "tridiagonalise.h"

#include <algorithm>
#include <cmath>

namespace svdprune::cpu {

namespace {

constexpr int64_t kFirstCheck = 16;
constexpr double kCheckGrowth = 1.25;
constexpr double kLastCheck = 0.5;    // of n: past it, going on to the end costs less than failing
constexpr double kClusterGap = 1e-5;  // of the largest eigenvalue
constexpr double kNarrowGap = 5e-4;   // of the largest eigenvalue
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

// ||e z_last||^2 over the `rank` leading eigenvectors of T_m, or anything above `limit`.
double residual_square(const std::vector<double>& diagonal, const std::vector<double>& coupling,
                       const std::vector<double>& eigenvalues, int64_t rank, double limit) {
  const int64_t m = diagonal.size();
  std::vector<double> z(m * kLanes);
  double square = 0;
  for (int64_t j = 0; j < rank && square <= limit; j += kLanes) {
    const int64_t count = std::min(kLanes, rank - j);
    tridiagonal_eigenvectors(diagonal, coupling, eigenvalues.data() + j, count, z.data());
    for (int64_t lane = 0; lane < count; ++lane) {
      square += std::pow(coupling.back() * z[(m - 1) * kLanes + lane], 2);
    }
  }
  return square;
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
  const double limit = std::pow(kTolerance<T> * (ritz[rank - 1] - ritz[rank]), 2);
  return residual_square(reduced.diagonal, reduced.coupling, ritz, rank, limit) < limit &&
         remainder.largest_eigenvalue_bound() + coupling < ritz[rank - 1];
}

// Takes a cluster's earlier vectors, columns of basis [n, j], out of unit z [m]. False if hardly
// anything is left.
template <class T>
bool separate(const std::vector<double>& eigenvalues, int64_t first, int64_t j, int64_t n,
              const T* basis, std::vector<double>& z) {
  const int64_t m = z.size();
  const double cluster = kClusterGap * eigenvalues[0];
  for (int64_t i = j - 1; i >= 0; --i) {
    if (eigenvalues[first + i] - eigenvalues[first + j] >= cluster) {
      break;
    }
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
  return true;
}

// Eigenvectors of T_m for eigenvalues first .. first + count (descending) as the leading rows of
// basis [n, count], zeros below. Throws NotSeparated.
template <class T>
void eigenvectors(const Tridiagonal<T>& reduced, const std::vector<double>& eigenvalues,
                  int64_t first, int64_t count, int64_t n, T* basis) {
  const int64_t m = reduced.steps;
  std::vector<double> lanes(m * kLanes), z(m);
  for (int64_t j = 0; j < count; ++j) {
    const int64_t lane = j % kLanes;
    if (lane == 0) {
      tridiagonal_eigenvectors(reduced.diagonal, reduced.coupling, eigenvalues.data() + first + j,
                               std::min(kLanes, count - j), lanes.data());
    }
    for (int64_t k = 0; k < m; ++k) {
      z[k] = lanes[k * kLanes + lane];
    }
    if (!separate(eigenvalues, first, j, n, basis, z)) {
      throw NotSeparated();
    }
    T* column = basis + j * n;
    std::transform(z.begin(), z.end(), column, [](double value) { return static_cast<T>(value); });
    std::fill(column + m, column + n, T(0));
  }
}

// The eigenvectors at the cut, if it is so narrow that float32 may have mixed them.
template <class T>
Cut<T> narrow_cut(const Tridiagonal<T>& reduced, const std::vector<double>& ritz, int64_t rank,
                  int64_t n, const T* reflectors) {
  Cut<T> cut;
  if (sizeof(T) == sizeof(double) || rank >= static_cast<int64_t>(ritz.size())) {
    return cut;
  }
  cut.relative_gap = (ritz[rank - 1] - ritz[rank]) / ritz[0];
  if (cut.relative_gap > kNarrowGap) {
    return cut;
  }
  cut.eigenvalues[0] = ritz[rank - 1];
  cut.eigenvalues[1] = ritz[rank];
  cut.pair.resize(2 * n);
  eigenvectors(reduced, ritz, rank - 1, 2, n, cut.pair.data());
  apply_reflectors(n, 2, reduced.steps - 1, reflectors, reduced.tau.data(), cut.pair.data());
  return cut;
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

  // On the tokens' side the projector onto what is not kept serves as well, and may be the smaller
  // one.
  const bool complement = gram.side == Side::kTokens && reduced.steps == n && rank > n - rank;
  const int64_t first = complement ? rank : 0;
  const int64_t columns = complement ? n - rank : rank;
  std::unique_ptr<T[]> storage(new T[n * columns]);
  T* basis = storage.get();
  eigenvectors(reduced, ritz, first, columns, n, basis);
  apply_reflectors(n, columns, reduced.steps - 1, gram.values.get(), reduced.tau.data(), basis);
  return Spectrum<T>{
      .side = gram.side,
      .n = n,
      .rank = rank,
      .eigenvalues = std::vector<T>(ritz.begin(), ritz.begin() + rank),
      .storage = std::move(storage),
      .basis = basis,
      .columns = columns,
      .complement = complement,
      .transform = std::move(gram.transform),
      .steps = reduced.steps,
      .solver = Solver::kTridiag,
      .cut = narrow_cut(reduced, ritz, rank, n, gram.values.get()),
  };
}

template Spectrum<float> solve_tridiag(Gram<float>, const Options&);
template Spectrum<double> solve_tridiag(Gram<double>, const Options&);

}  // namespace svdprune::cpu
