// Note [refinement]
// Rounding E of the Gram matrix and of its reduction mixes two eigenvectors u, v on either side of the cut by
// the angle phi = u^T E v / (lambda_u - lambda_v), and changes the leverage of token i by twice phi times u_i v_i,
// and by phi^2 times v_i^2 - u_i^2, which counts where they live in different tokens. E's entries are independent
// roundings. The promised max(2e-4, 3e-9 / gap) may be missed in three ways:
//  - By one pair, the one next to the cut, if its vectors live in few tokens, as those of a small image or of outlier
//    tokens do. |u^T E v| / lambda_1 is of the order of eps then, and falls as they spread.
//  - By many pairs, each worth little, where eigenvalues crowd on both sides of the cut, as on plateaus of the spectrum.
//    Where vectors u_j above and v_k below it spread, all u_j^T E v_k have the same standard deviation, of the order of
//    eps sqrt(sum lambda^2 / n), and that of a token's change is twice as much times the root of the sum over all pairs of
//    (u_ij v_ik / (lambda_j - lambda_k))^2. With the distances a_j, b_k of the eigenvalues from the middle of the cut,
//    (a_j + b_k)^2 >= 4 a_j b_k, and u_ij^2 is 1 / N on average: sqrt(sum_j 1 / a_j sum_k 1 / b_k) / N is a bound (Cut::crowd).
//  - On the features' side u = X v / s, and directions with next to no energy cannot be told from rounding at all.

#include "refine.h"

#include "strips.h"

#include <algorithm>
#include <cmath>
#include <mutex>

namespace svdprune::cpu {

namespace {

// |u^T E v| / lambda_1 of vectors in one token. Set by trial, on 78,000 random images, sparse or of clusters and outliers.
constexpr double kNoise = 1e-6;
// Of a token's change over the bound for spread vectors: the largest of all tokens, set by trial.
constexpr double kNoiseOfCrowd = 4e-7;
constexpr double kFloor = 1e-4;  // half of what is promised
constexpr double kNoisePromised = 1.5e-9;
constexpr double kLeastEnergy = 1e-5;  // lambda_r / lambda_1, features' side

// Of the pair at the cut.
struct Largest {
  double u = 0, v = 0;  // max_i |u_i|, max_i |v_i|
  double meeting = 0;   // 2 max_i |u_i v_i|
};

Largest largest_of(Crew& crew, const Image& image, const Spectrum<float>& spectrum) {
  const Cut<float>& cut = spectrum.cut;
  Largest largest;
  const auto scan = [&](const float* u, const float* v, int64_t count, double of_u, double of_v) {
    for (int64_t i = 0; i < count; ++i) {
      const double one = of_u * std::fabs(u[i]), other = of_v * std::fabs(v[i]);
      largest.u = std::max(largest.u, one);
      largest.v = std::max(largest.v, other);
      largest.meeting = std::max(largest.meeting, 2 * one * other);
    }
  };
  if (spectrum.side == Side::kTokens) {
    scan(cut.pair.data(), cut.pair.data() + spectrum.n, spectrum.n, 1, 1);
    return largest;
  }
  const auto inverse = [](double energy) { return 1 / std::sqrt(std::max(energy, 1e-300)); };
  std::mutex mutex;
  for_each_strip(crew, image, spectrum.transform, spectrum.n, cut.pair.data(), 2,
                 [&](int64_t, int64_t rows, const float* product) {
                   const std::lock_guard lock(mutex);
                   scan(product, product + rows, rows, inverse(cut.eigenvalues[0]),
                        inverse(cut.eigenvalues[1]));
                 });
  return largest;
}

}  // namespace

bool needs_float64(Crew& crew, const Image& image, const Spectrum<float>& spectrum) {
  if (spectrum.rank == 0) {
    return false;
  }
  if (spectrum.side == Side::kFeatures &&
      spectrum.eigenvalues.back() < kLeastEnergy * spectrum.eigenvalues.front()) {
    return true;
  }
  if (spectrum.cut.pair.empty()) {
    return false;
  }
  const double gap = std::max(spectrum.cut.relative_gap, 1e-12);
  const double allowed = std::max(kFloor, kNoisePromised / gap);
  if (kNoiseOfCrowd * spectrum.cut.crowd / static_cast<double>(image.tokens) > allowed) {
    return true;
  }
  const Largest largest = largest_of(crew, image, spectrum);
  const double apart = kNoise * largest.u * largest.v / gap * std::max(largest.u, largest.v);
  const double error = kNoise * std::pow(largest.meeting, 2) / gap + apart * apart;
  return error > allowed;
}

}  // namespace svdprune::cpu
