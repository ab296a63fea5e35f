// C functions around the arithmetic of csrc/cuda/tridiag that does not depend on CUDA, for ctypes.

#include "../../csrc/cuda/tridiag/certificate.h"
#include "../../csrc/cuda/tridiag/householder.h"
#include "../../csrc/cuda/tridiag/rotations.h"
#include "../../csrc/cuda/tridiag/sturm.h"
#include "../../csrc/cuda/tridiag/twisted.h"
#include "../../csrc/hidden_eigenvalues.h"

#include <algorithm>
#include <limits>
#include <vector>

using namespace svdprune::tridiag;

extern "C" {

// The whole reduction of symmetric a [n, n], row by row as the kernel's blocks do it; diagonal and
// coupling [n].
void householder_reduce(int n, float* a, double* diagonal, double* coupling) {
  std::vector<float> v(n, 0), w(n, 0), next(n), y(n);
  std::vector<double> column(a, a + n);
  double tail = 0;
  for (int i = 2; i < n; ++i) {
    tail += column[i] * column[i];
  }
  for (int k = 0; k < n; ++k) {
    diagonal[k] = column[k];
    const Reflection h = reflect(k + 1 < n ? column[k + 1] : 0, tail);
    coupling[k] = k + 1 < n ? h.beta : 0;
    for (int i = 0; i < n; ++i) {
      next[i] = i <= k ? 0 : i == k + 1 ? 1 : static_cast<float>(column[i] * h.scale);
    }
    double dot = 0, gg = 0, gv = 0, vv = 0;
    for (int i = k + 1; i < n; ++i) {
      y[i] = 0;
      for (int j = k + 1; j < n; ++j) {
        a[i * n + j] = updated(a[i * n + j], v[i], w[i], v[j], w[j]);
        y[i] += a[i * n + j] * next[j];
      }
      column[i] = a[i * n + k + 1] - h.tau * y[i];
      dot += static_cast<double>(next[i]) * y[i];
      if (i > k + 2) {
        gg += column[i] * column[i];
        gv += column[i] * next[i];
        vv += static_cast<double>(next[i]) * next[i];
      }
    }
    if (k + 1 == n) {
      break;
    }
    const double half = 0.5 * h.tau * h.tau * dot, slope = 2 * half - h.tau * y[k + 1];
    double square = 0;
    for (int i = k + 1; i < n; ++i) {
      w[i] = static_cast<float>(h.tau * y[i] - half * next[i]);
      column[i] += slope * next[i];
      square += i > k + 2 ? column[i] * column[i] : 0;
    }
    tail = combined_square(slope, gg, gv, vv);
    tail = tail < 0 ? square : tail;
    v = next;
  }
}

// x [n] -> v [n], tau and beta with (I - tau v v^T) x = (beta, 0, ..., 0).
void householder_reflect(int n, const double* x, double* v, double* tau, double* beta) {
  double tail = 0;
  for (int i = 1; i < n; ++i) {
    tail += x[i] * x[i];
  }
  const Reflection h = reflect(x[0], tail);
  for (int i = 0; i < n; ++i) {
    v[i] = i == 0 ? 1 : x[i] * h.scale;
  }
  *tau = h.tau;
  *beta = h.beta;
}

int sturm_above(int m, const double* diagonal, const double* coupling, double x) {
  std::vector<double> squares(m, 0);
  for (int i = 1; i < m; ++i) {
    squares[i] = coupling[i - 1] * coupling[i - 1] + kLeastSquare;
  }
  return eigenvalues_above(diagonal, squares.data(), m, x);
}

// z [m]: the unit eigenvector for x.
void twisted(int m, const double* diagonal, const double* coupling, double x, double* z) {
  std::vector<double> down(m), up(m);
  twisted_ratios(diagonal, coupling, m, x, false, down.data());
  twisted_ratios(diagonal, coupling, m, x, true, up.data());
  int twist = 0;
  double smallest = std::numeric_limits<double>::infinity();
  for (int k = 0; k < m; ++k) {
    const double gamma =
        std::fabs(twist_residual(diagonal, coupling, m, x, down.data(), up.data(), k));
    if (gamma < smallest) {
      smallest = gamma;
      twist = k;
    }
  }
  twisted_half(m, twist, false, down.data());
  twisted_half(m, twist, true, up.data());
  double square = 0;
  for (int i = 0; i < m; ++i) {
    z[i] = twisted_entry(down.data(), up.data(), twist, i);
    square += z[i] * z[i];
  }
  std::for_each(z, z + m, [square](double& value) { value /= std::sqrt(square); });
}

// Eigenvalues replace diagonal; vectors [m, m] one a column. Returns how many sweeps it took.
int ql(int m, double* diagonal, double* coupling, double* vectors, double negligible) {
  std::vector<double> cosine(m), sine(m);
  std::fill(vectors, vectors + m * m, 0.0);
  int sweeps = 0;
  for (int row = 0; row < m; ++row) {
    vectors[row * m + row] = 1;
  }
  for (int row = 0; row < m; ++row) {
    for (int last; (last = joined_until(coupling, m, row, negligible)) > row; ++sweeps) {
      if (sweeps > 100 * m) {
        return -1;
      }
      ql_sweep(diagonal, coupling, row, last, cosine.data(), sine.data());
      for (int z = 0; z < m; ++z) {
        for (int i = last - 1; i >= row; --i) {
          double &left = vectors[z * m + i], &right = vectors[z * m + i + 1];
          const double old = left;
          left = cosine[i] * old - sine[i] * right;
          right = sine[i] * old + cosine[i] * right;
        }
      }
    }
  }
  return sweeps;
}

// steps [*]: at which to look, if all looks fail and T has these entries [m]. Returns how many.
int looks(int n, double variance, int rank_asked, int m, const double* diagonal,
          const double* coupling, int* steps) {
  svdprune::CheckSchedule schedule(n, 1, variance, rank_asked);
  int count = 0;
  for (int k = 1; k <= m; ++k) {
    schedule.take(k, diagonal[k - 1], coupling[k - 1]);
    if (schedule.next == k) {
      steps[count++] = k;
      schedule.fail();
    }
  }
  return count;
}

double rest_below(int m, const double* diagonal, const double* coupling, double above, double below,
                  double residual_square) {
  std::vector<double> squares(m, 0);
  for (int i = 1; i < m; ++i) {
    squares[i] = coupling[i - 1] * coupling[i - 1] + kLeastSquare;
  }
  const double corner = corner_of_inverse(diagonal, squares.data(), m, (above + below) / 2);
  return svdprune::limit_of_rest(above, below, coupling[m - 1], corner, residual_square);
}

int rank_by_variance(const double* values, int m, double variance, double total) {
  return rank_for_variance(values, m, variance, total);
}

int rank_standing_out(const double* values, int rank) {
  return standing_out(values, rank);
}

bool flat_after(int m, int look, int n, double captured, double variance) {
  return seems_flat(m, look, n, captured, 1, variance);
}

double eigenvalue_bound(double trace, double square, int order) {
  return svdprune::largest_eigenvalue_bound(trace, square, order);
}
}
