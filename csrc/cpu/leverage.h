// Stage 3 of 5, leverage: squared row norms of the leading left singular vectors.
#pragma once

#include "spectrum.h"

namespace svdprune::cpu {

// scores [N]: l_i = ||U[i, :r]||^2, see Note [leverage from Gram] in gram.cpp. On the features'
// side the basis is whitened.
template <class T>
void leverage(Crew& crew, const Image& image, const Spectrum<T>& spectrum, T* scores);

// norms [n]: squared row norms of basis [n, columns], column-major, or what they lack to 1. Sums in
// float64, in a fixed order.
template <class T>
void row_norms(const T* basis, int64_t n, int64_t columns, bool complement, T* norms);

}  // namespace svdprune::cpu
