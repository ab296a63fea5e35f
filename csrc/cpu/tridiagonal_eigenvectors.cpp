// Note [twisted vectors]
// T - x I = L D L^T from the top and = U E U^T from the bottom, with D_i = t_i - x - c_i-1 (c_i-1 / D_i-1) and
// E_i = t_i - x - c_i (c_i / E_i+1); joining the two at row k leaves the single number
// gamma_k = t_k - x - c_k-1 (c_k-1 / D_k-1) - c_k (c_k / E_k+1), and solving with 1 in row k and 0 elsewhere on the
// right needs only products: z_k = 1, z_i-1 = -(c_i-1 / D_i-1) z_i upwards, z_i+1 = -(c_i / E_i+1)
// z_i downwards. The residual is |gamma_k| / ||z||, and for some k it is of the order of x's own
// error. So of the factorisations the ratios in brackets are kept.

#include "tridiagonal_eigenvectors.h"

#include "clones.h"
#include "lanes.h"

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

using L = Lanes<double, kLanes * sizeof(double)>;
using Lane = L::Vector;  // a number for each lane

// The ratios of Note [twisted vectors], [n, kLanes] each: above[i] = c_i / D_i for i < n - 1, below[i] = c_i-1 / E_i for
// i > 0, and 0 else. A pivot of zero is replaced by a tiny one.
SVDPRUNE_CLONES void factorise(int64_t n, const double* diagonal, const double* coupling,
                               const double* points, double tiny, double* above, double* below) {
  Lane x, from_top = {}, from_bottom = {};
  L::load(points, x);
  for (int64_t i = 0; i < n; ++i) {
    const int64_t j = n - 1 - i;  // the two chains of divisions side by side
    const double next = i + 1 < n ? coupling[i] : 0, before = j > 0 ? coupling[j - 1] : 0;
    const Lane top = diagonal[i] - x - from_top, bottom = diagonal[j] - x - from_bottom;
    const Lane top_size = top < 0 ? -top : top, bottom_size = bottom < 0 ? -bottom : bottom;
    const Lane down = next / (top_size < tiny ? Lane{} + tiny : top);
    const Lane up = before / (bottom_size < tiny ? Lane{} + tiny : bottom);
    L::store(down, above + i * kLanes);
    L::store(up, below + j * kLanes);
    from_top = next * down;
    from_bottom = before * up;
  }
}

// The row of smallest |gamma| in each lane, the first of equals.
SVDPRUNE_CLONES void twist_rows(int64_t n, const double* diagonal, const double* coupling,
                                const double* points, const double* above, const double* below,
                                double* twist) {
  Lane x, ratio;
  L::load(points, x);
  Lane smallest = Lane{} + std::numeric_limits<double>::infinity(), row = {};
  for (int64_t k = 0; k < n; ++k) {
    Lane gamma = diagonal[k] - x;
    if (k > 0) {
      L::load(above + (k - 1) * kLanes, ratio);
      gamma -= coupling[k - 1] * ratio;
    }
    if (k + 1 < n) {
      L::load(below + (k + 1) * kLanes, ratio);
      gamma -= coupling[k] * ratio;
    }
    gamma = gamma < 0 ? -gamma : gamma;
    row = gamma < smallest ? Lane{} + static_cast<double>(k) : row;
    smallest = gamma < smallest ? gamma : smallest;
  }
  L::store(row, twist);
}

// z [n, kLanes]: outwards from each lane's twist, then to unit length.
SVDPRUNE_CLONES void substitute(int64_t n, const double* twist, const double* above,
                                const double* below, double* z) {
  Lane row, ratio, value, carried = {}, squares = {};
  L::load(twist, row);
  for (int64_t i = n - 1; i >= 0; --i) {
    const double own = static_cast<double>(i);
    L::load(above + i * kLanes, ratio);
    carried = own < row ? -ratio * carried : own == row ? Lane{} + 1 : Lane{};
    L::store(carried, z + i * kLanes);
  }
  carried = Lane{};
  for (int64_t i = 0; i < n; ++i) {
    L::load(below + i * kLanes, ratio);
    L::load(z + i * kLanes, value);
    carried = static_cast<double>(i) > row ? -ratio * carried : value;
    L::store(carried, z + i * kLanes);
    squares += carried * carried;
  }
  Lane scale = {};
  for (int64_t lane = 0; lane < kLanes; ++lane) {
    scale[lane] = 1 / std::sqrt(squares[lane]);
  }
  for (int64_t i = 0; i < n; ++i) {
    L::load(z + i * kLanes, value);
    L::store(value * scale, z + i * kLanes);
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
  std::vector<double> above(n * kLanes), below(n * kLanes);
  double twist[kLanes];
  factorise(n, diagonal.data(), coupling.data(), lanes, tiny, above.data(), below.data());
  twist_rows(n, diagonal.data(), coupling.data(), lanes, above.data(), below.data(), twist);
  substitute(n, twist, above.data(), below.data(), z);
}

}  // namespace svdprune::cpu
