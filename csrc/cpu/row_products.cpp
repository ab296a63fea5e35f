#include "row_products.h"

#include "clones.h"

#include <algorithm>

namespace svdprune::cpu {

namespace {

constexpr int64_t kRowsTogether = 4;  // share the loads of the other factor
constexpr int64_t kRowsAnItem = 32;   // of a crew's phase

// products [count]: of `count` rows, `stride` apart, with y [features].
template <class T>
[[gnu::always_inline]] inline void products_body(const T* rows, int64_t stride, int64_t count,
                                                 int64_t features, const double* y,
                                                 double* products) {
  int64_t i = 0;
  for (; i + kRowsTogether <= count; i += kRowsTogether) {
    const T* r0 = rows + i * stride;
    const T* r1 = r0 + stride;
    const T* r2 = r1 + stride;
    const T* r3 = r2 + stride;
    double s0 = 0, s1 = 0, s2 = 0, s3 = 0;
#pragma omp simd reduction(+ : s0, s1, s2, s3)
    for (int64_t j = 0; j < features; ++j) {
      s0 += static_cast<double>(r0[j]) * y[j];
      s1 += static_cast<double>(r1[j]) * y[j];
      s2 += static_cast<double>(r2[j]) * y[j];
      s3 += static_cast<double>(r3[j]) * y[j];
    }
    products[i] = s0;
    products[i + 1] = s1;
    products[i + 2] = s2;
    products[i + 3] = s3;
  }
  for (; i < count; ++i) {
    const T* row = rows + i * stride;
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < features; ++j) {
      sum += static_cast<double>(row[j]) * y[j];
    }
    products[i] = sum;
  }
}

SVDPRUNE_CLONES void products_of(const float* rows, int64_t stride, int64_t count, int64_t features,
                                 const double* y, double* products) {
  products_body(rows, stride, count, features, y, products);
}

SVDPRUNE_CLONES void products_of(const double* rows, int64_t stride, int64_t count,
                                 int64_t features, const double* y, double* products) {
  products_body(rows, stride, count, features, y, products);
}

// Calls work(first, count) for runs of rows, on any of the crew's threads.
template <class F>
void for_each_run(Crew& crew, int64_t rows, const F& work) {
  crew.for_each((rows + kRowsAnItem - 1) / kRowsAnItem, [&](int64_t item) {
    const int64_t first = item * kRowsAnItem;
    work(first, std::min(kRowsAnItem, rows - first));
  });
}

}  // namespace

template <class T>
RowProducts<T>::RowProducts(Crew& crew, const Image& image, const Transform& transform)
    : crew_(crew),
      tokens_(image.tokens),
      features_(image.features),
      rows_(direct<T>(image, transform)),
      stride_(image.token_stride) {
  if (rows_) {
    return;
  }
  packed_.resize(tokens_ * features_);
  for_each_run(crew, tokens_, [&](int64_t first, int64_t count) {
    pack(image, transform, first, count, 0, features_, packed_.data() + first * features_,
         features_);
  });
  rows_ = packed_.data();
  stride_ = features_;
}

template <class T>
void RowProducts<T>::diagonal(double* squares) const {
  for_each_run(crew_, tokens_, [&](int64_t first, int64_t count) {
    std::vector<double> own(features_);
    for (int64_t i = first; i < first + count; ++i) {
      std::copy_n(row(i), features_, own.data());
      products_of(row(i), stride_, 1, features_, own.data(), squares + i);
    }
  });
}

template <class T>
void RowProducts<T>::column(int64_t token, double* products) const {
  const std::vector<double> own(row(token), row(token) + features_);
  for_each_run(crew_, tokens_, [&](int64_t first, int64_t count) {
    products_of(row(first), stride_, count, features_, own.data(), products + first);
  });
}

template class RowProducts<float>;
template class RowProducts<double>;

}  // namespace svdprune::cpu
