// Reading features: means, magnitude, and the packed copy that the Gram matrix is formed from.
//
// The magnitude is known on the device only, and a scale cannot be decided on without waiting for
// it, so the copy is made always: one pass over X, a few microseconds beside an eigendecomposition.

#include "device.cuh"

#include "../scaling.h"

#include <algorithm>

namespace svdprune::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kMeanRows = 8;

// A block: 32 features of one image; thread (x, y) sums tokens y, y + 8, ... of feature x. Shared
// memory: 8 x 32 doubles. Coalesced along the features.
template <class S>
__global__ void feature_means_kernel(Images x, double* means) {
  __shared__ double sums[kMeanRows][32];
  const int64_t b = blockIdx.y;
  const int64_t feature = blockIdx.x * 32 + threadIdx.x;
  const int64_t length = length_of(x, b);
  const S* data = static_cast<const S*>(x.data);
  double sum = 0;
  if (feature < x.features) {
    for (int64_t i = threadIdx.y; i < length; i += kMeanRows) {
      // Divided first: the sum of float64 features may overflow.
      sum += to_double(data[token_offset(x, b, i) + feature * x.feature_stride]) /
             static_cast<double>(length);
    }
  }
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y == 0 && feature < x.features) {
    for (int y = 1; y < kMeanRows; ++y) {
      sum += sums[y][threadIdx.x];
    }
    means[b * x.features + feature] = sum;
  }
}

// |value| as bits that order as the numbers do: NaN above infinity above all finite ones.
__device__ inline unsigned long long magnitude_bits(double value) {
  return __double_as_longlong(fabs(value)) & 0x7fffffffffffffffll;
}

// A block: one chunk of one image's tokens, a row at a time. largest [B] starts at 0.
template <class S>
__global__ void largest_magnitude_kernel(Images x, const double* means, double* largest) {
  __shared__ unsigned long long block_largest;
  if (threadIdx.x == 0) {
    block_largest = 0;
  }
  __syncthreads();
  const int64_t b = blockIdx.y;
  const int64_t length = length_of(x, b);
  const S* data = static_cast<const S*>(x.data);
  unsigned long long own = 0;
  for (int64_t i = blockIdx.x; i < length; i += gridDim.x) {
    const S* row = data + token_offset(x, b, i);
    for (int64_t j = threadIdx.x; j < x.features; j += kThreads) {
      double value = to_double(row[j * x.feature_stride]);
      if (means) {
        value = centered(value, means[b * x.features + j], length);
      }
      own = max(own, magnitude_bits(value));
    }
  }
  atomicMax(&block_largest, own);
  __syncthreads();
  if (threadIdx.x == 0) {
    atomicMax(reinterpret_cast<unsigned long long*>(largest) + b, block_largest);
  }
}

// 2^-k for a magnitude m 2^k whose squares, summed over a Gram matrix, could leave the working
// precision's range; else 1, as 16-bit numbers keep their subnormals only unscaled.
template <class O>
__device__ inline double scale_for(double largest) {
  const double low = sizeof(O) == sizeof(double) ? 1e-100 : 1e-12;
  const double high = sizeof(O) == sizeof(double) ? 1e100 : 1e12;
  if (largest == 0 || (largest >= low && largest <= high)) {
    return 1;
  }
  int exponent;
  frexp(largest, &exponent);
  return ldexp(1.0, max(-1022, min(1022, -exponent)));
}

// A block: one token of one image.
template <class S, class O>
__global__ void pack_kernel(Images x, const double* means, const double* largest, O* packed) {
  const int64_t b = blockIdx.y;
  const int64_t i = blockIdx.x;
  const int64_t length = length_of(x, b);
  const double magnitude = largest[b];
  const bool copied = i < length && isfinite(magnitude);
  const double scale = copied ? scale_for<O>(magnitude) : 0;
  const S* row = static_cast<const S*>(x.data) + (copied ? token_offset(x, b, i) : 0);
  O* out = packed + (b * x.tokens + i) * x.features;
  for (int64_t j = threadIdx.x; j < x.features; j += kThreads) {
    double value = 0;
    if (copied) {
      value = to_double(row[j * x.feature_stride]);
      if (means) {
        value = centered(value, means[b * x.features + j], length);
      }
      value *= scale;
    }
    out[j] = from_double<O>(value);
  }
}

}  // namespace

void launch_feature_means(const Images& x, double* means, cudaStream_t stream) {
  const dim3 grid(blocks_for(x.features, 32), static_cast<unsigned>(x.images));
  with_type(x.dtype, [&](auto type) {
    launch("feature_means_kernel", feature_means_kernel<decltype(type)>, grid, dim3(32, kMeanRows),
           stream, x, means);
  });
}

void launch_largest_magnitude(const Images& x, const double* means, double* largest,
                              cudaStream_t stream) {
  set_zero(largest, x.images * sizeof(double), stream);
  const int64_t chunks = std::clamp<int64_t>(512 / x.images, 1, x.tokens);
  const dim3 grid(static_cast<unsigned>(chunks), static_cast<unsigned>(x.images));
  with_type(x.dtype, [&](auto type) {
    launch("largest_magnitude_kernel", largest_magnitude_kernel<decltype(type)>, grid, kThreads,
           stream, x, means, largest);
  });
}

void launch_pack(const Images& x, const double* means, const double* largest, void* packed,
                 Dtype dtype, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(x.tokens), static_cast<unsigned>(x.images));
  const auto run = [&](auto in, auto out) {
    using S = decltype(in);
    using O = decltype(out);
    launch("pack_kernel", pack_kernel<S, O>, grid, kThreads, stream, x, means, largest,
           static_cast<O*>(packed));
  };
  // x's own type, or float32 for 16-bit numbers.
  if (dtype == x.dtype) {
    with_type(dtype, [&](auto type) { run(type, type); });
  } else if (x.dtype == Dtype::kFloat16) {
    run(__half{}, float{});
  } else {
    run(__nv_bfloat16{}, float{});
  }
}

}  // namespace svdprune::cuda
