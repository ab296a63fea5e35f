// What kernels call: barriers, exchange within a warp, atomics, clusters, launches.
#pragma once

#include "../../csrc/cuda/cluster.cuh"
#include "../../csrc/cuda/grid.cuh"
#include "executor.h"

#include <array>

inline void __syncthreads() {
  emulation::sync(emulation::current->block->barrier);
}

[[noreturn]] inline void __trap() {
  emulation::fail("a trap");
}

inline int __syncthreads_or(int vote) {
  const emulation::races::Pause pause;
  emulation::Block& block = *emulation::current->block;
  const size_t round = block.barrier.generation;
  block.votes[round] |= vote;
  __syncthreads();
  return block.votes[round];
}

namespace svdprune::cuda {

inline void sync_first(int threads) {
  const emulation::races::Pause pause;
  emulation::Block& block = *emulation::current->block;
  emulation::sync(
      block.of_first.try_emplace(threads, emulation::Barrier{size_t(threads)}).first->second);
}

}  // namespace svdprune::cuda

inline void __syncwarp(unsigned = ~0u) {
  emulation::sync(emulation::current->warp->barrier);
}

namespace emulation {

// What each lane of the warp shows. All lanes that have not returned call it at the same point. Orders no memory.
template <class T>
std::array<T, kLanes> show(const T& value) {
  static_assert(sizeof(T) <= kLaneBytes);
  const races::Pause pause;
  std::array<T, kLanes> shown;
  std::memcpy(current->warp->lanes[current->lane], &value, sizeof(T));
  sync(current->warp->shown);
  for (size_t lane = 0; lane < kLanes; ++lane) {
    std::memcpy(static_cast<void*>(&shown[lane]), current->warp->lanes[lane], sizeof(T));
  }
  sync(current->warp->shown);
  return shown;
}

}  // namespace emulation

inline unsigned __ballot_sync(unsigned, bool vote) {
  unsigned votes = 0;
  const auto shown = emulation::show(static_cast<unsigned char>(vote));
  for (size_t lane = 0; lane < emulation::kLanes; ++lane) {
    votes |= static_cast<unsigned>(shown[lane] != 0) << lane;
  }
  return votes;
}

template <class T>
T __shfl_sync(unsigned, T value, int lane) {
  return emulation::show(value)[lane % emulation::kLanes];
}
template <class T>
T __shfl_xor_sync(unsigned, T value, int lanes) {
  return emulation::show(value)[emulation::current->lane ^ lanes];
}
template <class T>
T __shfl_down_sync(unsigned, T value, unsigned lanes) {
  const unsigned from = emulation::current->lane + lanes;
  return emulation::show(value)[from < emulation::kLanes ? from : emulation::current->lane];
}

inline unsigned __reduce_max_sync(unsigned, unsigned value) {
  const auto shown = emulation::show(value);
  return *std::max_element(shown.begin(), shown.end());
}

inline unsigned __reduce_min_sync(unsigned, unsigned value) {
  const auto shown = emulation::show(value);
  return *std::min_element(shown.begin(), shown.end());
}

template <class T>
T __ldcg(const T* address) {
  return *address;
}

inline double rsqrt(double value) {
  return 1 / std::sqrt(value);
}
inline int __popc(unsigned value) {
  return __builtin_popcount(value);
}
inline int __ffs(int value) {
  return __builtin_ffs(value);
}
inline double __longlong_as_double(long long bits) {
  double value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
inline long long __double_as_longlong(double value) {
  long long bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

// Fibres do not interrupt each other.
template <class T>
T atomicMax(T* address, T value) {
  const emulation::races::Pause pause;
  return std::exchange(*address, std::max(*address, value));
}
template <class T>
T atomicMin(T* address, T value) {
  const emulation::races::Pause pause;
  return std::exchange(*address, std::min(*address, value));
}
template <class T>
T atomicAdd(T* address, T value) {
  const emulation::races::Pause pause;
  return std::exchange(*address, *address + value);
}

namespace svdprune::cuda {

inline unsigned char* dynamic_shared() {
  return emulation::current->block->shared();
}

inline unsigned cluster_rank() {
  return static_cast<unsigned>(emulation::current->block - emulation::blocks.data());
}

inline unsigned cluster_size() {
  return static_cast<unsigned>(emulation::blocks.size());
}

inline void cluster_arrive() {
  const emulation::races::Pause pause;
  emulation::current->cluster_generation = emulation::cluster_barrier.arrive();
}

inline void cluster_wait() {
  emulation::wait(emulation::cluster_barrier, emulation::current->cluster_generation);
}

inline void cluster_sync() {
  cluster_arrive();
  cluster_wait();
}

template <class T>
T* cluster_map(T* shared, unsigned rank) {
  auto* const own = reinterpret_cast<unsigned char*>(shared);
  const auto offset = static_cast<size_t>(own - dynamic_shared());
  if (rank >= cluster_size() || offset >= emulation::shared_bytes) {
    emulation::fail("cluster_map: no such block, or not in dynamic shared memory");
  }
  return reinterpret_cast<T*>(emulation::blocks[rank].shared() + offset);
}

inline void grid_sync() {
  cluster_sync();  // as all blocks of such a launch are alive together
}

inline unsigned dynamic_shared_bytes() {
  return static_cast<unsigned>(emulation::shared_bytes);
}

inline void start_arrivals(Arrivals* own) {
  const emulation::races::Pause pause;
  if (!emulation::arrivals.try_emplace(own).second) {
    emulation::fail("start_arrivals: called before");
  }
}

inline emulation::Arrivals& started(const Arrivals* own) {
  const auto found = emulation::arrivals.find(own);
  if (found == emulation::arrivals.end()) {
    emulation::fail("arrivals that were not started");
  }
  return found->second;
}

inline void expect_bytes(Arrivals* own, unsigned bytes) {
  const emulation::races::Pause pause;
  emulation::Arrivals& arrivals = started(own);
  if (arrivals.expected) {
    emulation::fail("expect_bytes: the round before is not over");
  }
  arrivals.expect(bytes);
}

template <class T>
void send(T* place, const T& value, Arrivals* own, unsigned rank) {
  const emulation::races::Pause pause;
  started(cluster_map(own, rank))
      .arrive(reinterpret_cast<unsigned char*>(cluster_map(place, rank)), &value, sizeof(T));
}

inline void await(Arrivals* own, unsigned round) {
  const emulation::races::Pause pause;
  const emulation::Barrier& barrier = started(own).barrier;
  if (barrier.generation != round && barrier.generation != round + 1) {
    emulation::fail("await: not the last round, nor the one before");
  }
  if (barrier.generation == round) {
    emulation::wait(barrier, round);
  } else {
    barrier.order.acquire(round);
  }
}

inline bool clusters_supported() {
  return emulation::clusters;
}

template <class... Parameters>
std::optional<int> most_clusters(void (*)(Parameters...), dim3 block, ClusterShape shape) {
  constexpr int kMultiprocessors = 132;
  if (emulation::silent) {
    return std::nullopt;
  }
  const bool fits = emulation::clusters && shape.size <= 16 && block.x <= 1024;
  return fits ? kMultiprocessors / static_cast<int>(shape.size) : 0;
}

template <class... Parameters, class... Arguments>
void launch_clusters(const char*, void (*kernel)(Parameters...), dim3 grid, dim3 block,
                     ClusterShape shape, cudaStream_t stream, const Arguments&... arguments) {
  if (stream != emulation::stream) {
    emulation::fail("not launched on the current stream");
  }
  emulation::run_grid(kernel, grid, block, shape.size, shape.shared_bytes, arguments...);
}

template <class... Parameters>
std::optional<int> most_blocks(void (*)(Parameters...), int, size_t) {
  return emulation::silent ? std::nullopt : std::optional(132);
}

template <class... Parameters, class... Arguments>
void launch_together(const char* name, void (*kernel)(Parameters...), int blocks, int threads,
                     size_t shared_bytes, cudaStream_t stream, const Arguments&... arguments) {
  launch_clusters(name, kernel, blocks, threads, {static_cast<unsigned>(blocks), shared_bytes},
                  stream, arguments...);
}

template <class... Parameters, class... Arguments>
void launch(const char* name, void (*kernel)(Parameters...), dim3 grid, dim3 block,
            cudaStream_t stream, const Arguments&... arguments) {
  launch_clusters(name, kernel, grid, block, {1, 0}, stream, arguments...);
}

}  // namespace svdprune::cuda
