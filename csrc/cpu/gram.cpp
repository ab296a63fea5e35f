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

#include "interleave.h"
#include "rank_k.h"

#include <algorithm>
#include <cmath>

namespace svdprune::cpu {

namespace {

// See Note [scaling]: the trace bounds every eigenvalue, and the solvers square in float64.
template <class T>
constexpr double kLargestTrace = sizeof(T) == sizeof(float) ? 1e30 : 1e140;
template <class T>
constexpr double kSmallestMeanSquare = sizeof(T) == sizeof(float) ? 1e-30 : 1e-140;

// A panel of X, or of X^T on the features' side; see FillPanel.
template <class T>
void fill_panel(const Image& image, const Gram<T>& gram, const PanelBlock& block, T* panel) {
  const auto [first, count, k, depth, width] = block;
  if (gram.side == Side::kFeatures) {
    pack(image, gram.transform, k, depth, first, count, panel, width);
    return;
  }
  if (const T* x = direct<T>(image, gram.transform)) {
    interleave(x + first * image.token_stride + k, count, image.token_stride, depth, panel, width);
    return;
  }
  constexpr int64_t kRows = 8;
  T rows[kRows * kPanelDepth];
  for (int64_t i = 0; i < count; i += kRows) {
    const int64_t some = std::min(kRows, count - i);
    pack(image, gram.transform, first + i, some, k, depth, rows, depth);
    interleave(rows, some, depth, depth, panel + i, width);
  }
}

template <class T>
void form(Crew& crew, const Image& image, Gram<T>& gram) {
  const int64_t depth = gram.side == Side::kTokens ? image.features : image.tokens;
  rank_k_product<T>(
      crew, depth,
      [&](const PanelBlock& block, T* panel) { fill_panel(image, gram, block, panel); },
      gram.matrix);
}

template <class T>
double diagonal_sum(const Gram<T>& gram) {
  double sum = 0;
  for (int64_t i = 0; i < gram.matrix.n; ++i) {
    sum += gram.matrix.at(i, i);
  }
  return sum;
}

}  // namespace

template <class T>
double scale_for_squares(const Image& image, const Transform& transform, double trace) {
  const double mean_square = trace / static_cast<double>(image.tokens * image.features);
  if (trace <= kLargestTrace<T> && mean_square >= kSmallestMeanSquare<T>) {
    return 1;
  }
  const double largest = largest_magnitude(image, transform);
  if (largest == 0) {
    return 1;
  }
  int exponent = 0;
  std::frexp(largest, &exponent);
  return std::ldexp(1.0, std::clamp(-exponent, -1022, 1022));
}

template <class T>
Gram<T> gram(Crew& crew, const Image& image, Side side, bool center) {
  const int64_t n = side == Side::kTokens ? image.tokens : image.features;
  Gram<T> result{side, SquareMatrix<T>(n), std::min(image.tokens, image.features), 0, {}};
  if (center) {
    result.transform.mean = feature_means(image);
  }
  form(crew, image, result);
  result.trace = diagonal_sum(result);

  result.transform.scale = scale_for_squares<T>(image, result.transform, result.trace);
  if (result.transform.scale != 1) {
    form(crew, image, result);
    result.trace = diagonal_sum(result);
  }
  return result;
}

template double scale_for_squares<float>(const Image&, const Transform&, double);
template double scale_for_squares<double>(const Image&, const Transform&, double);
template Gram<float> gram(Crew&, const Image&, Side, bool);
template Gram<double> gram(Crew&, const Image&, Side, bool);

}  // namespace svdprune::cpu
