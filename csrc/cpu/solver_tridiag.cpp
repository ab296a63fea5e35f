// Solver "tridiag": Householder tridiagonalisation that stops as soon as a certificate says that
// the leading subspace is there, eigenpairs of the tridiagonal matrix in float64, and the way back.
//
// Note [certificate]
// After m steps Q^T G Q = [T_m, e; e^T, R], with a single coupling e_m between T_m's last row and
// R's first. With Ritz pairs (theta_j, z_j) of T_m, the r leading ones are G's to the tolerance eps
// when
//  (i)   their sum reaches variance * trace(G) (a given rank needs m > r instead); that of all m
//        is the trace of T_m, which costs nothing, and tells when to look (check_schedule.h);
//  (ii)  ||e_m z_last,1..r|| < eps (theta_r - theta_r+1): the residual over the gap bounds the
//        sine of the angle between the subspaces (Davis, Kahan 1970), and with it the error of any
//        leverage;
//  (iii) no other eigenvalue of G lies above x = (theta_r + theta_r+1) / 2. Besides those pairs G
//        consists of the other m - r, which lie below x, of R, and of what couples them: all of it
//        lies below x if R lies below x - e_m^2 g (Schur), where g = sum_j>r z_last,j^2 /
//        (x - theta_j). Over all j that sum is 1 / d, d the last pivot of x I - T_m, and the first r
//        terms are worth no more than (ii) leaves them: e_m^2 g <= e_m^2 / d + 2 (residual)^2 /
//        (theta_r - theta_r+1). Whether R lies below that: Note [hidden eigenvalues] in
//        ../hidden_eigenvalues.h.
// At m = n all hold with nothing left over, so a spectrum without a gap gets the full reduction.

#include "../check_schedule.h"
#include "../hidden_eigenvalues.h"
#include "back_transform.h"
#include "spectrum.h"
#include "tridiagonal_eigenvalues.h"
#include "tridiagonal_eigenvectors.h"
#include "tridiagonalise.h"
#include "vector.h"

#include <algorithm>
#include <cmath>

namespace svdprune::cpu {

namespace {

constexpr double kClusterGap = 1e-5;     // of the largest eigenvalue
constexpr double kNarrowGap = 5e-3;      // of the largest eigenvalue
constexpr double kMostOverlap = 0.9999;  // cosine with a cluster's earlier vectors
constexpr double kNegligible = 1e-20;    // entry of a unit vector

// eps of the certificate: well under the accuracy promised for the scores.
template <class T>
constexpr double kTolerance = sizeof(T) == sizeof(float) ? 1e-4 : 1e-11;

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

// The last entry of the inverse of x I - T_m.
double corner_of_inverse(const std::vector<double>& diagonal, const std::vector<double>& coupling,
                         double x) {
  double pivot = x - diagonal[0];
  for (size_t k = 1; k < diagonal.size(); ++k) {
    pivot = x - diagonal[k] - coupling[k - 1] * coupling[k - 1] / pivot;
  }
  return 1 / pivot;
}

// Parts (i) to (iii), cheapest first. ritz: the Ritz values, if it came to that.
template <class T>
bool certified(Crew& crew, const Tridiagonal<T>& reduced, const Remainder<T>& remainder,
               double trace, const Options& options, std::vector<double>& ritz) {
  const int64_t m = reduced.steps;
  ritz = tridiagonal_eigenvalues(crew, reduced.diagonal, reduced.coupling);
  const int64_t rank =
      options.rank.value_or(rank_for_variance(ritz.data(), m, options.variance, trace));
  if (rank >= m) {
    return false;
  }
  const double above = ritz[rank - 1], below = ritz[rank];
  const double limit = std::pow(kTolerance<T> * (above - below), 2);
  if (!(residual_square(reduced.diagonal, reduced.coupling, ritz, rank, limit) < limit)) {
    return false;
  }
  const double corner = corner_of_inverse(reduced.diagonal, reduced.coupling, (above + below) / 2);
  return remainder.lies_below(limit_of_rest(above, below, reduced.coupling.back(), corner, limit));
}

// Takes the cluster's earlier vectors, columns of basis [n, j], out of unit column j, whose leading `m` rows
// count. False if hardly anything is left.
template <class T>
bool separate(const double* eigenvalues, double cluster, int64_t j, int64_t m, int64_t n,
              T* basis) {
  T* z = basis + j * n;
  double left = 1;  // of its square, in no earlier one's direction
  int64_t i = j;
  for (; i > 0 && eigenvalues[i - 1] - eigenvalues[j] < cluster; --i) {
    const T* earlier = basis + (i - 1) * n;
    const double overlap = dot(earlier, z, m);
    left -= overlap * overlap;
    if (!(left > 1 - kMostOverlap * kMostOverlap)) {
      return false;
    }
    combine(1, z, -overlap, earlier, m, z);
  }
  if (i < j) {
    scale(static_cast<T>(1 / std::sqrt(dot(z, z, m))), m, z);
  }
  return true;
}

// Eigenvectors of T_m for `count` eigenvalues (descending, the first among `eigenvalues` being `first`), as the
// leading rows of basis [n, count], zeros below. Their tails fall off until float32 holds them as subnormal numbers,
// which cost the way back more than all the rest of it: entries that do not count are 0. Throws NeedsOtherSolver.
template <class T>
void tridiagonal_basis(Crew& crew, const Tridiagonal<T>& reduced,
                       const std::vector<double>& eigenvalues, int64_t first, int64_t count,
                       int64_t n, T* basis) {
  const int64_t m = reduced.steps;
  crew.for_each((count + kLanes - 1) / kLanes, [&](int64_t group) {
    const int64_t j = group * kLanes, some = std::min(kLanes, count - j);
    std::vector<double> z(m * kLanes);
    tridiagonal_eigenvectors(reduced.diagonal, reduced.coupling, eigenvalues.data() + first + j,
                             some, z.data());
    for (int64_t lane = 0; lane < some; ++lane) {
      T* column = basis + (j + lane) * n;
      for (int64_t k = 0; k < m; ++k) {
        const double entry = z[k * kLanes + lane];
        column[k] = std::fabs(entry) < kNegligible ? T(0) : static_cast<T>(entry);
      }
      std::fill(column + m, column + n, T(0));
    }
  });
  const double cluster = kClusterGap * eigenvalues[0];
  for (int64_t j = 0; j < count; ++j) {
    if (!separate(eigenvalues.data() + first, cluster, j, m, n, basis)) {
      throw NeedsOtherSolver();
    }
  }
}

// Eigenvectors of G for the same eigenvalues: basis [n, count].
template <class T>
void eigenvectors(Crew& crew, const Tridiagonal<T>& reduced, const BackTransform<T>& back,
                  const std::vector<double>& eigenvalues, int64_t first, int64_t count, int64_t n,
                  T* basis) {
  tridiagonal_basis(crew, reduced, eigenvalues, first, count, n, basis);
  back.apply(crew, count, basis);
}

// Cut::crowd. Of a matrix [n, n] with that trace. If these are not all of its eigenvalues, as many as what is left of the
// trace allows may lie right below the cut.
double crowd_at(const std::vector<double>& eigenvalues, int64_t rank, int64_t n, double trace) {
  const int64_t m = eigenvalues.size();
  const double first_below = eigenvalues[rank];
  const double middle = (eigenvalues[rank - 1] + first_below) / 2;
  const double nearest = std::max(middle - first_below, 1e-12 * eigenvalues[0]);
  double rest = trace, square = 0, above = 0, below = 0;
  for (int64_t j = 0; j < m; ++j) {
    rest -= eigenvalues[j];
    square += eigenvalues[j] * eigenvalues[j];
    (j < rank ? above : below) += 1 / std::max(std::fabs(eigenvalues[j] - middle), nearest);
  }
  if (m < n && first_below > 0) {
    below += std::min<double>(n - m, std::max(rest, 0.0) / first_below) / nearest;
  }
  return std::sqrt(square / static_cast<double>(n) * above * below);
}

// The eigenvectors at the cut, if it is so narrow that float32 may have mixed them.
template <class T>
Cut<T> narrow_cut(Crew& crew, const Tridiagonal<T>& reduced, const std::vector<double>& ritz,
                  int64_t rank, int64_t n, double trace, const BackTransform<T>& back) {
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
  cut.crowd = crowd_at(ritz, rank, n, trace);
  cut.pair.resize(2 * n);
  eigenvectors(crew, reduced, back, ritz, rank - 1, 2, n, cut.pair.data());
  return cut;
}

}  // namespace

template <class T>
Spectrum<T> solve_tridiag(Crew& crew, Gram<T> gram, const Options& options) {
  const int64_t n = gram.matrix.n;
  std::vector<double> ritz;
  CheckSchedule looks(n, gram.trace, options.variance, options.rank.value_or(0));
  const auto enough = [&](const Tridiagonal<T>& reduced, const Remainder<T>& remainder) {
    looks.take(reduced.steps, reduced.diagonal.back(), reduced.coupling.back());
    if (looks.next != reduced.steps) {
      return false;
    }
    if (certified(crew, reduced, remainder, gram.trace, options, ritz)) {
      return true;
    }
    looks.fail();
    return false;
  };
  const Tridiagonal<T> reduced = tridiagonalise<T>(crew, gram.matrix, enough);
  if (static_cast<int64_t>(ritz.size()) != reduced.steps) {  // else they are the certificate's
    ritz = tridiagonal_eigenvalues(crew, reduced.diagonal, reduced.coupling);
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
  AlignedArray<T> storage = aligned_array<T>(n * columns);
  T* basis = storage.get();
  const BackTransform<T> back(crew, gram.matrix, reduced.steps - 1, reduced.tau.data());
  eigenvectors(crew, reduced, back, ritz, first, columns, n, basis);
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
      .cut = narrow_cut(crew, reduced, ritz, rank, n, gram.trace, back),
  };
}

template Spectrum<float> solve_tridiag(Crew&, Gram<float>, const Options&);
template Spectrum<double> solve_tridiag(Crew&, Gram<double>, const Options&);

}  // namespace svdprune::cpu
