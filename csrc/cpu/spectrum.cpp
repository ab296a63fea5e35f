#include "spectrum.h"

#include "blas.h"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>

namespace svdprune::cpu {

namespace {

// Full decomposition by LAPACK's divide and conquer (syevd).
template <class T>
Spectrum<T> solve_eigh(Gram<T> gram, const Options& options) {
  const int64_t n = gram.n;
  std::vector<T> eigenvalues(n);
  if (const int info = syevd(n, gram.values.get(), eigenvalues.data()); info != 0) {
    throw std::runtime_error("the eigensolver did not converge (LAPACK info " +
                             std::to_string(info) + ")");
  }
  const int64_t rank =
      options.rank.value_or(rank_for_variance(eigenvalues.data(), n, options.variance));
  const T largest = eigenvalues[n - 1];
  const T smallest_kept = eigenvalues[n - rank];
  return Spectrum<T>{
      .side = gram.side,
      .n = n,
      .rank = rank,
      .eigenvalues = std::vector<T>(eigenvalues.end() - rank, eigenvalues.end()),
      .storage = std::move(gram.values),
      .basis = nullptr,
      .transform = std::move(gram.transform),
      .well_conditioned = smallest_kept > 64 * std::numeric_limits<T>::epsilon() * largest,
  };
}

}  // namespace

template <class T>
int64_t rank_for_variance(const T* eigenvalues, int64_t n, double variance) {
  double total = 0;
  for (int64_t j = 0; j < n; ++j) {
    total += std::max<double>(eigenvalues[j], 0);
  }
  double sum = 0;
  int64_t rank = 0;
  while (rank < n && (rank == 0 || sum < variance * total)) {
    sum += std::max<double>(eigenvalues[n - 1 - rank], 0);
    ++rank;
  }
  return rank;
}

template <class T>
Spectrum<T> spectrum(Gram<T> gram, const Options& options) {
  if (gram.trace == 0) {
    return Spectrum<T>{gram.side, gram.n, 0, {}, nullptr, nullptr, std::move(gram.transform), true};
  }
  Spectrum<T> result = solve_eigh(std::move(gram), options);
  result.basis = result.storage.get() + (result.n - result.rank) * result.n;
  return result;
}

template int64_t rank_for_variance(const float*, int64_t, double);
template int64_t rank_for_variance(const double*, int64_t, double);
template Spectrum<float> spectrum(Gram<float>, const Options&);
template Spectrum<double> spectrum(Gram<double>, const Options&);

}  // namespace svdprune::cpu
