// How a feature enters the computation, on either backend: (x - mean) * 2^k.
#pragma once

#include "host_device.h"

#include <cstdint>

namespace svdprune {

// The mean of N numbers is uncertain by N eps: a difference below that is zero, so that equal
// tokens centre to nothing and not to noise.
SVDPRUNE_HOST_DEVICE inline double centered(double value, double mean, int64_t tokens) {
  const double noise = 2.220446049250313e-16 * static_cast<double>(tokens);
  const double difference = value - mean;
  const double size = difference < 0 ? -difference : difference;
  return size <= noise * (mean < 0 ? -mean : mean) ? 0 : difference;
}

}  // namespace svdprune
