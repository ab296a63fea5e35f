// Note [leverage from Gram]
// With X = U S V^T, the Gram matrix X X^T = U S^2 U^T has the left singular vectors as
// eigenvectors, so the leverage l_i = ||U[i, :r]||^2 needs no SVD of X. When D < N the smaller X^T
// X = V S^2 V^T serves: U_r = X V_r S_r^-1, hence l_i = ||x_i V_r S_r^-1||^2. Squaring the singular
// values costs accuracy only for directions below sqrt(eps) s_1, which carry no energy the method
// would keep.
//
// Note [scaling]
// Squares overflow for |x| > 1e18 and underflow for |x| < 1e-19 in float32. Leverage does not
// depend on the scale of X, so when the trace shows either, the Gram is formed again from features
// scaled by a power of two, which is exact.

#include "gram.h"

#include "blas.h"

#include <algorithm>
#include <cmath>

namespace svdprune::cpu {

namespace {

constexpr int64_t kStrips = 4;  // lower-triangular strips: 5/8 of the work of the full product
constexpr int64_t kPanelTokens = 256;  // rows or columns packed at a time
constexpr int64_t kPanelFeatures = 256;

// See Note [scaling]: the trace bounds every eigenvalue, and the solvers square in float64.
template <class T>
constexpr double kLargestTrace = sizeof(T) == sizeof(float) ? 1e30 : 1e140;
template <class T>
constexpr double kSmallestMeanSquare = sizeof(T) == sizeof(float) ? 1e-30 : 1e-140;

// values = panel panel^T (+ beta values) for tokens, panel^T panel for features; lower triangle
// only. panel: row-major with leading dimension ld, [n, depth] for tokens, [depth, n] for features.
template <class T>
void add_product(Side side, int64_t n, int64_t depth, const T* panel, int64_t ld, T beta,
                 T* values) {
  const int64_t width = std::max<int64_t>(64, (n + kStrips - 1) / kStrips);
  for (int64_t a = 0; a < n; a += width) {
    const int64_t columns = std::min(width, n - a);
    T* out = values + a + a * n;
    if (side == Side::kTokens) {
      const T* rows = panel + a * ld;
      gemm('T', 'N', n - a, columns, depth, rows, ld, rows, ld, beta, out, n);
    } else {
      const T* rows = panel + a;
      gemm('N', 'T', n - a, columns, depth, rows, ld, rows, ld, beta, out, n);
    }
  }
}

template <class T>
void form(const Image& image, Gram<T>& gram) {
  T* values = gram.values.get();
  if (const T* x = direct<T>(image, gram.transform)) {
    const int64_t depth = gram.side == Side::kTokens ? image.features : image.tokens;
    add_product<T>(gram.side, gram.n, depth, x, image.token_stride, 0, values);
    return;
  }
  if (gram.side == Side::kTokens) {
    std::vector<T> panel(image.tokens * std::min(kPanelFeatures, image.features));
    for (int64_t j = 0; j < image.features; j += kPanelFeatures) {
      const int64_t width = std::min(kPanelFeatures, image.features - j);
      pack(image, gram.transform, 0, image.tokens, j, width, panel.data());
      add_product<T>(gram.side, gram.n, width, panel.data(), width, j == 0 ? 0 : 1, values);
    }
  } else {
    std::vector<T> panel(std::min(kPanelTokens, image.tokens) * image.features);
    for (int64_t i = 0; i < image.tokens; i += kPanelTokens) {
      const int64_t rows = std::min(kPanelTokens, image.tokens - i);
      pack(image, gram.transform, i, rows, 0, image.features, panel.data());
      add_product<T>(gram.side, gram.n, rows, panel.data(), image.features, i == 0 ? 0 : 1, values);
    }
  }
}

template <class T>
double diagonal_sum(const Gram<T>& gram) {
  double sum = 0;
  for (int64_t i = 0; i < gram.n; ++i) {
    sum += gram.values[i * (gram.n + 1)];
  }
  return sum;
}

}  // namespace

template <class T>
Gram<T> gram(const Image& image, Side side, bool center) {
  const int64_t n = side == Side::kTokens ? image.tokens : image.features;
  Gram<T> result{side, n, std::unique_ptr<T[]>(new T[n * n]), 0, {}};
  if (center) {
    result.transform.mean = feature_means(image);
  }
  form(image, result);
  result.trace = diagonal_sum(result);

  const double mean_square = result.trace / static_cast<double>(image.tokens * image.features);
  if (result.trace <= kLargestTrace<T> && mean_square >= kSmallestMeanSquare<T>) {
    return result;
  }
  const double largest = largest_magnitude(image, result.transform);
  if (largest == 0) {
    result.trace = 0;
    return result;
  }
  int exponent = 0;
  std::frexp(largest, &exponent);
  result.transform.scale = std::ldexp(1.0, std::clamp(-exponent, -1022, 1022));
  form(image, result);
  result.trace = diagonal_sum(result);
  return result;
}

template Gram<float> gram(const Image&, Side, bool);
template Gram<double> gram(const Image&, Side, bool);

}  // namespace svdprune::cpu
