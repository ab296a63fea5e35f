// What the kernels share: where an image's tokens and kept places lie, numbers of any type, and a launch.
#pragma once

#include "launch.h"
#include "runtime.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace svdprune::cuda {

// Offsets come from device memory and cannot be checked on the host without waiting: whatever they
// say, nothing is read or written outside the tensors.
__device__ inline int64_t clamped(int64_t value, int64_t low, int64_t high) {
  return value < low ? low : (value > high ? high : value);
}

__device__ inline int64_t first_token(const Images& x, int64_t b) {
  return x.cu_seqlens ? clamped(x.cu_seqlens[b], 0, x.total_tokens) : b * x.tokens;
}

__device__ inline int64_t length_of(const Images& x, int64_t b) {
  if (!x.cu_seqlens) {
    return x.tokens;
  }
  const int64_t first = first_token(x, b);
  const int64_t longest = min(x.tokens, x.total_tokens - first);
  return clamped(x.cu_seqlens[b + 1] - first, 0, longest);
}

__device__ inline int64_t first_kept(const Budget& budget, int64_t b) {
  return budget.cu_keep ? clamped(budget.cu_keep[b], 0, budget.total_keep) : b * budget.keep;
}

// Places of image b in the output.
__device__ inline int64_t places_of(const Budget& budget, int64_t b) {
  if (!budget.cu_keep) {
    return budget.keep;
  }
  const int64_t first = first_kept(budget, b);
  return clamped(budget.cu_keep[b + 1] - first, 0, budget.total_keep - first);
}

// Offset, in elements, of a token of image b.
__device__ inline int64_t token_offset(const Images& x, int64_t b, int64_t token) {
  return x.cu_seqlens ? (first_token(x, b) + token) * x.token_stride
                      : b * x.image_stride + token * x.token_stride;
}

template <class S>
__device__ inline double to_double(S value) {
  return static_cast<double>(value);
}
template <>
__device__ inline double to_double(__half value) {
  return static_cast<double>(__half2float(value));
}
template <>
__device__ inline double to_double(__nv_bfloat16 value) {
  return static_cast<double>(__bfloat162float(value));
}

template <class O>
__device__ inline O from_double(double value) {
  return static_cast<O>(value);
}
template <>
__device__ inline __half from_double(double value) {
  return __float2half_rn(static_cast<float>(value));
}
template <>
__device__ inline __nv_bfloat16 from_double(double value) {
  return __float2bfloat16_rn(static_cast<float>(value));
}

// Numbers as the 16 bytes that they take.
template <class S, int count>
__device__ inline uint4 as_bytes(const S (&numbers)[count]) {
  uint4 bytes;
  static_assert(sizeof numbers == sizeof bytes);
  memcpy(&bytes, numbers, sizeof bytes);
  return bytes;
}

// Calls f(S{}) with the number type of a dtype.
template <class F>
void with_type(Dtype dtype, F&& f) {
  switch (dtype) {
    case Dtype::kFloat64:
      return f(double{});
    case Dtype::kFloat32:
      return f(float{});
    case Dtype::kFloat16:
      return f(__half{});
    case Dtype::kBFloat16:
      return f(__nv_bfloat16{});
  }
}

#ifndef SVDPRUNE_EMULATED  // python_tests/emulation runs the kernels on a CPU with a launch of its
                           // own
inline cudaLaunchConfig_t launch_config(dim3 grid, dim3 block, size_t shared_bytes,
                                        cudaStream_t stream) {
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  return config;
}

template <class... Parameters, class... Arguments>
void launch(const char* name, void (*kernel)(Parameters...), dim3 grid, dim3 block,
            cudaStream_t stream, const Arguments&... arguments) {
  const cudaLaunchConfig_t config = launch_config(grid, block, 0, stream);
  const cudaError_t error =
      cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...);
  if (error != cudaSuccess) {
    throw_cuda(error, std::string("launching ") + name);
  }
}
#endif

// Bytes of shared memory that a block can have on the current device; 0 where none can be asked.
inline size_t shared_memory_limit() {
  int device = 0, limit = 0;
  const bool known = cudaGetDevice(&device) == cudaSuccess &&
                     cudaDeviceGetAttribute(&limit, cudaDevAttrMaxSharedMemoryPerBlockOptin,
                                            device) == cudaSuccess;
  return known ? static_cast<size_t>(limit) : 0;
}

inline unsigned blocks_for(int64_t items, int64_t per_block) {
  return static_cast<unsigned>((items + per_block - 1) / per_block);
}

}  // namespace svdprune::cuda
