// Stage 5 of 5, gather: the kept tokens' features, bit for bit.
#pragma once

#include "../image.h"

namespace svdprune::cpu {

// tokens [keep, features], contiguous, in the image's dtype; a row of zeros where indices[k] is -1.
void gather(const Image& image, const int64_t* indices, int64_t keep, void* tokens);

}  // namespace svdprune::cpu
