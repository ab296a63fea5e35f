#include "score.h"

#include "leverage.h"
#include "spectrum.h"
#include "whiten.h"

#include <algorithm>
#include <vector>

namespace svdprune::cpu {

namespace {

// lambda_r / lambda_1 on the features' side below which float32 cannot tell U_r = X V_r S_r^-1 from
// rounding. Such directions are only reached when they are asked for; float64 then does the work.
constexpr double kLeastEnergy = 1e-5;

// Stages 1 and 2. Where "tridiag" meets a multiple eigenvalue, LAPACK takes over.
template <class T>
Spectrum<T> spectrum_of(const Image& image, Options options) {
  const Side side = smaller_side(image);
  try {
    return spectrum(gram<T>(image, side, options.center), options);
  } catch (const NotSeparated&) {
    options.solver = Solver::kEigh;
    return spectrum(gram<T>(image, side, options.center), options);
  }
}

template <class T>
Solved score_image_as(const Image& image, const Options& options, T* scores) {
  if (image.tokens == 0 || image.features == 0) {
    std::fill_n(scores, image.tokens, T(0));
    return {};
  }
  Spectrum<T> result = spectrum_of<T>(image, options);
  if (result.side == Side::kFeatures && result.rank > 0) {
    if (sizeof(T) == sizeof(float) &&
        result.eigenvalues.back() < kLeastEnergy * result.eigenvalues.front()) {
      std::vector<double> wide(image.tokens);
      const Solved solved = score_image_as(image, options, wide.data());
      std::copy(wide.begin(), wide.end(), scores);
      return solved;
    }
    whiten(image, result);
  }
  leverage(image, result, scores);
  return {result.rank, result.steps, result.n, result.solver};
}

}  // namespace

Solved score_image(const Image& image, const Options& options, void* scores) {
  return image.dtype == ScalarType::Double
             ? score_image_as(image, options, static_cast<double*>(scores))
             : score_image_as(image, options, static_cast<float*>(scores));
}

}  // namespace svdprune::cpu
