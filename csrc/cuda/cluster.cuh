// Thread-block clusters: blocks of one launch that run together, share a barrier and read each
// other's shared memory (sm_90 and later; before that every cluster is a single block).
//
// Shared memory of a kernel in clusters is dynamic, all of it: that has the same layout in every
// block, and python_tests/emulation, where blocks of a cluster are alive together, keeps one copy of
// it a block, but only one of a `__shared__` variable.
#pragma once

#include "device.cuh"

#include <algorithm>
#include <optional>

#ifndef SVDPRUNE_EMULATED
#include <cuda/ptx>
#endif

namespace svdprune::cuda {

// Whether what is being compiled may run in clusters of several blocks.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
constexpr bool kClusters = false;
#else
constexpr bool kClusters = true;
#endif

// Of one launch. Blocks of one cluster are neighbours along x, so grid.x is a multiple of `size`.
struct ClusterShape {
  unsigned size;  // blocks; up to 8 wherever there are clusters, up to 16 where a GPU allows it
  size_t shared_bytes;  // dynamic, a block
};

// Note [arrivals]
// cluster_sync waits until all that a thread has written, to global memory too, is seen by all: on sm_90 it is a
// fence of the whole device and an empty L1 cache. Where blocks only exchange a few numbers, each sends them into the
// others' shared memory and waits for as many bytes as it is to get itself: an mbarrier counts them, in rounds.
using Arrivals = uint64_t;

#ifndef SVDPRUNE_EMULATED  // which has its own

// This block's dynamic shared memory, aligned to 128 bytes.
__device__ inline unsigned char* dynamic_shared() {
  extern __shared__ __align__(128) unsigned char bytes[];
  return bytes;
}

// How much of it there is.
__device__ inline unsigned dynamic_shared_bytes() {
  unsigned bytes;
  asm("mov.u32 %0, %%dynamic_smem_size;" : "=r"(bytes));
  return bytes;
}

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900

__device__ inline unsigned cluster_rank() {
  unsigned rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

__device__ inline unsigned cluster_size() {
  unsigned size;
  asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
  return size;
}

// The two halves of cluster_sync: what a thread wrote before it arrived is seen by every thread of
// the cluster that has waited. All threads call both, in turns.
__device__ inline void cluster_arrive() {
  asm volatile("barrier.cluster.arrive.release;" ::: "memory");
}

__device__ inline void cluster_wait() {
  asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
}

// The address in block `rank` of what lies at `shared` in this one. That block must have started (a
// barrier before the first access) and not have ended (one after the last).
template <class T>
__device__ T* cluster_map(T* shared, unsigned rank) {
  T* mapped;
  asm("mapa.u64 %0, %1, %2;" : "=l"(mapped) : "l"(shared), "r"(rank));
  return mapped;
}

#else

__device__ inline unsigned cluster_rank() {
  return 0;
}

__device__ inline unsigned cluster_size() {
  return 1;
}

__device__ inline void cluster_arrive() {
  __syncthreads();
}

__device__ inline void cluster_wait() {}

template <class T>
__device__ T* cluster_map(T* shared, unsigned) {
  return shared;
}

#endif

__device__ inline void cluster_sync() {
  cluster_arrive();
  cluster_wait();
}

// By one thread. A cluster_sync lies between this and the first `send`.
__device__ inline void start_arrivals(Arrivals* arrivals) {
  ::cuda::ptx::mbarrier_init(arrivals, 1);
  ::cuda::ptx::fence_mbarrier_init(::cuda::ptx::sem_release, ::cuda::ptx::scope_cluster);
}

// By one thread, once a round: how many bytes this block gets in it. They may have come already.
__device__ inline void expect_bytes(Arrivals* arrivals, unsigned bytes) {
  ::cuda::ptx::mbarrier_arrive_expect_tx(::cuda::ptx::sem_release, ::cuda::ptx::scope_cta,
                                         ::cuda::ptx::space_shared, arrivals, bytes);
}

// Writes to where `place` lies in block `rank`, whose arrivals count it. Does not wait.
template <class T>
__device__ void send(T* place, const T& value, Arrivals* arrivals, unsigned rank) {
  static_assert(sizeof(T) == 8 || sizeof(T) == 16);
  uint32_t words[sizeof(T) / 4];
  memcpy(words, &value, sizeof(T));
  ::cuda::ptx::st_async(reinterpret_cast<uint32_t*>(cluster_map(place, rank)), words,
                        cluster_map(arrivals, rank));
}

// By every thread that reads what came: until round `round` (0, 1, ..) is over. None may be two rounds behind. The wait
// is one of the block's scope, as CUTLASS's are: one of the cluster's would empty the L1 cache, where what came is not.
__device__ inline void await(Arrivals* arrivals, unsigned round) {
  while (!::cuda::ptx::mbarrier_try_wait_parity(::cuda::ptx::sem_acquire, ::cuda::ptx::scope_cta,
                                                arrivals, round % 2)) {
  }
}

// Whether the current device has clusters. Waits for nothing, and is allowed while a graph is
// captured.
inline bool clusters_supported() {
  int device = 0, supported = 0;
  return cudaGetDevice(&device) == cudaSuccess &&
         cudaDeviceGetAttribute(&supported, cudaDevAttrClusterLaunch, device) == cudaSuccess &&
         supported != 0;
}

// What a kernel must be told before it is launched with that shape. It may take all the shared memory
// that a block can have, whatever this launch takes: launches of other shapes, in other threads or
// captured in a graph, may come in between.
template <class Kernel>
cudaError_t allow_shape(Kernel kernel, ClusterShape shape) {
  constexpr size_t kUnasked = 48 * 1024;  // dynamic shared memory that needs no leave
  constexpr unsigned kPortable = 8;
  cudaError_t error = cudaSuccess;
  if (shape.shared_bytes > kUnasked) {
    error =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(std::max(shape.shared_bytes, shared_memory_limit())));
  }
  if (error == cudaSuccess && shape.size > kPortable) {
    error = cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
  }
  return error;
}

// `attribute` must outlive the configuration.
inline cudaLaunchConfig_t cluster_config(dim3 grid, dim3 block, ClusterShape shape,
                                         cudaStream_t stream, cudaLaunchAttribute& attribute) {
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim = {shape.size, 1, 1};
  cudaLaunchConfig_t config = launch_config(grid, block, shape.shared_bytes, stream);
  config.attrs = &attribute;
  config.numAttrs = shape.size > 1 ? 1 : 0;
  return config;
}

// For how many blocks or clusters of that shape the current device has room at the same time. room(number): asks the
// driver. 0 where it refuses the shape, or what the device runs of the kernel was compiled for none (kClusters), as it may be
// left with code that it made from the PTX of an older architecture; none where the driver could not tell.
template <class Kernel, class Room>
std::optional<int> most_at_once(Kernel kernel, ClusterShape shape, Room&& room) {
  cudaFuncAttributes attributes{};
  int number = 0;
  cudaError_t error = cudaFuncGetAttributes(&attributes, kernel);
  if (error == cudaSuccess && attributes.ptxVersion >= 90) {
    error = allow_shape(kernel, shape);
    error = error == cudaSuccess ? room(number) : error;
  }
  if (error == cudaSuccess) {
    return number;
  }
  cudaGetLastError();  // no error of a later launch
  const bool is_answer = error == cudaErrorInvalidClusterSize || error == cudaErrorInvalidValue ||
                         error == cudaErrorInvalidConfiguration || error == cudaErrorNotSupported;
  return is_answer ? std::optional(0) : std::nullopt;
}

template <class... Parameters>
std::optional<int> most_clusters(void (*kernel)(Parameters...), dim3 block, ClusterShape shape) {
  cudaLaunchAttribute attribute{};
  const cudaLaunchConfig_t config =
      cluster_config(dim3(shape.size), block, shape, nullptr, attribute);
  return most_at_once(kernel, shape, [&](int& clusters) {
    return cudaOccupancyMaxActiveClusters(&clusters, kernel, &config);
  });
}

// how(): of such a launch, for the error.
template <class How, class... Parameters, class... Arguments>
void launch_configured(const char* name, How&& how, void (*kernel)(Parameters...),
                       const cudaLaunchConfig_t& config, ClusterShape shape,
                       const Arguments&... arguments) {
  cudaError_t error = allow_shape(kernel, shape);
  if (error == cudaSuccess) {
    error = cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...);
  }
  if (error != cudaSuccess) {
    throw_cuda(error, std::string("launching ") + name + " " + how());
  }
}

template <class... Parameters, class... Arguments>
void launch_clusters(const char* name, void (*kernel)(Parameters...), dim3 grid, dim3 block,
                     ClusterShape shape, cudaStream_t stream, const Arguments&... arguments) {
  cudaLaunchAttribute attribute{};
  const cudaLaunchConfig_t config = cluster_config(grid, block, shape, stream, attribute);
  const auto how = [&] { return "in clusters of " + std::to_string(shape.size); };
  launch_configured(name, how, kernel, config, shape, arguments...);
}

#endif

}  // namespace svdprune::cuda
