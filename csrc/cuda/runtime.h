// CUDA's runtime, with its errors as exceptions.
#pragma once

#include <cuda_runtime_api.h>

#include <stdexcept>
#include <string>

namespace svdprune::cuda {

// Throws "svdprune: {what} {which} failed: {why}". The runtime forgets the error: it would report it again for the next
// launch of anybody.
inline void check_cuda(cudaError_t error, const char* what, const std::string& which = {}) {
  if (error != cudaSuccess) {
    cudaGetLastError();
    throw std::runtime_error(std::string("svdprune: ") + what + (which.empty() ? "" : " ") + which +
                             " failed: " + cudaGetErrorString(error));
  }
}

inline void set_zero(void* data, size_t bytes, cudaStream_t stream) {
  check_cuda(cudaMemsetAsync(data, 0, bytes, stream), "cudaMemsetAsync");
}

}  // namespace svdprune::cuda
