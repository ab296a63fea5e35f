#include "softmax.h"

#include "clones.h"

#include <bit>
#include <cmath>
#include <limits>
#include <stdexcept>

namespace svdprune::cpu {

namespace {

struct BFloat16 {
  uint16_t bits;
  [[gnu::always_inline]] operator float() const {
    return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
  }
};

// torch's own, without a branch, for loops of it to become vectors.
struct Half {
  uint16_t bits;
  // Exponent and fraction are moved into float32's places, where the exponent is 112 too low; that of NaN and Inf is all
  // ones again. A subnormal number is the fraction of one of exponent -14, less that one's leading 1: no float32 that is
  // subnormal takes part, which may count as 0 (torch.set_flush_denormal).
  [[gnu::always_inline]] operator float() const {
    const uint32_t magnitude = static_cast<uint32_t>(bits & 0x7fff) << 13;
    const uint32_t sign = static_cast<uint32_t>(bits & 0x8000) << 16;
    const uint32_t special = magnitude >= 0x0f800000 ? 0x7f800000 : 0;
    const uint32_t normal = (magnitude + (112U << 23)) | special;
    const float subnormal = std::bit_cast<float>(magnitude + (113U << 23)) - 0x1p-14F;
    const uint32_t value = magnitude < (1U << 23) ? std::bit_cast<uint32_t>(subnormal) : normal;
    return std::bit_cast<float>(value | sign);
  }
};

template <class S, class T>
[[gnu::always_inline]] inline void read(const void* row, int64_t stride, int64_t n, T* out) {
  const S* from = static_cast<const S*>(row);
  if (stride == 1) {
    for (int64_t i = 0; i < n; ++i) {
      out[i] = static_cast<T>(from[i]);
    }
    return;
  }
  for (int64_t i = 0; i < n; ++i) {
    out[i] = static_cast<T>(from[i * stride]);
  }
}

template <class T>
[[gnu::always_inline]] inline void read_any(const void* row, ScalarType dtype, int64_t stride,
                                            int64_t n, T* out) {
  switch (dtype) {
    case ScalarType::Double:
      return read<double>(row, stride, n, out);
    case ScalarType::Float:
      return read<float>(row, stride, n, out);
    case ScalarType::Half:
      return read<Half>(row, stride, n, out);
    case ScalarType::BFloat16:
      return read<BFloat16>(row, stride, n, out);
    default:
      throw std::logic_error("svdprune: dtype not checked at the boundary");
  }
}

// e^x for x <= 0 by 2^n e^r, |r| <= ln 2 / 2, with the Taylor polynomial of degree 7: off by two units in the last
// place. 0 below the normal numbers; NaN of NaN. Without a branch, for loops of it to become vectors.
[[gnu::always_inline]] inline float exponential(float x) {
  constexpr float kRounder = 0x1.8p23F;  // added, it leaves an integer in the lower bits
  const float shifted = x * 0x1.715476p0F + kRounder;
  const float n = shifted - kRounder;
  const float r = (x - n * 0x1.62e4p-1F) - n * 0x1.7f7d1cp-20F;
  float p = 1.0F / 5040;
  p = p * r + 1.0F / 720;
  p = p * r + 1.0F / 120;
  p = p * r + 1.0F / 24;
  p = p * r + 1.0F / 6;
  p = p * r + 0.5F;
  p = p * r + 1;
  p = p * r + 1;
  const float power = std::bit_cast<float>((std::bit_cast<uint32_t>(shifted) + 127) << 23);
  const uint32_t keep = x < -87.3F ? 0 : ~uint32_t{0};
  return std::bit_cast<float>(std::bit_cast<uint32_t>(p * power) & keep);
}

[[gnu::always_inline]] inline double exponential(double x) {
  return std::exp(x);
}

template <class T>
[[gnu::always_inline]] inline SoftmaxPart<T> exponentials_of(T* values, int64_t n) {
  T largest = -std::numeric_limits<T>::infinity();
#pragma omp simd reduction(max : largest)
  for (int64_t i = 0; i < n; ++i) {
    largest = values[i] > largest ? values[i] : largest;  // passes over NaN
  }
  const T base = largest == -std::numeric_limits<T>::infinity() ? 0 : largest;
  T sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) {
    const T value = exponential(values[i] - base);
    values[i] = value;
    sum += value;
  }
  return {largest, sum};
}

template <class T>
[[gnu::always_inline]] inline void add_quotients_to(const T* __restrict values,
                                                    const T* __restrict divisors, int64_t n,
                                                    T* __restrict out) {
  for (int64_t i = 0; i < n; ++i) {
    out[i] += values[i] == 0 ? 0 : values[i] / divisors[i];
  }
}

template <class T>
[[gnu::always_inline]] inline T add_scaled_to(const T* __restrict values, int64_t n, T factor,
                                              T* __restrict out) {
  T sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) {
    out[i] += factor * values[i];
    sum += values[i];
  }
  return sum;
}

}  // namespace

SVDPRUNE_CLONES void read_row(const void* row, ScalarType dtype, int64_t stride, int64_t n,
                              float* out) {
  read_any(row, dtype, stride, n, out);
}

SVDPRUNE_CLONES void read_row(const void* row, ScalarType dtype, int64_t stride, int64_t n,
                              double* out) {
  read_any(row, dtype, stride, n, out);
}

SVDPRUNE_CLONES SoftmaxPart<float> exponentials(float* values, int64_t n) {
  return exponentials_of(values, n);
}

SVDPRUNE_CLONES SoftmaxPart<double> exponentials(double* values, int64_t n) {
  return exponentials_of(values, n);
}

SVDPRUNE_CLONES float add_scaled(const float* values, int64_t n, float factor, float* out) {
  return add_scaled_to(values, n, factor, out);
}

SVDPRUNE_CLONES double add_scaled(const double* values, int64_t n, double factor, double* out) {
  return add_scaled_to(values, n, factor, out);
}

SVDPRUNE_CLONES void add_quotients(const float* values, const float* divisors, int64_t n,
                                   float* out) {
  add_quotients_to(values, divisors, n, out);
}

SVDPRUNE_CLONES void add_quotients(const double* values, const double* divisors, int64_t n,
                                   double* out) {
  add_quotients_to(values, divisors, n, out);
}

}  // namespace svdprune::cpu
