// 1 / x and 1 / sqrt(x) to the last bit or two, in a third of the time that the exact ones take on a GPU. For positive
// or negative numbers whose result is in range.
#pragma once

#include "../../host_device.h"

#include <cmath>

namespace svdprune::tridiag {

SVDPRUNE_HOST_DEVICE inline double reciprocal(double x) {
#ifdef __CUDA_ARCH__
  double y;
  asm("rcp.approx.ftz.f64 %0, %1;" : "=d"(y) : "d"(x));  // 20 bits
  y = fma(y, fma(-x, y, 1.0), y);
  return fma(y, fma(-x, y, 1.0), y);
#else
  return 1 / x;
#endif
}

SVDPRUNE_HOST_DEVICE inline double inverse_root(double x) {
#ifdef __CUDA_ARCH__
  double y;
  asm("rsqrt.approx.ftz.f64 %0, %1;" : "=d"(y) : "d"(x));  // 20 bits
  const double missing = fma(-x * y, y, 1.0);
  return fma(y * missing, fma(0.375, missing, 0.5), y);
#else
  return 1 / std::sqrt(x);
#endif
}

}  // namespace svdprune::tridiag
