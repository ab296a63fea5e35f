// Note [compact WY]
// The product of b reflectors is I - V T V^T, V [n, b] their vectors and T [b, b] upper triangular (Schreiber,
// Van Loan 1989), so that a block of them is applied by matrix products. LAPACK's ormqr does it in more and
// smaller pieces, and finds T anew for each share of the columns; here it is found once for all threads, and
// for all calls.

#include "back_transform.h"

#include "blas.h"

#include <algorithm>

namespace svdprune::cpu {

namespace {

constexpr int64_t kReflectors = 32;      // of a block
constexpr int64_t kColumnsPerPart = 56;  // that a thread takes at a time

// -T, from products = V^T V.
template <class T>
void negative_factor(int64_t size, const T* products, const T* tau, T* factor) {
  for (int64_t j = 0; j < size; ++j) {
    T* column = factor + j * size;
    std::fill_n(column, size, T(0));
    column[j] = -tau[j];
    for (int64_t k = 0; k < j; ++k) {
      const T scale = tau[j] * products[k + j * size];
      for (int64_t i = 0; i <= k; ++i) {
        column[i] -= scale * factor[i + k * size];
      }
    }
  }
}

}  // namespace

template <class T>
BackTransform<T>::BackTransform(Crew& crew, int64_t n, int64_t count, T* reflectors, const T* tau)
    : n_(n),
      count_(count),
      reflectors_(reflectors),
      factors_((count + kReflectors - 1) / kReflectors * kReflectors * kReflectors) {
  crew.for_each((count + kReflectors - 1) / kReflectors, [&](int64_t block) {
    const int64_t first = block * kReflectors, size = std::min(kReflectors, count - first);
    T* v = reflectors + first * (n + 1) + 1;
    for (int64_t j = 0; j < size; ++j) {
      std::fill_n(v + j * n, j, T(0));
      v[j * (n + 1)] = 1;
    }
    T products[kReflectors * kReflectors];
    gemm<T>('T', 'N', size, size, n - first - 1, v, n, v, n, 0, products, size);
    negative_factor(size, products, tau + first,
                    factors_.data() + block * kReflectors * kReflectors);
  });
}

// products [2, kReflectors, columns] is workspace.
template <class T>
void BackTransform<T>::apply_block(int64_t block, int64_t columns, T* products, T* basis) const {
  const int64_t first = block * kReflectors, size = std::min(kReflectors, count_ - first);
  const int64_t height = n_ - first - 1;
  const T* v = reflectors_ + first * (n_ + 1) + 1;
  const T* factor = factors_.data() + block * kReflectors * kReflectors;
  T* scaled = products + kReflectors * columns;
  T* rows = basis + first + 1;
  gemm<T>('T', 'N', size, columns, height, v, n_, rows, n_, 0, products, size);
  gemm<T>('N', 'N', size, columns, size, factor, size, products, size, 0, scaled, size);
  gemm<T>('N', 'N', height, columns, size, v, n_, scaled, size, 1, rows, n_);
}

template <class T>
void BackTransform<T>::apply(Crew& crew, int64_t columns, T* basis) const {
  const int parts = static_cast<int>(
      std::min<int64_t>((columns + kColumnsPerPart - 1) / kColumnsPerPart, Crew::kMostParts));
  crew.phase(parts, [&](int part) {
    const int64_t begin = part * columns / parts, own = (part + 1) * columns / parts - begin;
    std::vector<T> products(2 * kReflectors * own);
    for (int64_t first = (count_ - 1) / kReflectors * kReflectors; first >= 0;
         first -= kReflectors) {
      apply_block(first / kReflectors, own, products.data(), basis + begin * n_);
    }
  });
}

template class BackTransform<float>;
template class BackTransform<double>;

}  // namespace svdprune::cpu
