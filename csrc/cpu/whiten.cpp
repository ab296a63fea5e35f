// Note [whitening]
// Dividing column j of X V_r by s_j amplifies the Gram matrix's rounding by lambda_1 / lambda_j.
// Where that is too much, the columns' own Gram matrix W = (X V_r)^T (X V_r), diagonal in exact
// arithmetic, is factored as R^T R, and V_r R^-1 takes the place of V_r S_r^-1: X V_r R^-1 is
// orthonormal whatever the eigenvectors' error, and spans the same subspace.

#include "whiten.h"

#include "strips.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

namespace svdprune::cpu {

namespace {

// lambda_r / lambda_1 above which dividing by the singular values is accurate to 1e-5.
template <class T>
constexpr double kWellConditioned = 1e5 * std::numeric_limits<T>::epsilon();

constexpr int64_t kParts = 4;  // of W's sum, each [r, r]

// What must be left of a column's square after the columns before it are taken out: a share of it,
// and more than the rounding of the product X v_j, of which (||X|| eps)^2 is the order.
constexpr double kOwnShare = 1e-6;
template <class T>
constexpr double kRounding =
    1e8 * std::numeric_limits<T>::epsilon() * std::numeric_limits<T>::epsilon();

// W [r, r] = (X basis)^T (X basis), upper triangle. Summed in parts that the number of strips decides, whatever the
// crew.
template <class T>
std::vector<T> product_gram(Crew& crew, const Image& image, const Spectrum<T>& spectrum) {
  const int64_t r = spectrum.rank, strips = strips_of(image), parts = std::min(strips, kParts);
  std::vector<T> sums(parts * r * r, 0);
  crew.for_each(parts, [&](int64_t part) {
    T* sum = sums.data() + part * r * r;
    for (int64_t strip = part * strips / parts; strip < (part + 1) * strips / parts; ++strip) {
      multiply_strip(image, spectrum.transform, spectrum.n, spectrum.basis, r, strip,
                     [&](int64_t, int64_t rows, const T* product) {
                       gemm<T>('T', 'N', r, r, rows, product, rows, product, rows, 1, sum, r);
                     });
    }
  });
  for (int64_t part = 1; part < parts; ++part) {
    std::transform(sums.begin(), sums.begin() + r * r, sums.begin() + part * r * r, sums.begin(),
                   std::plus<>());
  }
  sums.resize(r * r);
  return sums;
}

// W [r, r] -> R in place, upper triangular with W = R^T R. Returns how many leading columns have
// something of their own left: more than least[j].
template <class T>
int64_t cholesky(std::vector<T>& w, const std::vector<double>& least) {
  const int64_t r = least.size();
  for (int64_t j = 0; j < r; ++j) {
    T* column = w.data() + j * r;
    const double square = column[j];
    for (int64_t i = 0; i <= j; ++i) {
      double sum = column[i];
      for (int64_t k = 0; k < i; ++k) {
        sum -= static_cast<double>(w[i * r + k]) * column[k];
      }
      if (i < j) {
        column[i] = static_cast<T>(sum / w[i * r + i]);
      } else if (!(sum > std::max(kOwnShare * square, least[j]))) {
        return j;
      } else {
        column[j] = static_cast<T>(std::sqrt(sum));
      }
    }
  }
  return r;
}

}  // namespace

template <class T>
void whiten(Crew& crew, const Image& image, Spectrum<T>& spectrum) {
  if (spectrum.side == Side::kTokens || spectrum.rank == 0) {
    return;
  }
  const int64_t d = spectrum.n;
  const double largest = spectrum.eigenvalues.front();
  const double smallest = spectrum.eigenvalues.back();
  const double floor = 64 * std::numeric_limits<T>::epsilon() * largest;
  std::vector<double> least;
  for (int64_t j = 0; j < spectrum.rank; ++j) {
    const double square = std::max<double>(spectrum.eigenvalues[j], floor);
    least.push_back(kRounding<T> * largest / square);
    const T scale = static_cast<T>(1 / std::sqrt(square));
    T* column = spectrum.basis + j * d;
    std::transform(column, column + d, column, [scale](T value) { return scale * value; });
  }
  if (smallest > kWellConditioned<T> * largest) {
    return;
  }
  std::vector<T> r = product_gram(crew, image, spectrum);
  const int64_t ld = spectrum.rank;
  spectrum.rank = cholesky(r, least);
  for (int64_t j = 0; j < spectrum.rank; ++j) {
    T* column = spectrum.basis + j * d;
    for (int64_t k = 0; k < j; ++k) {
      const T* earlier = spectrum.basis + k * d;
      const T factor = r[j * ld + k];
      std::transform(column, column + d, earlier, column,
                     [factor](T value, T other) { return value - factor * other; });
    }
    const T scale = 1 / r[j * ld + j];
    std::transform(column, column + d, column, [scale](T value) { return scale * value; });
  }
}

template void whiten(Crew&, const Image&, Spectrum<float>&);
template void whiten(Crew&, const Image&, Spectrum<double>&);

}  // namespace svdprune::cpu
