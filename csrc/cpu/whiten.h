// The end of stage 2 on the features' side: from right singular vectors to left ones.
#pragma once

#include "spectrum.h"

namespace svdprune::cpu {

// D x D: basis V_r [D, r] -> V_r S_r^-1, so that U_r = X basis has orthonormal columns. A
// direction in which X has nothing of its own is dropped, and the rank falls. N x N: nothing to do.
template <class T>
void whiten(Crew& crew, const Image& image, Spectrum<T>& spectrum);

}  // namespace svdprune::cpu
