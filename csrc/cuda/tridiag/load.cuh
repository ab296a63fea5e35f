// Bringing the Gram matrix of an image on chip, scaled by a power of two to a trace in [1/2, 1).
//
// Note [rescue]
// Where the magnitude of x is not near 1 the squares in its float32 Gram matrix overflow or
// underflow; its trace tells. The cluster then looks for the largest |x|, and forms the matrix anew from
// x brought to about 1 by a power of two. That is slow, and as rare as such features are; an image
// without energy, and one with NaN or Inf, come to light on the same way.
#pragma once

#include "shared.cuh"

namespace svdprune::cuda {

// Of traces that are taken as they are: what magnitudes of 1e-12 to 1e12 give, as in pack.cu.
constexpr double kLeastTrace = 1e-24, kLargestTrace = 1e34;

enum class Loaded { kReady, kZero, kNotFinite };

// The matrix that is worked on is scale * gram, of that trace.
struct LoadedGram {
  Loaded state;
  float* gram;
  float scale;
  double trace;
  bool formed_anew;
};

__device__ __forceinline__ double power_of_two_below(double largest) {
  int exponent;
  frexp(largest, &exponent);
  return ldexp(1.0, max(-1022, min(1022, -exponent)));
}

__device__ __forceinline__ double feature(const Images& x, int64_t offset) {
  switch (x.dtype) {
    case Dtype::kFloat64:
      return static_cast<const double*>(x.data)[offset];
    case Dtype::kFloat32:
      return static_cast<const float*>(x.data)[offset];
    case Dtype::kFloat16:
      return to_double(static_cast<const __half*>(x.data)[offset]);
    default:
      return to_double(static_cast<const __nv_bfloat16*>(x.data)[offset]);
  }
}

// max |x| of image b, infinite where it holds NaN or Inf.
__device__ __forceinline__ double largest_magnitude(const Team& team, const Shared& s,
                                                    const Images& x, int64_t b) {
  double largest = 0;
  for (int i = team.rank + team.size * team.warp; i < s.n; i += team.size * team.warps) {
    for (int64_t j = team.lane; j < x.features; j += 32) {
      const double value = fabs(feature(x, token_offset(x, b, i) + j * x.feature_stride));
      largest = fmax(largest, isfinite(value) ? value : INFINITY);
    }
  }
  for (int apart = 16; apart > 0; apart /= 2) {
    largest = fmax(largest, __shfl_xor_sync(kAllLanes, largest, apart));
  }
  if (team.lane == 0) {
    s.partial[0][team.warp] = largest;
  }
  __syncthreads();
  for (int warp = 0; warp < team.warps; ++warp) {
    largest = fmax(largest, s.partial[0][warp]);
  }
  if (team.warp == 0) {
    tell_all(team, s.word + team.rank, largest);
  }
  cluster_sync();
  for (int block = 0; block < team.size; ++block) {
    largest = fmax(largest, s.word[block]);
  }
  return largest;
}

// This block's rows of gram [n, stride] = (scale x)(scale x)^T, a warp an element; sums in float64.
__device__ __forceinline__ void form_rows(const Team& team, int n, const Images& x, int64_t b,
                                          double scale, float* gram, int stride) {
  for (int i = team.rank; i < n; i += team.size) {
    for (int j = team.warp; j < n; j += team.warps) {
      double sum = 0;
      const int64_t left = token_offset(x, b, i), right = token_offset(x, b, j);
      for (int64_t k = team.lane; k < x.features; k += 32) {
        sum += scale * feature(x, left + k * x.feature_stride) *
               (scale * feature(x, right + k * x.feature_stride));
      }
      sum = warp_sum(sum);
      if (team.lane == 0) {
        gram[i * stride + j] = static_cast<float>(sum);
      }
    }
  }
}

// Of gram [n, stride], which this launch may have written.
__device__ __forceinline__ double trace_of(const Team& team, const Shared& s, const float* gram,
                                           int stride) {
  double own = 0;
  for (int i = team.thread; i < s.n; i += team.threads) {
    own += __ldcg(gram + i * stride + i);
  }
  return block_sum(team, own, s.partial[1]);
}

// Finds an image's Gram matrix, formed anew if need be.
__device__ __forceinline__ LoadedGram find_gram(const Team& team, const Shared& s, const Images& x,
                                                const EigSelect& a, int64_t b) {
  float* const gram = a.gram + b * x.tokens * x.tokens;
  double trace;
  if (a.partials) {
    double own = 0;
    for (int64_t part = team.thread; part < a.parts; part += team.threads) {
      own += a.partials[2 * (b * a.parts + part)];
    }
    trace = block_sum(team, own, s.partial[0]);
  } else {
    trace = trace_of(team, s, gram, x.tokens);
  }
  const bool forms_anew = !(trace >= kLeastTrace && trace <= kLargestTrace);
  if (forms_anew) {
    __syncthreads();
    const double magnitude = a.largest ? a.largest[b] : largest_magnitude(team, s, x, b);
    if (!isfinite(magnitude)) {
      return {Loaded::kNotFinite, gram, 0, 0, true};
    }
    if (magnitude == 0 || a.largest) {
      return {Loaded::kZero, gram, 0, 0, true};  // a packed image is near 1, or zero
    }
    form_rows(team, s.n, x, b, power_of_two_below(magnitude), gram, x.tokens);
    cluster_sync();
    trace = trace_of(team, s, gram, x.tokens);
  }
  const double scale = power_of_two_below(trace);
  return {Loaded::kReady, gram, static_cast<float>(scale), scale * trace, forms_anew};
}

}  // namespace svdprune::cuda
