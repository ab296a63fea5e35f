// C functions around csrc/cuda/purify/steering.h for ctypes: what it does to a spectrum, eigenvalue by eigenvalue.

#include "../../csrc/cuda/purify/steering.h"

#include <random>
#include <vector>

using namespace svdprune::purify;

extern "C" {

// Purifies a matrix with those eigenvalues [n], to a rank if it is not 0. found [n]: those of the projector. Each
// product is off by `noise`.
void purify_spectrum(int n, const double* eigenvalues, double variance, int rank_asked,
                     double noise, int seed, double* found, int* rank, int* products, int* starts) {
  std::mt19937 generator(static_cast<unsigned>(seed));
  std::normal_distribution<double> normal;
  double total = 0, square = 0;
  for (int i = 0; i < n; ++i) {
    total += eigenvalues[i];
    square += eigenvalues[i] * eigenvalues[i];
  }
  std::vector<double> x(n), y(n);
  State state = first(total, rank_asked);
  Sums sums{};
  *starts = 0;
  while (state.step != Step::kDone) {
    if (state.step == Step::kStart) {
      ++*starts;
    }
    for (int i = 0; i < n; ++i) {
      if (state.step == Step::kStart) {
        x[i] = eigenvalues[i] / std::sqrt(square) + kShift;
        y[i] = 0;
      } else {
        found[i] = x[i];
        y[i] = x[i] - x[i] * x[i] + noise * normal(generator);
        x[i] += state.step == Step::kRaise ? y[i] : -y[i];
      }
    }
    sums = {};
    for (int i = 0; i < n; ++i) {
      sums.trace += x[i];
      sums.energy += x[i] * eigenvalues[i];
      sums.y_trace += y[i];
      sums.y_energy += y[i] * eigenvalues[i];
      sums.y_square += y[i] * y[i];
      sums.x_y += found[i] * y[i];
    }
    state = next(state, sums, variance, n, rank_asked > 0);
  }
  for (int i = 0; i < n; ++i) {
    found[i] += state.weight * y[i];
  }
  *rank = state.rank;
  *products = state.products;
}
}
