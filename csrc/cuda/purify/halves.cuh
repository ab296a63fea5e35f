// A symmetric matrix of numbers of at most 1 in size, each as the sum of two of 16 bits: hi, and lo / 2^11, together 22
// bits. Products of those are exact on tensor cores.
#pragma once

#include "../device.cuh"

namespace svdprune::cuda {

constexpr float kLowScale = 2048;

// Numbers in neighbouring columns of a row, 16 bytes of each part.
constexpr int kNeighbours = 8;

struct alignas(16) Halves {
  __half numbers[kNeighbours];
};

// Matrices [side, side], hi and lo; side is a multiple of 64, with zeros behind the image's end.
struct HalvesMatrix {
  __half *hi, *lo;
  int side;
};

__device__ inline float number_of(__half hi, __half lo) {
  return __half2float(hi) + __half2float(lo) / kLowScale;
}

__device__ inline void split(float number, __half& hi, __half& lo) {
  hi = __float2half_rn(number);
  lo = __float2half_rn((number - __half2float(hi)) * kLowScale);
}

__device__ inline void read_numbers(const HalvesMatrix& x, int row, int col,
                                    float (&numbers)[kNeighbours]) {
  const int64_t at = static_cast<int64_t>(row) * x.side + col;
  const uint4 hi = __ldcg(reinterpret_cast<const uint4*>(x.hi + at));
  const uint4 lo = __ldcg(reinterpret_cast<const uint4*>(x.lo + at));
  Halves of_hi, of_lo;
  memcpy(&of_hi, &hi, sizeof hi);
  memcpy(&of_lo, &lo, sizeof lo);
#pragma unroll
  for (int e = 0; e < kNeighbours; ++e) {
    numbers[e] = number_of(of_hi.numbers[e], of_lo.numbers[e]);
  }
}

__device__ inline void write_numbers(const HalvesMatrix& x, int row, int col,
                                     const float (&numbers)[kNeighbours]) {
  const int64_t at = static_cast<int64_t>(row) * x.side + col;
  Halves hi, lo;
#pragma unroll
  for (int e = 0; e < kNeighbours; ++e) {
    split(numbers[e], hi.numbers[e], lo.numbers[e]);
  }
  *reinterpret_cast<Halves*>(x.hi + at) = hi;
  *reinterpret_cast<Halves*>(x.lo + at) = lo;
}

}  // namespace svdprune::cuda
