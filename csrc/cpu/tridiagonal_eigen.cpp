// Note [twisted vectors]
// T - x I = L D L^T from the top and = U E U^T from the bottom; joining the two at row k leaves the
// single number gamma_k = D_k + E_k - (t_k - x), and solving with 1 in row k and 0 elsewhere on the
// right needs only products: z_k = 1, z_i-1 = -(c_i-1 / D_i-1) z_i upwards, z_i+1 = -(c_i / E_i+1)
// z_i downwards. The residual is |gamma_k| / ||z||, and for some k it is of the order of x's own
// error.

#include "tridiagonal_eigen.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace svdprune::cpu {

namespace {

constexpr double kEpsilon = std::numeric_limits<double>::epsilon();
constexpr int kMaxIterations = 60;  // an eigenvalue; about 2 are needed

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

// One QL sweep on rows first..last of d and the squared couplings c2, with the given shift.
void ql_sweep(std::vector<double>& d, std::vector<double>& c2, int64_t first, int64_t last,
              double shift) {
  double cosine = 1, sine = 0;
  double gamma = d[last] - shift;
  double p = gamma * gamma;
  for (int64_t i = last - 1; i >= first; --i) {
    const double square = c2[i];
    const double r = p + square;
    if (i + 1 < last) {
      c2[i + 1] = sine * r;
    }
    const double old_cosine = cosine, old_gamma = gamma;
    const double inverse = r == 0 ? 0 : 1 / r;
    cosine = r == 0 ? 1 : p * inverse;
    sine = square * inverse;
    gamma = cosine * (d[i] - shift) - sine * old_gamma;
    d[i + 1] = old_gamma + (d[i] - gamma);
    p = cosine == 0 ? old_cosine * square : gamma * gamma / cosine;
  }
  c2[first] = sine * p;
  d[first] = shift + gamma;
}

}  // namespace

std::vector<double> tridiagonal_eigenvalues(std::vector<double> d,
                                            const std::vector<double>& coupling) {
  const int64_t n = d.size();
  const double negligible = std::pow(kEpsilon * largest_entry(d, coupling), 2);
  std::vector<double> c2(n, 0);
  for (int64_t i = 0; i + 1 < n; ++i) {
    c2[i] = coupling[i] * coupling[i];
  }
  for (int64_t first = 0; first < n; ++first) {
    for (int iteration = 0;; ++iteration) {
      int64_t last = first;
      while (last + 1 < n && c2[last] > negligible) {
        ++last;
      }
      if (last == first) {
        break;
      }
      if (iteration == kMaxIterations) {
        return {};
      }
      c2[last] = 0;
      // Wilkinson's shift, from the 2 x 2 block at the top.
      const double root = std::sqrt(c2[first]);
      const double half = (d[first + 1] - d[first]) / (2 * root);
      const double shift = d[first] - root / (half + std::copysign(std::hypot(half, 1), half));
      ql_sweep(d, c2, first, last, shift);
    }
  }
  std::sort(d.begin(), d.end(), std::greater<>());
  return d;
}

void tridiagonal_eigenvector(const std::vector<double>& diagonal,
                             const std::vector<double>& coupling, double eigenvalue, double* z) {
  const int64_t n = diagonal.size();
  const double scale = largest_entry(diagonal, coupling);
  const double tiny = kEpsilon * kEpsilon * (scale > 0 ? scale : 1);
  const auto pivot = [tiny](double value) { return std::fabs(value) < tiny ? tiny : value; };

  std::vector<double> top(n), bottom(n);
  top[0] = pivot(diagonal[0] - eigenvalue);
  for (int64_t i = 1; i < n; ++i) {
    top[i] = pivot(diagonal[i] - eigenvalue - coupling[i - 1] * coupling[i - 1] / top[i - 1]);
  }
  bottom[n - 1] = pivot(diagonal[n - 1] - eigenvalue);
  for (int64_t i = n - 2; i >= 0; --i) {
    bottom[i] = pivot(diagonal[i] - eigenvalue - coupling[i] * coupling[i] / bottom[i + 1]);
  }

  int64_t twist = 0;
  double smallest = std::numeric_limits<double>::infinity();
  for (int64_t k = 0; k < n; ++k) {
    const double gamma = std::fabs(top[k] + bottom[k] - (diagonal[k] - eigenvalue));
    if (gamma < smallest) {
      smallest = gamma;
      twist = k;
    }
  }

  z[twist] = 1;
  double square = 1;
  for (int64_t i = twist; i > 0; --i) {
    z[i - 1] = -coupling[i - 1] / top[i - 1] * z[i];
    square += z[i - 1] * z[i - 1];
  }
  for (int64_t i = twist; i + 1 < n; ++i) {
    z[i + 1] = -coupling[i] / bottom[i + 1] * z[i];
    square += z[i + 1] * z[i + 1];
  }
  const double inverse = 1 / std::sqrt(square);
  for (int64_t i = 0; i < n; ++i) {
    z[i] *= inverse;
  }
}

}  // namespace svdprune::cpu
