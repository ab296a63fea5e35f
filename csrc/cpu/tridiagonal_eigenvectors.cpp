// Note [twisted vectors]
// T - x I = L D L^T from the top and = U E U^T from the bottom; joining the two at row k leaves the
// single number gamma_k = D_k + E_k - (t_k - x), and solving with 1 in row k and 0 elsewhere on the
// right needs only products: z_k = 1, z_i-1 = -(c_i-1 / D_i-1) z_i upwards, z_i+1 = -(c_i / E_i+1)
// z_i downwards. The residual is |gamma_k| / ||z||, and for some k it is of the order of x's own
// error.

#include "tridiagonal_eigenvectors.h"

#include "clones.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace svdprune::cpu {

namespace {

constexpr double kEpsilon = std::numeric_limits<double>::epsilon();

double largest_entry(const std::vector<double>& diagonal, const std::vector<double>& coupling) {
  double largest = 0;
  for (size_t i = 0; i < diagonal.size(); ++i) {
    largest = std::max(largest, std::fabs(diagonal[i]));
    if (i + 1 < diagonal.size()) {
      largest = std::max(largest, std::fabs(coupling[i]));
    }
  }
  return largest;
}

// The pivots from the top and from the bottom, [n, kLanes] each. A pivot of zero is replaced by a
// tiny one.
SVDPRUNE_CLONES void factorise(int64_t n, const double* diagonal, const double* coupling,
                               const double* lanes, double tiny, double* top, double* bottom) {
  const auto pivot = [tiny](double value) { return std::fabs(value) < tiny ? tiny : value; };
  for (int64_t i = 0; i < n; ++i) {
    const double square = i > 0 ? coupling[i - 1] * coupling[i - 1] : 0;
    const double* before = top + (i > 0 ? i - 1 : 0) * kLanes;
#pragma omp simd
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      const double carried = i > 0 ? square / before[lane] : 0;
      top[i * kLanes + lane] = pivot(diagonal[i] - lanes[lane] - carried);
    }
  }
  for (int64_t i = n - 1; i >= 0; --i) {
    const double square = i + 1 < n ? coupling[i] * coupling[i] : 0;
    const double* after = bottom + (i + 1 < n ? i + 1 : i) * kLanes;
#pragma omp simd
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      const double carried = i + 1 < n ? square / after[lane] : 0;
      bottom[i * kLanes + lane] = pivot(diagonal[i] - lanes[lane] - carried);
    }
  }
}

// twist [kLanes]: the row of smallest |gamma|.
void twist_rows(int64_t n, const double* diagonal, const double* lanes, const double* top,
                const double* bottom, int64_t* twist) {
  double smallest[kLanes];
  std::fill_n(smallest, kLanes, std::numeric_limits<double>::infinity());
  std::fill_n(twist, kLanes, 0);
  for (int64_t k = 0; k < n; ++k) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      const int64_t at = k * kLanes + lane;
      const double gamma = std::fabs(top[at] + bottom[at] - (diagonal[k] - lanes[lane]));
      if (gamma < smallest[lane]) {
        smallest[lane] = gamma;
        twist[lane] = k;
      }
    }
  }
}

// z [n, kLanes]: outwards from each lane's twist, then to unit length.
SVDPRUNE_CLONES void substitute(int64_t n, const double* coupling, const int64_t* twist,
                                const double* top, const double* bottom, double* z) {
  double squares[kLanes] = {};
  for (int64_t i = n - 1; i >= 0; --i) {
    const double* below = z + (i + 1 < n ? i + 1 : i) * kLanes;
    const double factor = coupling[i];
#pragma omp simd
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      const double carried = -factor / top[i * kLanes + lane] * below[lane];
      z[i * kLanes + lane] = i < twist[lane] ? carried : i == twist[lane] ? 1 : 0;
    }
  }
  for (int64_t i = 0; i < n; ++i) {
    const double* above = z + (i > 0 ? i - 1 : 0) * kLanes;
    const double factor = i > 0 ? coupling[i - 1] : 0;
#pragma omp simd
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      const double carried = -factor / bottom[i * kLanes + lane] * above[lane];
      const double value = i > twist[lane] ? carried : z[i * kLanes + lane];
      z[i * kLanes + lane] = value;
      squares[lane] += value * value;
    }
  }
  for (double& square : squares) {
    square = 1 / std::sqrt(square);
  }
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      z[i * kLanes + lane] *= squares[lane];
    }
  }
}

}  // namespace

void tridiagonal_eigenvectors(const std::vector<double>& diagonal,
                              const std::vector<double>& coupling, const double* eigenvalues,
                              int64_t count, double* z) {
  const int64_t n = diagonal.size();
  const double scale = largest_entry(diagonal, coupling);
  const double tiny = kEpsilon * kEpsilon * (scale > 0 ? scale : 1);
  double lanes[kLanes];
  for (int64_t lane = 0; lane < kLanes; ++lane) {
    lanes[lane] = eigenvalues[std::min(lane, count - 1)];
  }
  std::vector<double> top(n * kLanes), bottom(n * kLanes);
  int64_t twist[kLanes];
  factorise(n, diagonal.data(), coupling.data(), lanes, tiny, top.data(), bottom.data());
  twist_rows(n, diagonal.data(), lanes, top.data(), bottom.data(), twist);
  substitute(n, coupling.data(), twist, top.data(), bottom.data(), z);
}

}  // namespace svdprune::cpu
