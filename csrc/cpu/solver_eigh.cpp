// Solver "eigh": the full decomposition by LAPACK's divide and conquer (syevd).

#include "blas.h"
#include "spectrum.h"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <type_traits>

namespace svdprune::cpu {

template <class T>
Spectrum<T> solve_eigh(Gram<T> gram, const Options& options) {
  SquareMatrix<T>& matrix = gram.matrix;
  const int64_t n = matrix.n;
  std::vector<T> ascending(n);
  if (const int info = syevd(n, matrix.values.get(), matrix.ld, ascending.data()); info != 0) {
    if constexpr (std::is_same_v<T, float>) {
      throw NeedsOtherSolver();  // as where entries vanish beside the largest one
    }
    throw std::runtime_error("svdprune: the eigensolver did not converge (LAPACK info " +
                             std::to_string(info) + ")");
  }
  double total = 0;
  for (const T value : ascending) {
    total += std::max<double>(value, 0);
  }
  const std::vector<T> descending(ascending.rbegin(), ascending.rend());
  const int64_t rank = options.rank.value_or(
      std::min(n, rank_for_variance(descending.data(), n, options.variance, total)));
  // LAPACK's order is ascending: turn the leading columns round, and close the gaps between them.
  for (int64_t j = 0; j < rank / 2; ++j) {
    T* column = matrix.column(n - rank + j);
    std::swap_ranges(column, column + n, matrix.column(n - 1 - j));
  }
  T* basis = matrix.values.get();
  for (int64_t j = 0; j < rank; ++j) {
    std::copy_n(matrix.column(n - rank + j), n, basis + j * n);
  }
  return Spectrum<T>{
      .side = gram.side,
      .n = n,
      .rank = rank,
      .eigenvalues = std::vector<T>(descending.begin(), descending.begin() + rank),
      .storage = std::move(matrix.values),
      .basis = basis,
      .columns = rank,
      .complement = false,
      .transform = std::move(gram.transform),
      .steps = n,
      .solver = Solver::kEigh,
      .cut = {},
  };
}

template Spectrum<float> solve_eigh(Gram<float>, const Options&);
template Spectrum<double> solve_eigh(Gram<double>, const Options&);

}  // namespace svdprune::cpu
