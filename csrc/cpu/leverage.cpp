#include "leverage.h"

#include "blas.h"

#include <algorithm>

namespace svdprune::cpu {

namespace {

constexpr int64_t kStripTokens = 256;

// D x D: U_r = X V_r S_r^-1, a strip of tokens at a time so that no N x r matrix is held.
// The division amplifies the Gram's rounding by lambda_1 / lambda_r; prune.cpp goes to N x N where
// spectrum() found that ratio too large.
template <class T>
void leverage_from_features(const Image& image, const Spectrum<T>& spectrum, T* scores) {
  const int64_t d = spectrum.n;
  const T* x = direct<T>(image, spectrum.transform);
  const int64_t strip = std::min(kStripTokens, image.tokens);
  std::vector<T> panel(x ? 0 : strip * d);
  std::vector<T> rotated(strip * spectrum.rank);
  for (int64_t i = 0; i < image.tokens; i += strip) {
    const int64_t rows = std::min(strip, image.tokens - i);
    const T* block = x ? x + i * image.token_stride : panel.data();
    if (!x) {
      pack(image, spectrum.transform, i, rows, 0, d, panel.data());
    }
    const int64_t ld = x ? image.token_stride : d;
    gemm<T>('T', 'N', rows, spectrum.rank, d, block, ld, spectrum.basis, d, 0, rotated.data(),
            rows);
    row_norms(rotated.data(), rows, spectrum.rank, spectrum.eigenvalues.data(), scores + i);
  }
}

}  // namespace

template <class T>
void row_norms(const T* basis, int64_t n, int64_t rank, const T* divisors, T* norms) {
  std::vector<double> sums(n, 0);
  for (int64_t j = 0; j < rank; ++j) {
    const T* column = basis + j * n;
    const double weight = divisors ? 1 / static_cast<double>(divisors[j]) : 1;
    for (int64_t i = 0; i < n; ++i) {
      const double value = column[i];
      sums[i] += weight * value * value;
    }
  }
  for (int64_t i = 0; i < n; ++i) {
    norms[i] = static_cast<T>(std::clamp(sums[i], 0.0, 1.0));
  }
}

template <class T>
void leverage(const Image& image, const Spectrum<T>& spectrum, T* scores) {
  if (spectrum.rank == 0) {
    std::fill_n(scores, image.tokens, T(0));
  } else if (spectrum.side == Side::kTokens) {
    row_norms<T>(spectrum.basis, spectrum.n, spectrum.rank, nullptr, scores);
  } else {
    leverage_from_features(image, spectrum, scores);
  }
}

template void row_norms(const float*, int64_t, int64_t, const float*, float*);
template void row_norms(const double*, int64_t, int64_t, const double*, double*);
template void leverage(const Image&, const Spectrum<float>&, float*);
template void leverage(const Image&, const Spectrum<double>&, double*);

}  // namespace svdprune::cpu
