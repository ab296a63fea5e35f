// When float32 is not enough for an image.
#pragma once

#include "spectrum.h"

namespace svdprune::cpu {

// Whether a float32 spectrum may miss the accuracy promised for the scores, so that the image is to be solved
// again in float64. See Note [refinement].
bool needs_float64(Crew& crew, const Image& image, const Spectrum<float>& spectrum);

}  // namespace svdprune::cpu
