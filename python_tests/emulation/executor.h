// Runs CUDA kernels on a CPU, one block after the other, the threads of a block as fibres that give
// way at barriers. Slow and sequential: it shows what a kernel computes, not whether it races.
#pragma once

#include <cuda_runtime_api.h>  // which leaves the words of the language empty outside nvcc

#undef __shared__
#define __shared__ static

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

using std::isfinite;
using std::max;
using std::min;

inline dim3 gridDim, blockDim;
inline uint3 blockIdx, threadIdx;

namespace emulation {

constexpr size_t kStackBytes = 128 * 1024;

struct Fibre {
  ucontext_t context;
  std::unique_ptr<char[]> stack{new char[kStackBytes]};
  uint3 index;
  bool done = false;
};

inline ucontext_t scheduler;
inline std::vector<Fibre> fibres;
inline size_t current, arrived, generation;
inline std::vector<unsigned> votes;  // a word a warp
inline std::function<void()> body;

inline void give_way() {
  swapcontext(&fibres[current].context, &scheduler);
  threadIdx = fibres[current].index;
}

inline void run_fibre() {
  body();
  fibres[current].done = true;
  swapcontext(&fibres[current].context, &scheduler);
}

// A thread that has returned no longer counts at a barrier.
inline size_t live() {
  return std::count_if(fibres.begin(), fibres.end(), [](const Fibre& f) { return !f.done; });
}

inline void release_if_all_arrived() {
  if (arrived > 0 && arrived >= live()) {
    arrived = 0;
    ++generation;
  }
}

inline void run_block() {
  const size_t threads = size_t{blockDim.x} * blockDim.y * blockDim.z;
  fibres = std::vector<Fibre>(threads);
  votes.assign((threads + 31) / 32, 0);
  arrived = 0;
  for (size_t t = 0; t < threads; ++t) {
    Fibre& fibre = fibres[t];
    fibre.index = {static_cast<unsigned>(t % blockDim.x),
                   static_cast<unsigned>(t / blockDim.x % blockDim.y),
                   static_cast<unsigned>(t / blockDim.x / blockDim.y)};
    getcontext(&fibre.context);
    fibre.context.uc_stack.ss_sp = fibre.stack.get();
    fibre.context.uc_stack.ss_size = kStackBytes;
    fibre.context.uc_link = nullptr;
    makecontext(&fibre.context, run_fibre, 0);
  }
  while (live() > 0) {
    for (current = 0; current < threads; ++current) {
      if (!fibres[current].done) {
        threadIdx = fibres[current].index;
        swapcontext(&scheduler, &fibres[current].context);
      }
    }
    release_if_all_arrived();
  }
}

}  // namespace emulation

inline void __syncthreads() {
  using namespace emulation;
  const size_t own = generation;
  ++arrived;
  release_if_all_arrived();
  while (generation == own) {
    give_way();
  }
}

// All 32 lanes call it at the same point, so after one round every vote is cast.
inline unsigned __ballot_sync(unsigned, bool vote) {
  using namespace emulation;
  const size_t warp = current / 32;
  const unsigned lane = current % 32;
  votes[warp] = (votes[warp] & ~(1u << lane)) | static_cast<unsigned>(vote) << lane;
  give_way();
  return votes[warp];
}

inline int __popc(unsigned value) {
  return __builtin_popcount(value);
}
inline long long __double_as_longlong(double value) {
  long long bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

// Fibres do not interrupt each other.
template <class T>
T atomicMax(T* address, T value) {
  return std::exchange(*address, std::max(*address, value));
}
template <class T>
T atomicMin(T* address, T value) {
  return std::exchange(*address, std::min(*address, value));
}
template <class T>
T atomicAdd(T* address, T value) {
  return std::exchange(*address, *address + value);
}

#define cudaMemsetAsync(pointer, value, bytes, stream) \
  (static_cast<void>(stream), std::memset(pointer, value, bytes))

namespace svdprune::cuda {

template <class... Parameters, class... Arguments>
void launch(const char*, void (*kernel)(Parameters...), dim3 grid, dim3 block, cudaStream_t,
            const Arguments&... arguments) {
  gridDim = grid;
  blockDim = block;
  emulation::body = [&] { kernel(arguments...); };
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        blockIdx = {x, y, z};
        emulation::run_block();
      }
    }
  }
}

}  // namespace svdprune::cuda
