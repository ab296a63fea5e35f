#include "spectrum.h"

#include "purification.h"

#include <algorithm>
#include <stdexcept>
#include <type_traits>

namespace svdprune::cpu {

template <class T>
int64_t rank_for_variance(const T* eigenvalues, int64_t n, double variance, double total) {
  double sum = 0;
  for (int64_t rank = 1; rank <= n; ++rank) {
    sum += std::max<double>(eigenvalues[rank - 1], 0);
    if (sum >= variance * total) {
      return rank;
    }
  }
  return n + 1;
}

template <class T>
Spectrum<T> spectrum(Crew& crew, Gram<T> gram, const Options& options) {
  if (gram.trace == 0) {
    return Spectrum<T>{
        .side = gram.side,
        .n = gram.matrix.n,
        .rank = 0,
        .eigenvalues = {},
        .storage = nullptr,
        .basis = nullptr,
        .columns = 0,
        .complement = false,
        .transform = std::move(gram.transform),
        .steps = 0,
        .solver = Solver::kAuto,
        .cut = {},
    };
  }
  if (options.solver == Solver::kPurify) {
    if constexpr (std::is_same_v<T, double>) {
      return solve_purify(std::move(gram), options, kMostProducts);
    }
    throw std::logic_error("svdprune: \"purify\" takes a float64 Gram matrix");
  }
  return takes_tridiag(options, sizeof(T) == sizeof(double))
             ? solve_tridiag(crew, std::move(gram), options)
             : solve_eigh(std::move(gram), options);
}

template int64_t rank_for_variance(const float*, int64_t, double, double);
template int64_t rank_for_variance(const double*, int64_t, double, double);
template Spectrum<float> spectrum(Crew&, Gram<float>, const Options&);
template Spectrum<double> spectrum(Crew&, Gram<double>, const Options&);

}  // namespace svdprune::cpu
