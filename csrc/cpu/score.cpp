// Note [precision]
// A float64 image is solved in float64, any other in float32, by the solver that is asked for. If float32 may miss what is
// promised (refine.h), the same solver does it again in float64; if the solver cannot do it, LAPACK's does, in float64.
// "purify" works in float64 alone.

#include "score.h"

#include "leverage.h"
#include "refine.h"
#include "spectrum.h"
#include "whiten.h"

#include <algorithm>
#include <optional>
#include <type_traits>
#include <vector>

namespace svdprune::cpu {

namespace {

// Stages 1 to 3 in T. None where they are to be done in float64 by the solver `again`.
template <class T>
std::optional<Solved> solve(Crew& crew, const Image& image, const Options& options, T* scores,
                            Solver& again) {
  try {
    const Side side = options.solver == Solver::kPurify ? Side::kTokens : smaller_side(image);
    Spectrum<T> result = spectrum(crew, gram<T>(crew, image, side, options.center), options);
    if constexpr (std::is_same_v<T, float>) {
      if (needs_float64(crew, image, result)) {
        again = result.solver;
        return std::nullopt;
      }
    }
    whiten(crew, image, result);
    leverage(crew, image, result, scores);
    return Solved{result.rank, result.steps, result.n, result.solver};
  } catch (const NeedsOtherSolver&) {
    again = Solver::kEigh;
    return std::nullopt;
  }
}

Solved solve_in_float64(Crew& crew, const Image& image, Options options, double* scores) {
  std::optional<Solved> solved = solve(crew, image, options, scores, options.solver);
  return solved ? *solved : solve(crew, image, options, scores, options.solver).value();
}

}  // namespace

Solved score_image(Crew& crew, const Image& image, const Options& options, void* scores) {
  const bool is_float64 = image.dtype == ScalarType::Double;
  if (image.tokens == 0 || image.features == 0) {
    std::fill_n(static_cast<char*>(scores), image.tokens * (is_float64 ? 8 : 4), 0);
    return {};
  }
  if (is_float64) {
    return solve_in_float64(crew, image, options, static_cast<double*>(scores));
  }
  Options in_float64 = options;
  const bool tries_float32 = options.solver != Solver::kPurify;
  if (tries_float32) {
    const std::optional<Solved> solved =
        solve(crew, image, options, static_cast<float*>(scores), in_float64.solver);
    if (solved) {
      return *solved;
    }
  }
  std::vector<double> wide(image.tokens);
  Solved solved = solve_in_float64(crew, image, in_float64, wide.data());
  std::copy(wide.begin(), wide.end(), static_cast<float*>(scores));
  solved.refined = tries_float32;
  return solved;
}

}  // namespace svdprune::cpu
