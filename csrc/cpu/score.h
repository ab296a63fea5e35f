// Stages 1 to 3 for one image, with the fallbacks between them.
#pragma once

#include "crew.h"

#include "../image.h"

namespace svdprune::cpu {

// How an image was solved.
struct Solved {
  int64_t rank = 0;
  int64_t steps = 0;  // of the tridiagonalisation; size for "eigh"; products for "purify"
  int64_t size = 0;   // n, of the Gram matrix
  Solver solver = Solver::kAuto;  // that ran; kAuto: none was needed, as the image holds no energy
  bool refined = false;           // solved again in float64, which the rest is of; see refine.h
};

// scores [N]: float64 for a float64 image, float32 for all others. Throws NotFinite.
Solved score_image(Crew& crew, const Image& image, const Options& options, void* scores);

}  // namespace svdprune::cpu
