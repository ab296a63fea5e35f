// Which step a purification takes next, and when it has found the projector.
//
// Note [steering]
// Y = X - X^2 is what a step changes: X + Y = 2X - X^2 raises every eigenvalue of X between 0 and 1, X - Y = X^2 lowers
// it; see Note [purification] in ../../cpu/solver_purify.cpp. First tr(X G) is steered to the energy that is asked for,
// until the eigenvalues that are neither 0 nor 1 yet are few. With their number tr(X) and their mean eigenvalue
// tr(Y G) / tr(Y) in G, the energy that is missing tells the rank r: as soon as that lies clear of a whole number, or
// all eigenvalues but one are 0 or 1.
//
// Then tr(X) is steered to r - 1/2, which keeps the r-th eigenvalue between 0 and 1 while all others part. How many are
// left there is tr(Y)^2 / ||Y||_F^2, and where they are x = tr(X Y) / tr(Y). When it is one, Y = x (1 - x) u u^T, and so
//   P_r = X + (1 - x) u u^T = X + weight Y with weight = (r - tr X) / tr Y
// without a step that pushes x to 1. And then the rank is proved: tr(X G) without x's share is the energy of r - 1
// directions, which must be less than what is asked for, and with one more must not. Where a cut goes through eigenvalues
// that do not part, the same weight gives each its share: the projector is not defined, but its trace is r.
//
// A rank that is asked for is known from the start, and needs no proof.
//
// An eigenvalue that was squared too often has lost its digits, and a rank that the proof refuses was wrong: the steps
// start anew then, by the count of the rank that is known by now.
#pragma once

#include "../tridiag/reciprocal.h"

#include <cmath>

namespace svdprune::purify {

constexpr double kShift = 0x1p-20;  // of the eigenvalues of the first X
constexpr int kRankKnownBy = 70;    // products, at the latest
constexpr int kMostByCount = 90;    // since the rank is known
constexpr int kMostProducts = 250;
constexpr double kAlone = 1e-4;                 // eigenvalues between 0 and 1, but for one
constexpr double kFew = 2;                      // of those
constexpr double kClear = 0.05;                 // of a whole number
constexpr double kLeast = 0.05, kMost = 0.999;  // x that has its digits
constexpr double kLeastSum = 1e-4;              // of tr(Y), below which X is a projector
constexpr double kTie = 2e-7;                   // share of tr(G) that the energy may lack

enum class Step { kStart, kRaise, kLower, kDone };

// Of the newest X, and of Y, which made it of the X before.
struct Sums {
  double trace, energy;                     // tr X, tr X G
  double y_trace, y_energy, y_square, x_y;  // tr Y, tr Y G, ||Y||_F^2, tr X Y with the X before
};

// Where the purification of one image stands. Once done, leverage is diag X + weight diag Y of the X before the newest.
struct State {
  Step step;    // what made the newest X, or makes the next one
  bool raised;  // whether the newest X is X + Y of the one before
  int rank;     // 0: not known yet
  int products;
  int by_count;  // products since the rank is known, or since the last start by it
  double weight;
  double total;  // tr G
};

// What is asked for: `energy` of a matrix of n tokens and that trace, or a rank.
struct Wanted {
  double energy, trace;
  int n;
  bool has_rank;
};

// What the last product says.
struct Reading {
  double trace, energy;  // of the X before
  double x, eigenvalue;  // where eigenvalues are between 0 and 1: in X, in G
  double number;         // of those

  SVDPRUNE_HOST_DEVICE Reading(const Sums& sums, bool raised) {
    const double sign = raised ? 1 : -1;
    trace = sums.trace - sign * sums.y_trace;
    energy = sums.energy - sign * sums.y_energy;
    const double inverse = tridiag::reciprocal(sums.y_trace);
    x = sums.x_y * inverse;
    eigenvalue = sums.y_energy * inverse;
    number = sums.y_trace * sums.y_trace * tridiag::reciprocal(sums.y_square);
  }

  // Eigenvalues that it takes to reach the energy, in fractions of one, if those in between were all the same.
  SVDPRUNE_HOST_DEVICE double count(double wanted) const {
    return trace + (wanted - energy) * tridiag::reciprocal(eigenvalue);
  }
};

SVDPRUNE_HOST_DEVICE inline bool is_clear(double count) {
  const double part = count - std::floor(count);
  return part > kClear && part < 1 - kClear;
}

SVDPRUNE_HOST_DEVICE inline double rank_of(double count, double eigenvalue, const Wanted& wanted) {
  return std::ceil(count - kTie * wanted.trace / eigenvalue);
}

// NaN becomes a rank, too, so that steps come to an end whatever the numbers are.
SVDPRUNE_HOST_DEVICE inline State steered_to(double rank, const Wanted& wanted, bool anew,
                                             State state) {
  state.rank = !(rank >= 1) ? 1 : rank > wanted.n ? wanted.n : static_cast<int>(rank);
  state.by_count = 0;
  state.step = anew ? Step::kStart : state.step;
  return state;
}

// The rank, if it can be told. Starts anew where x has lost its digits.
SVDPRUNE_HOST_DEVICE inline State find_rank(State state, const Sums& sums, const Wanted& wanted) {
  const Reading reading(sums, state.raised);
  if (!(sums.y_trace > kLeastSum)) {
    const bool lacks = reading.energy < wanted.energy - kTie * wanted.trace;
    return steered_to(std::floor(reading.trace + 0.5) + lacks, wanted, true, state);
  }
  const double count = reading.count(wanted.energy);
  const bool clear = reading.number < kFew && is_clear(count);
  if (clear || reading.number < 1 + kAlone || state.products >= kRankKnownBy) {
    const double rank = rank_of(count, reading.eigenvalue, wanted);
    return steered_to(rank, wanted, reading.x < kLeast, state);
  }
  return state;
}

// What one number of eigenvalues more, or less, has to do with it: 1 where they hold too little energy, -1 where they
// would without the last of them, else 0.
SVDPRUNE_HOST_DEVICE inline int correction(double energy, double eigenvalue, const Wanted& wanted) {
  const double slack = kTie * wanted.trace;
  return energy < wanted.energy - slack ? 1 : energy - eigenvalue >= wanted.energy + slack ? -1 : 0;
}

// Done, or started anew with another rank, where the rank can be checked, or products run out.
SVDPRUNE_HOST_DEVICE inline State check_rank(State state, const Sums& sums, const Wanted& wanted) {
  const Reading reading(sums, state.raised);
  const double x = reading.x, whole = std::floor(reading.trace - x + 0.5);
  const bool alone =
      reading.number < 1 + kAlone && x > kLeast && x < kMost && whole + 1 == state.rank;
  if (!alone && state.by_count < kMostByCount && state.products < kMostProducts) {
    return state;
  }
  state.weight = sums.y_trace > kLeastSum ? (state.rank - reading.trace) / sums.y_trace : 0;
  const double energy = reading.energy + state.weight * sums.y_energy;
  const int more = wanted.has_rank ? 0 : correction(energy, reading.eigenvalue, wanted);
  if (more != 0 && state.products < kMostProducts) {
    return steered_to(state.rank + more, wanted, true, state);
  }
  state.step = Step::kDone;
  return state;
}

// What to do before the first X of a matrix of that trace is there. rank: 0 if it is to be found.
SVDPRUNE_HOST_DEVICE inline State first(double trace, int rank) {
  return {Step::kStart, false, rank, 0, 0, 0, trace};
}

// What to do after the sums of the newest X of n tokens are known.
SVDPRUNE_HOST_DEVICE inline State next(State state, const Sums& sums, double variance, int n,
                                       bool has_rank) {
  const Wanted wanted{variance * state.total, state.total, n, has_rank};
  if (state.step != Step::kStart) {
    state = state.rank == 0 ? find_rank(state, sums, wanted) : check_rank(state, sums, wanted);
    if (state.step == Step::kStart || state.step == Step::kDone) {
      return state;
    }
  }
  const bool low = state.rank > 0 ? sums.trace < state.rank - 0.5 : sums.energy < wanted.energy;
  state.raised = low;
  state.step = low ? Step::kRaise : Step::kLower;
  ++state.products;
  ++state.by_count;
  return state;
}

}  // namespace svdprune::purify
