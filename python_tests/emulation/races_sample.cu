// Kernels with and without races, for the test of what looks for them.

#include "../../csrc/cuda/cluster.cuh"
#include "../../csrc/cuda/tensor_core.cuh"
#include "../../csrc/cuda/warp.cuh"

namespace svdprune::cuda {

namespace {

enum Sample {
  kBarrier,
  kNoBarrier,
  kReadBeforeWrite,
  kBarrierBetweenTwo,
  kSyncwarp,
  kShuffleAlone,
  kCopyWaitedForByOne,
  kCopyAndBarrier,
  kClusterBarrier,
  kNoClusterBarrier,
  kBytesSideBySide,
  kGlobalBarrier,
  kGlobalNoBarrier,
  kGlobalCopy,
  kPlacesOfClusters,
  kPlaceOfTwoClusters,
};

__global__ void sample_kernel(int sample, int* out) {
  __shared__ int numbers[64];
  __shared__ unsigned char bytes[64];
  alignas(16) __shared__ float copied[64];
  const int thread = threadIdx.x, other = (thread + 33) % 64, neighbour = thread ^ 1;
  int value = 0;
  switch (sample) {
    case kBarrier:
    case kNoBarrier:
      numbers[thread] = thread;
      if (sample == kBarrier) {
        __syncthreads();
      }
      value = numbers[other];
      break;
    case kReadBeforeWrite:
    case kBarrierBetweenTwo:
      value = numbers[other];
      if (sample == kBarrierBetweenTwo) {
        __syncthreads();
      }
      numbers[thread] = thread;
      break;
    case kSyncwarp:
    case kShuffleAlone:
      numbers[thread] = thread;
      if (sample == kSyncwarp) {
        __syncwarp();
      } else {
        value = __shfl_xor_sync(kAllLanes, thread, 1);
      }
      value += numbers[neighbour];
      break;
    case kCopyWaitedForByOne:
    case kCopyAndBarrier:
      if (thread < 16) {
        copy_async(copied + 4 * thread, out + 4 * thread, 16);
      }
      commit_copies();
      wait_for_copies<0>();
      if (sample == kCopyAndBarrier) {
        __syncthreads();
      }
      value = static_cast<int>(copied[other]);
      break;
    case kClusterBarrier:
    case kNoClusterBarrier: {
      int* const shared = reinterpret_cast<int*>(dynamic_shared());
      cluster_sync();
      cluster_map(shared, 1 - cluster_rank())[thread] = thread;
      if (sample == kClusterBarrier) {
        cluster_sync();
      }
      value = shared[thread];
      cluster_sync();
      break;
    }
    case kBytesSideBySide:
      bytes[thread] = 1;
      value = bytes[thread];
      break;
    case kGlobalBarrier:
    case kGlobalNoBarrier:
      out[thread] = thread + 1;
      if (sample == kGlobalBarrier) {
        __syncthreads();
      }
      value = out[other];
      __syncthreads();
      break;
    case kGlobalCopy:
      if (thread < 16) {
        copy_async(copied + 4 * thread, out + 4 * thread, 16);
      }
      commit_copies();
      out[other] = thread + 1;
      wait_for_copies<0>();
      __syncthreads();
      break;
    case kPlacesOfClusters:
    case kPlaceOfTwoClusters:
      value = 1 + static_cast<int>(blockIdx.x);
      break;
  }
  out[(sample == kPlaceOfTwoClusters ? 0 : 64 * blockIdx.x) + thread] = value;
}

}  // namespace

}  // namespace svdprune::cuda

extern "C" void emulated_races_sample(int sample, int* out) {
  using namespace svdprune::cuda;
  const bool in_cluster = sample == kClusterBarrier || sample == kNoClusterBarrier;
  const bool in_two = sample == kPlacesOfClusters || sample == kPlaceOfTwoClusters;
  launch_clusters("sample_kernel", sample_kernel, dim3(in_cluster || in_two ? 2 : 1), dim3(64),
                  {in_cluster ? 2u : 1u, 64 * sizeof(int)}, emulation::stream, sample, out);
}
