#include "leverage.h"

#include "strips.h"

#include <algorithm>

namespace svdprune::cpu {

// norms [n] = squared row norms of basis [n, columns], column-major, or what they leave of 1; in [0, 1] despite rounding.
template <class T>
void row_norms(const T* basis, int64_t n, int64_t columns, bool complement, T* norms) {
  std::vector<double> sums(n, 0);
  for (int64_t j = 0; j < columns; ++j) {
    const T* column = basis + j * n;
    for (int64_t i = 0; i < n; ++i) {
      const double value = column[i];
      sums[i] += value * value;
    }
  }
  for (int64_t i = 0; i < n; ++i) {
    norms[i] = static_cast<T>(std::clamp(complement ? 1 - sums[i] : sums[i], 0.0, 1.0));
  }
}

template <class T>
void leverage(Crew& crew, const Image& image, const Spectrum<T>& spectrum, T* scores) {
  if (spectrum.rank == 0) {
    std::fill_n(scores, image.tokens, T(0));
  } else if (spectrum.side == Side::kTokens) {
    row_norms(spectrum.basis, spectrum.n, spectrum.columns, spectrum.complement, scores);
  } else {
    for_each_strip(crew, image, spectrum.transform, spectrum.n, spectrum.basis, spectrum.rank,
                   [&](int64_t i, int64_t rows, const T* product) {
                     row_norms(product, rows, spectrum.rank, false, scores + i);
                   });
  }
}

template void row_norms(const float*, int64_t, int64_t, bool, float*);
template void row_norms(const double*, int64_t, int64_t, bool, double*);
template void leverage(Crew&, const Image&, const Spectrum<float>&, float*);
template void leverage(Crew&, const Image&, const Spectrum<double>&, double*);

}  // namespace svdprune::cpu
