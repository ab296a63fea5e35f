#include "purification.h"

#include "blas.h"
#include "spectrum.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>
#include <utility>

namespace svdprune::cpu {

namespace {

constexpr int64_t kMostEnergySteps = 40;
constexpr double kFewFractions = 0.5;     // tr(X - X^2)
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

// x <- x^2 or 2 x - x^2, with y = x - x^2, whichever leaves tr(x) or tr(x g) nearer to its target; the excess
// over it is given before the step and after squaring.
void step(Matrix& x, const Matrix& y, double excess, double squared) {
  const double doubled = 2 * excess - squared;
  if (std::fabs(squared) <= std::fabs(doubled)) {
    std::transform(x.begin(), x.end(), y.begin(), x.begin(), std::minus<>());
  } else {
    std::transform(x.begin(), x.end(), y.begin(), x.begin(), std::plus<>());
  }
}

bool is_whole(double value) {
  return std::fabs(value - std::round(value)) <= kWhole;
}

}  // namespace

Purification::Purification(const SquareMatrix<double>& gram, int64_t most)
    : n_(gram.n), g_(n_ * n_), most_(most) {
  for (int64_t j = 0; j < n_; ++j) {
    for (int64_t i = j; i < n_; ++i) {
      g_[i + j * n_] = g_[j + i * n_] = gram.at(i, j);
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

Purified Purification::to_rank(int64_t rank) {
  return steer(start(), rank);
}

Matrix Purification::to_projector(Matrix x, int64_t rank) {
  Purified result = steer(std::move(x), rank);
  if (result.split != 0) {
    throw NeedsOtherSolver();
  }
  return std::move(result.x);
}

int64_t Purification::rank_near(double threshold) {
  Matrix x = start();
  Matrix y(n_ * n_);
  for (int64_t steps = 1;; ++steps) {
    multiply(x, x, y);
    const double excess = dot(x, g_) - threshold;
    const double squared = dot(y, g_) - threshold;
    std::transform(x.begin(), x.end(), y.begin(), y.begin(), std::minus<>());
    const double weight = trace(y, n_);
    const double energy = dot(y, g_);
    if ((weight <= kFewFractions && std::fabs(excess) <= energy) || steps == kMostEnergySteps) {
      const double rank = std::ceil(trace(x, n_) - excess * weight / energy);
      const double most = static_cast<double>(n_);
      return static_cast<int64_t>(std::isfinite(rank) ? std::clamp(rank, 1.0, most) : most);
    }
    step(x, y, excess, squared);
  }
}

Purified Purification::steer(Matrix x, int64_t rank) {
  Matrix y(n_ * n_);
  for (;;) {
    multiply(x, x, y);
    const double target = static_cast<double>(rank);
    const double excess = trace(x, n_) - target;
    const double squared = trace(y, n_) - target;
    std::transform(x.begin(), x.end(), y.begin(), y.begin(), std::minus<>());
    if (std::optional<Purified> result = read(x, y, rank)) {
      return std::move(*result);
    }
    step(x, y, excess, squared);
  }
}

// out = (a b + (a b)^T) / 2, as a and b commute.
void Purification::multiply(const Matrix& a, const Matrix& b, Matrix& out) {
  if (products_ == most_) {
    throw NeedsOtherSolver();
  }
  ++products_;
  gemm('N', 'N', n_, n_, n_, a.data(), n_, b.data(), n_, 0.0, out.data(), n_);
  for (int64_t j = 0; j < n_; ++j) {
    for (int64_t i = j + 1; i < n_; ++i) {
      const double mean = (out[i + j * n_] + out[j + i * n_]) / 2;
      out[i + j * n_] = out[j + i * n_] = mean;
    }
  }
}

// The result, taking x, once y = x - x^2 shows it.
std::optional<Purified> Purification::read(Matrix& x, const Matrix& y, int64_t rank) {
  const double norm = std::sqrt(dot(y, y));
  const double count = trace(x, n_);
  if (norm <= kIdempotent) {
    if (std::llround(count) != rank) {
      throw NeedsOtherSolver();
    }
    const double energy = dot(x, g_);
    return Purified{std::move(x), rank, 0, energy, 0};
  }
  const double weight = trace(y, n_);
  const double fraction = dot(x, y) / weight;
  const double split = std::pow(weight / norm, 2);
  const double whole = count - std::round(split) * fraction;
  if (!(weight > 0 && is_whole(split) && is_whole(whole))) {
    return std::nullopt;
  }
  const int64_t k = std::llround(whole);
  const int64_t m = std::llround(split);
  const double eigenvalue = dot(y, g_) / weight;
  if (!(k < rank && rank < k + m && is_one_eigenvalue(y, norm, eigenvalue))) {
    return std::nullopt;
  }
  const double energy = dot(x, g_) - static_cast<double>(m) * fraction * eigenvalue;
  return Purified{std::move(x), k, m, energy, eigenvalue};
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
