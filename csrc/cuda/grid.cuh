// All blocks of a launch together: a launch whose blocks run at the same time, and a barrier for them.
#pragma once

#include "cluster.cuh"

#ifndef SVDPRUNE_EMULATED
#include <cooperative_groups.h>
#endif

namespace svdprune::cuda {

#ifndef SVDPRUNE_EMULATED  // which has its own

// What a thread wrote before it is seen by every thread after it, past the L1 cache.
__device__ inline void grid_sync() {
  cooperative_groups::this_grid().sync();
}

// How many such blocks the current device runs at the same time; 0 where it has no launches of that kind, none where the
// driver could not tell.
template <class... Parameters>
std::optional<int> most_blocks(void (*kernel)(Parameters...), int threads, size_t shared_bytes) {
  int device = 0, supported = 0, multiprocessors = 0;
  if (cudaGetDevice(&device) != cudaSuccess ||
      cudaDeviceGetAttribute(&supported, cudaDevAttrCooperativeLaunch, device) != cudaSuccess ||
      cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device) !=
          cudaSuccess) {
    cudaGetLastError();  // no error of a later launch
    return std::nullopt;
  }
  if (!supported || shared_bytes > shared_memory_limit()) {
    return 0;
  }
  return most_at_once(kernel, {1, shared_bytes}, [&](int& blocks) {
    const cudaError_t error =
        cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, threads, shared_bytes);
    blocks *= multiprocessors;
    return error;
  });
}

template <class... Parameters, class... Arguments>
void launch_together(const char* name, void (*kernel)(Parameters...), int blocks, int threads,
                     size_t shared_bytes, cudaStream_t stream, const Arguments&... arguments) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeCooperative;
  attribute.val.cooperative = 1;
  cudaLaunchConfig_t config = launch_config(static_cast<unsigned>(blocks),
                                            static_cast<unsigned>(threads), shared_bytes, stream);
  config.attrs = &attribute;
  config.numAttrs = 1;
  const auto how = [&] { return "with " + std::to_string(blocks) + " blocks together"; };
  launch_configured(name, how, kernel, config, {1, shared_bytes}, arguments...);
}

#endif

}  // namespace svdprune::cuda
