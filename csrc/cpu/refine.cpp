// Note [refinement]
// Rounding E of the Gram matrix and of its reduction mixes two eigenvectors u, v on either side of the cut by
// the angle u^T E v / (lambda_u - lambda_v), and changes the leverage of token i by twice that times u_i v_i.
// E's entries are independent roundings, so |u^T E v| / lambda_1 is of the order of eps for vectors that live
// in a few tokens, and falls as they spread; the root of 2 max |u_i v_i| stands for that. The promised
// max(2e-4, 3e-9 / gap) is thus missed only for a narrow gap and vectors that meet in some token, as those of
// a small image or of outlier tokens do. The pair next to the cut decides. On the features' side u = X v / s,
// and directions with next to no energy cannot be told from rounding at all.

#include "refine.h"

#include "strips.h"

#include <algorithm>
#include <cmath>

namespace svdprune::cpu {

namespace {

// |u^T E v| / lambda_1 of vectors in one token. Set by trial on 16,000 random spectra: half of it misses
// the promise in one of them.
constexpr double kNoise = 2e-7;
constexpr double kFloor = 1e-4;  // half of what is promised
constexpr double kNoisePromised = 1.5e-9;
constexpr double kLeastEnergy = 1e-5;  // lambda_r / lambda_1, features' side

// max_i |u_i v_i| of the pair at the cut.
double largest_meeting(const Image& image, const Spectrum<float>& spectrum) {
  const Cut<float>& cut = spectrum.cut;
  double largest = 0;
  const auto scan = [&](const float* u, const float* v, int64_t count, double scale) {
    for (int64_t i = 0; i < count; ++i) {
      largest = std::max(largest, scale * std::fabs(static_cast<double>(u[i]) * v[i]));
    }
  };
  if (spectrum.side == Side::kTokens) {
    scan(cut.pair.data(), cut.pair.data() + spectrum.n, spectrum.n, 1);
    return largest;
  }
  const double scale = 1 / std::sqrt(std::max(cut.eigenvalues[0] * cut.eigenvalues[1], 1e-300));
  Crew alone;
  for_each_strip(alone, image, spectrum.transform, spectrum.n, cut.pair.data(), 2,
                 [&](int64_t, int64_t rows, const float* product) {
                   scan(product, product + rows, rows, scale);
                 });
  return largest;
}

}  // namespace

bool needs_float64(const Image& image, const Spectrum<float>& spectrum) {
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
  const double meeting = 2 * largest_meeting(image, spectrum);
  return kNoise * std::pow(meeting, 1.5) / gap > std::max(kFloor, kNoisePromised / gap);
}

}  // namespace svdprune::cpu
