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

template <class T>
Solved score_image_as(Crew& crew, const Image& image, Options options, T* scores);

// An image of float32 or less, worked on in float64.
Solved score_image_in_float64(Crew& crew, const Image& image, const Options& options,
                              float* scores) {
  std::vector<double> wide(image.tokens);
  const Solved solved = score_image_as(crew, image, options, wide.data());
  std::copy(wide.begin(), wide.end(), scores);
  return solved;
}

// The same again, as float32 has not done.
Solved refine_image(Crew& crew, const Image& image, Options options, Solver solver, float* scores) {
  options.solver = solver;
  Solved solved = score_image_in_float64(crew, image, options, scores);
  solved.refined = true;
  return solved;
}

// By the solver that is asked for. Throws NotSeparated.
template <class T>
Solved score_image_by(Crew& crew, const Image& image, const Options& options, T* scores) {
  const Side side = options.solver == Solver::kPurify ? Side::kTokens : smaller_side(image);
  Spectrum<T> result = spectrum(crew, gram<T>(crew, image, side, options.center), options);
  if constexpr (std::is_same_v<T, float>) {
    if (needs_float64(crew, image, result)) {
      return refine_image(crew, image, options, result.solver, scores);
    }
  }
  whiten(crew, image, result);
  leverage(crew, image, result, scores);
  return {result.rank, result.steps, result.n, result.solver};
}

// Where that one meets a multiple eigenvalue, or does not settle, LAPACK takes over, in float64.
template <class T>
Solved score_image_as(Crew& crew, const Image& image, Options options, T* scores) {
  if (image.tokens == 0 || image.features == 0) {
    std::fill_n(scores, image.tokens, T(0));
    return {};
  }
  try {
    return score_image_by(crew, image, options, scores);
  } catch (const NotSeparated&) {
    if constexpr (std::is_same_v<T, float>) {
      return refine_image(crew, image, options, Solver::kEigh, scores);
    }
    options.solver = Solver::kEigh;
    return score_image_by(crew, image, options, scores);
  }
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
