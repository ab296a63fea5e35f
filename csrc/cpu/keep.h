// All five stages for one image.
#pragma once

#include "crew.h"

#include "../image.h"

namespace svdprune::cpu {

// How many tokens stay, and by which rule.
struct Rule {
  Select select;
  int64_t most;
  double coverage;  // in (0, 1]: as few of them as reach that share; 0: all of `most`
};

// Where an image's results go.
struct Outputs {
  void* scores;      // [N]: float64 for a float64 image, float32 for all others
  int64_t* indices;  // [most], ascending, then -1
  void* tokens;      // [most, D], in the image's dtype
};

struct Kept {
  int64_t count;
  int64_t rank;
};

// Throws NotFinite.
Kept keep_image(Crew& crew, const Image& image, const Options& options, const Rule& rule,
                const Outputs& outputs);

}  // namespace svdprune::cpu
