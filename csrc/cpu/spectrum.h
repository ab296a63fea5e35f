// Stage 2 of 5, spectrum: the rank, and the leading eigenvectors of the Gram matrix.
#pragma once

#include "gram.h"

namespace svdprune::cpu {

// The two eigenvectors on either side of the cut, r and r + 1, where they lie so close that float32 could
// have mixed them; see refine.h.
template <class T>
struct Cut {
  double relative_gap = 0;     // (lambda_r - lambda_r+1) / lambda_1
  double eigenvalues[2] = {};  // lambda_r, lambda_r+1
  double crowd = 0;     // sqrt(sum lambda^2 / n sum_j 1 / a_j sum_k 1 / b_k), see Note [refinement]
  std::vector<T> pair;  // [n, 2], column-major; empty where the gap is wide, or solved by "eigh"
};

template <class T>
struct Spectrum {
  Side side;
  int64_t n;
  int64_t rank;                // r
  std::vector<T> eigenvalues;  // [r], descending; none for "purify"
  AlignedArray<T> storage;
  T* basis;             // [n, columns], column-major, in `storage`
  int64_t columns;      // r, column j belonging to eigenvalues[j] if any; n - r for a complement
  bool complement;      // tokens' side only: basis is the other eigenvectors, as they are fewer
  Transform transform;  // of the features, as in Gram
  int64_t steps;  // of the tridiagonalisation that were taken; n for "eigh"; products of "purify"
  Solver solver;  // that ran
  Cut<T> cut;
};

// "tridiag" could not tell eigenvectors apart, as they belong to one multiple eigenvalue, "purify" did not settle, or
// "eigh" did not converge in float32: LAPACK's "eigh" in float64 is to do it.
struct NeedsOtherSolver : std::runtime_error {
  NeedsOtherSolver() : std::runtime_error("svdprune: a matrix that needs another solver") {}
};

// The solver that spectrum() tries first. Early stop and the float64 tridiagonal stage are made for a
// float32 Gram; a float64 one gets LAPACK's accuracy throughout unless asked otherwise.
inline bool takes_tridiag(const Options& options, bool float64) {
  return options.solver == Solver::kTridiag || (options.solver == Solver::kAuto && !float64);
}

// Consumes the Gram matrix, which "purify" takes in float64 only. Throws NeedsOtherSolver.
template <class T>
Spectrum<T> spectrum(Crew& crew, Gram<T> gram, const Options& options);

// The solvers, for a Gram matrix that is not zero. Besides its memory "tridiag" takes [n, r]
// numbers, "eigh" 2 n^2, and "purify", for the tokens' side only, 3 n^2.
template <class T>
Spectrum<T> solve_eigh(Gram<T> gram, const Options& options);
template <class T>
Spectrum<T> solve_tridiag(Crew& crew, Gram<T> gram, const Options& options);
Spectrum<double> solve_purify(Gram<double> gram, const Options& options, int64_t most_products);

// The smallest r whose leading eigenvalues hold at least `variance` of `total`; n + 1 when all [n]
// do not. eigenvalues: descending. Negative ones, which are rounding, count as zero.
template <class T>
int64_t rank_for_variance(const T* eigenvalues, int64_t n, double variance, double total);

}  // namespace svdprune::cpu
