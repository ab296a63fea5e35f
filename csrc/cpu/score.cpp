#include "score.h"

#include "leverage.h"
#include "refine.h"
#include "spectrum.h"
#include "whiten.h"

#include <algorithm>
#include <type_traits>
#include <vector>

namespace svdprune::cpu {

namespace {

// Stages 1 and 2. Where "tridiag" meets a multiple eigenvalue, or "purify" does not settle, LAPACK takes
// over.
template <class T>
Spectrum<T> spectrum_of(Crew& crew, const Image& image, Options options) {
  const Side side = options.solver == Solver::kPurify ? Side::kTokens : smaller_side(image);
  try {
    return spectrum(crew, gram<T>(crew, image, side, options.center), options);
  } catch (const NotSeparated&) {
    options.solver = Solver::kEigh;
    return spectrum(crew, gram<T>(crew, image, smaller_side(image), options.center), options);
  }
}

template <class T>
Solved score_image_as(Crew& crew, const Image& image, const Options& options, T* scores);

// An image of float32 or less, worked on in float64.
Solved score_image_in_float64(Crew& crew, const Image& image, const Options& options,
                              float* scores) {
  std::vector<double> wide(image.tokens);
  const Solved solved = score_image_as(crew, image, options, wide.data());
  std::copy(wide.begin(), wide.end(), scores);
  return solved;
}

template <class T>
Solved score_image_as(Crew& crew, const Image& image, const Options& options, T* scores) {
  if (image.tokens == 0 || image.features == 0) {
    std::fill_n(scores, image.tokens, T(0));
    return {};
  }
  Spectrum<T> result = spectrum_of<T>(crew, image, options);
  if constexpr (std::is_same_v<T, float>) {
    if (needs_float64(image, result)) {
      Options same_solver = options;
      same_solver.solver = result.solver;
      Solved solved = score_image_in_float64(crew, image, same_solver, scores);
      solved.refined = true;
      return solved;
    }
  }
  if (result.side == Side::kFeatures && result.rank > 0) {
    whiten(image, result);
  }
  leverage(crew, image, result, scores);
  return {result.rank, result.steps, result.n, result.solver};
}

}  // namespace

Solved score_image(Crew& crew, const Image& image, const Options& options, void* scores) {
  if (image.dtype == ScalarType::Double) {
    return score_image_as(crew, image, options, static_cast<double*>(scores));
  }
  if (options.solver == Solver::kPurify) {
    return score_image_in_float64(crew, image, options, static_cast<float*>(scores));
  }
  return score_image_as(crew, image, options, static_cast<float*>(scores));
}

}  // namespace svdprune::cpu
