// CUDA's runtime, with its errors as exceptions.
#pragma once

#include <cuda_runtime_api.h>

#include <stdexcept>
#include <string>

namespace svdprune::cuda {

// Throws "svdprune: {what} failed: {why}". The runtime forgets the error: it would report it again for the next launch of
// anybody.
[[noreturn]] inline void throw_cuda(cudaError_t error, const std::string& what) {
  cudaGetLastError();
  throw std::runtime_error("svdprune: " + what + " failed: " + cudaGetErrorString(error));
}

inline void check_cuda(cudaError_t error, const char* what) {
  if (error != cudaSuccess) {
    throw_cuda(error, what);
  }
}

inline void set_bytes(void* data, int byte, size_t bytes, cudaStream_t stream) {
  check_cuda(cudaMemsetAsync(data, byte, bytes, stream), "cudaMemsetAsync");
}

inline void set_zero(void* data, size_t bytes, cudaStream_t stream) {
  set_bytes(data, 0, bytes, stream);
}

}  // namespace svdprune::cuda
