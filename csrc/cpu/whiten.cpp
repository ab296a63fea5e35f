// Note [whitening]
// Dividing column j of X V_r by s_j amplifies the Gram matrix's rounding by lambda_1 / lambda_j.
// Where that is too much, the columns' own Gram matrix W = (X V_r)^T (X V_r), diagonal in exact
// arithmetic, is factored as R^T R, and V_r R^-1 takes the place of V_r S_r^-1: X V_r R^-1 is
// orthonormal whatever the eigenvectors' error, and spans the same subspace.

#include "whiten.h"

#include "strips.h"

#include <cmath>
#include <limits>

namespace svdprune::cpu {

namespace {

// lambda_r / lambda_1 above which dividing by the singular values is accurate to 1e-5.
template <class T>
constexpr double kWellConditioned = 1e5 * std::numeric_limits<T>::epsilon();

// What must be left of a column's square after the columns before it are taken out: a share of it,
// and more than the rounding of the product X v_j, of which (||X|| eps)^2 is the order.
constexpr double kOwnShare = 1e-6;
template <class T>
constexpr double kRounding =
    1e8 * std::numeric_limits<T>::epsilon() * std::numeric_limits<T>::epsilon();

// W [r, r] = (X basis)^T (X basis), upper triangle.
template <class T>
std::vector<T> product_gram(const Image& image, const Spectrum<T>& spectrum) {
  const int64_t r = spectrum.rank;
  std::vector<T> w(r * r, 0);
  Crew alone;  // a sum in a fixed order
  for_each_strip(alone, image, spectrum, [&](int64_t, int64_t rows, const T* product) {
    gemm<T>('T', 'N', r, r, rows, product, rows, product, rows, 1, w.data(), r);
  });
  return w;
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
void whiten(const Image& image, Spectrum<T>& spectrum) {
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
  std::vector<T> r = product_gram(image, spectrum);
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

template void whiten(const Image&, Spectrum<float>&);
template void whiten(const Image&, Spectrum<double>&);

}  // namespace svdprune::cpu
