#include "purification.h"

#include "blas.h"
#include "spectrum.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>

namespace svdprune::cpu {

namespace {

constexpr int64_t kMostProducts = 500;
constexpr double kIdempotent = 1e-12;     // ||X - X^2||_F of a projector, at most
constexpr double kWhole = 1e-6;           // distance from a whole number, at most
constexpr double kOneEigenvalue = 1e-14;  // ||Y G - lambda Y||_F / (||Y||_F ||G||_F), at most
constexpr int64_t kProductsBetweenTests = 8;

double dot(const Matrix& a, const Matrix& b) {
  return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
}

double trace(const Matrix& a, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) {
    sum += a[i * (n + 1)];
  }
  return sum;
}

bool is_whole(double value) {
  return std::fabs(value - std::round(value)) <= kWhole;
}

}  // namespace

Purification::Purification(int64_t n, const double* gram) : n_(n), g_(n * n) {
  for (int64_t j = 0; j < n; ++j) {
    for (int64_t i = j; i < n; ++i) {
      g_[i + j * n] = g_[j + i * n] = gram[i + j * n];
    }
  }
  norm_ = std::sqrt(dot(g_, g_));
}

Matrix Purification::start() const {
  double largest_sum = 0;
  for (int64_t j = 0; j < n_; ++j) {
    const auto add = [](double sum, double value) { return sum + std::fabs(value); };
    const auto column = g_.begin() + j * n_;
    largest_sum = std::max(largest_sum, std::accumulate(column, column + n_, 0.0, add));
  }
  const double bound = std::min(largest_sum, norm_);
  const double shift = static_cast<double>(n_) * std::numeric_limits<double>::epsilon() * bound;
  const double scale = 0.5 / (bound + shift);
  Matrix x(g_);
  for (int64_t i = 0; i < n_; ++i) {
    x[i * (n_ + 1)] += shift;
  }
  std::transform(x.begin(), x.end(), x.begin(), [scale](double value) { return scale * value; });
  return x;
}

PurifiedCut Purification::steer(Matrix& x, const Target& target) {
  Matrix y(n_ * n_);
  for (;;) {
    multiply(x, x, y);
    const double now = excess(x, target);
    const double squared = excess(y, target);
    const double doubled = 2 * now - squared;  // the excess of 2 X - X^2
    std::transform(x.begin(), x.end(), y.begin(), y.begin(), std::minus<>());
    if (const std::optional<PurifiedCut> cut = read(x, y, target)) {
      if (target.kind == Target::Kind::kCount && cut->split == 0 &&
          static_cast<double>(cut->whole) != target.value) {
        throw NotSeparated();
      }
      return *cut;
    }
    if (std::fabs(squared) <= std::fabs(doubled)) {
      std::transform(x.begin(), x.end(), y.begin(), x.begin(), std::minus<>());
    } else {
      std::transform(x.begin(), x.end(), y.begin(), x.begin(), std::plus<>());
    }
  }
}

Matrix Purification::projector(Matrix x, int64_t rank) {
  if (steer(x, Target::count(rank)).split != 0) {
    throw NotSeparated();
  }
  return x;
}

double Purification::energy(const Matrix& x) const {
  return dot(x, g_);
}

// out = (a b + (a b)^T) / 2, as a and b commute.
void Purification::multiply(const Matrix& a, const Matrix& b, Matrix& out) {
  if (++products_ > kMostProducts) {
    throw NotSeparated();
  }
  gemm('N', 'N', n_, n_, n_, a.data(), n_, b.data(), n_, 0.0, out.data(), n_);
  for (int64_t j = 0; j < n_; ++j) {
    for (int64_t i = j + 1; i < n_; ++i) {
      const double mean = (out[i + j * n_] + out[j + i * n_]) / 2;
      out[i + j * n_] = out[j + i * n_] = mean;
    }
  }
}

double Purification::excess(const Matrix& x, const Target& target) const {
  return (target.kind == Target::Kind::kCount ? trace(x, n_) : energy(x)) - target.value;
}

// The cut, once y = x - x^2 shows it.
std::optional<PurifiedCut> Purification::read(const Matrix& x, const Matrix& y,
                                              const Target& target) {
  const double norm = std::sqrt(dot(y, y));
  if (norm <= kIdempotent) {
    return PurifiedCut{std::lround(trace(x, n_)), 0, energy(x), 0};
  }
  const double weight = trace(y, n_);
  const double split = std::pow(weight / norm, 2);
  const double fraction = dot(x, y) / weight;
  const double whole = trace(x, n_) - std::round(split) * fraction;
  if (!(weight > 0 && split > 0.5 && is_whole(split) && is_whole(whole))) {
    return std::nullopt;
  }
  const double eigenvalue = energy(y) / weight;
  const PurifiedCut cut{std::lround(whole), std::lround(split),
                        energy(x) - std::round(split) * fraction * eigenvalue, eigenvalue};
  if (target.kind == Target::Kind::kCount &&
      !(static_cast<double>(cut.whole) < target.value &&
        target.value < static_cast<double>(cut.whole + cut.split))) {
    return std::nullopt;  // whole and split directions will part
  }
  if (cut.split > 1 && !is_one_eigenvalue(y, norm, eigenvalue)) {
    return std::nullopt;
  }
  return cut;
}

bool Purification::is_one_eigenvalue(const Matrix& y, double norm, double eigenvalue) {
  if (products_ < next_test_) {
    return false;
  }
  Matrix residual(n_ * n_);
  multiply(y, g_, residual);
  next_test_ = products_ + kProductsBetweenTests;
  std::transform(residual.begin(), residual.end(), y.begin(), residual.begin(),
                 [eigenvalue](double yg, double other) { return yg - eigenvalue * other; });
  return std::sqrt(dot(residual, residual)) <= kOneEigenvalue * norm * norm_;
}

}  // namespace svdprune::cpu
