// Householder tridiagonalisation, which may stop early.
//
// Note [tridiagonalisation]
// Step k turns column k of the trailing matrix A into (beta, 0, ..., 0) by H = I - tau v v^T and
// replaces A by H A H = A - v w^T - w v^T, with w = tau A v - (tau^2 / 2)(v^T A v) v: a product and a
// rank-2 update, which waits (Note [delayed updates] in trailing_matrix.cpp).
//
// Note [early stop]
// H_0 H_1 ... leaves the first coordinate alone, so after m steps the leading m x m block T_m of
// the tridiagonal matrix is what Lanczos from e_0 would give, with its basis orthogonal to
// rounding. Ritz values and vectors of T_m approach G's leading eigenpairs from there, long before
// step n when few directions hold the energy. Stopping is only a loop condition: going on to n is
// the exact method.
#pragma once

#include "remainder.h"

#include <cstdint>
#include <functional>
#include <vector>

namespace svdprune::cpu {

// Q^T A Q = T, with Q = H_0 ... H_steps-2. The vectors v of the reflectors replace A's lower
// triangle: v_k has its leading 1 (not stored) in row k + 1, as LAPACK's sytrd leaves them.
template <class T>
struct Tridiagonal {
  int64_t steps = 0;             // m: T is m x m
  std::vector<double> diagonal;  // [m]
  std::vector<double> coupling;  // [m]: [k] joins k and k + 1; the last one joins T to what remains
  std::vector<T> tau;            // [m]
};

// Reduces a [n, n] (column-major, lower triangle) until `enough(tridiagonal, remainder)` says so,
// asked after every step, or to the end.
template <class T>
Tridiagonal<T> tridiagonalise(
    Crew& crew, SquareMatrix<T>& a,
    const std::function<bool(const Tridiagonal<T>&, const Remainder<T>&)>& enough);

}  // namespace svdprune::cpu
