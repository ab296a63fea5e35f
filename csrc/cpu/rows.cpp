#include "rows.h"

#include "clones.h"
#include "lanes.h"

namespace svdprune::cpu {

namespace {

template <int64_t kRows, class T>
[[gnu::always_inline]] inline void multiply_some(const T* rows, int64_t stride, const T* x,
                                                 int64_t first, int64_t last, T* products) {
  using L = Lanes<T>;
  typename L::Vector sum[kRows] = {};
  int64_t i = first;
  for (; i + L::kCount <= last; i += L::kCount) {
    typename L::Vector own;
    L::load(x + i, own);
#pragma GCC unroll 4
    for (int64_t r = 0; r < kRows; ++r) {
      typename L::Vector row;
      L::load(rows + r * stride + i, row);
      sum[r] += row * own;
    }
  }
#pragma GCC unroll 4
  for (int64_t r = 0; r < kRows; ++r) {
    products[r] = L::sum(sum[r]);
    for (int64_t rest = i; rest < last; ++rest) {
      products[r] += rows[r * stride + rest] * x[rest];
    }
  }
}

template <int64_t kRows, class T>
[[gnu::always_inline]] inline void add_some(const T* __restrict rows, int64_t stride,
                                            const T* factors, int64_t first, int64_t last,
                                            T* __restrict y) {
  T factor[kRows];
  for (int64_t r = 0; r < kRows; ++r) {
    factor[r] = factors[r];
  }
#pragma omp simd
  for (int64_t i = first; i < last; ++i) {
    T sum = y[i];
#pragma GCC unroll 4
    for (int64_t r = 0; r < kRows; ++r) {
      sum += factor[r] * rows[r * stride + i];
    }
    y[i] = sum;
  }
}

// work.template operator()<kRows>(row) on four rows from `row` on, and in the end on what is left of them.
template <class F>
[[gnu::always_inline]] inline void by_fours(int64_t count, const F& work) {
  int64_t row = 0;
  for (; row + 4 <= count; row += 4) {
    work.template operator()<4>(row);
  }
  switch (count - row) {
    case 3:
      return work.template operator()<3>(row);
    case 2:
      return work.template operator()<2>(row);
    case 1:
      return work.template operator()<1>(row);
    default:
      return;
  }
}

template <class T>
[[gnu::always_inline]] inline void multiply_all(Rows<T> rows, int64_t count, const T* x,
                                                int64_t first, int64_t last, T* products) {
  by_fours(count, [=]<int64_t kRows>(int64_t row) __attribute__((always_inline)) {
    multiply_some<kRows>(rows.values + row * rows.stride, rows.stride, x, first, last,
                         products + row);
  });
}

template <class T>
[[gnu::always_inline]] inline void add_all(Rows<T> rows, int64_t count, const T* factors,
                                           int64_t first, int64_t last, T* y) {
  by_fours(count, [=]<int64_t kRows>(int64_t row) __attribute__((always_inline)) {
    add_some<kRows>(rows.values + row * rows.stride, rows.stride, factors + row, first, last, y);
  });
}

}  // namespace

SVDPRUNE_CLONES void multiply_rows(Rows<float> rows, int64_t count, const float* x, int64_t first,
                                   int64_t last, float* products) {
  multiply_all(rows, count, x, first, last, products);
}

SVDPRUNE_CLONES void multiply_rows(Rows<double> rows, int64_t count, const double* x, int64_t first,
                                   int64_t last, double* products) {
  multiply_all(rows, count, x, first, last, products);
}

SVDPRUNE_CLONES void add_rows(Rows<float> rows, int64_t count, const float* factors, int64_t first,
                              int64_t last, float* y) {
  add_all(rows, count, factors, first, last, y);
}

SVDPRUNE_CLONES void add_rows(Rows<double> rows, int64_t count, const double* factors,
                              int64_t first, int64_t last, double* y) {
  add_all(rows, count, factors, first, last, y);
}

}  // namespace svdprune::cpu
