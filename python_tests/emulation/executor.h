// Runs CUDA kernels on a CPU, one cluster of blocks after the other, the threads of a cluster as
// fibres that give way at barriers; each block goes as far as it can before the next one runs. Slow
// and sequential: it shows what a kernel computes, and of races those that change the result in this
// order of threads or in the opposite one (`reversed`).
//
// A `__shared__` variable exists once, so in clusters of several blocks shared memory is dynamic; it
// starts as NaN in every block.
#pragma once

#include <cuda_runtime_api.h>  // which leaves the words of the language empty outside nvcc

#undef __shared__
#define __shared__ static
#define __launch_bounds__(...)

#include "races.h"

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
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
constexpr size_t kLanes = 32;
constexpr size_t kLaneBytes = 64;  // that a lane can show to its warp
constexpr size_t kSharedMargin = 1024;

// Settings of the device.
inline bool reversed = false;          // the order that threads run in
inline bool clusters = true;           // whether it has them
inline bool silent = false;            // whether it leaves open how many blocks there is room for
inline cudaStream_t stream = nullptr;  // the current one

// A thread that has returned is no longer a member.
struct Barrier {
  size_t members = 0, arrived = 0, generation = 0;
  bool orders_memory = true;
  races::Order order{};

  size_t arrive() {
    const size_t own = generation;
    if (orders_memory) {
      order.release(own);
    }
    ++arrived;
    release_if_all_arrived();
    return own;
  }
  void leave() {
    --members;
    release_if_all_arrived();
  }
  void release_if_all_arrived() {
    if (arrived > 0 && arrived >= members) {
      arrived = 0;
      next();
    }
  }
  void next() {
    order.begin(++generation);
  }
};

// Bytes under way to a block, and the rounds of them that are over: the barrier's generation.
struct Arrivals {
  Barrier barrier;
  bool expected = false;
  int64_t missing = 0;
  std::vector<std::pair<unsigned char*, std::vector<unsigned char>>> late;

  // As seen once the round is over at the latest; in the opposite order of threads at once.
  void arrive(unsigned char* to, const void* from, size_t bytes) {
    races::write(to, bytes);
    barrier.order.release(barrier.generation);
    missing -= static_cast<int64_t>(bytes);
    if (reversed) {
      std::memcpy(to, from, bytes);
    } else {
      const auto* const first = static_cast<const unsigned char*>(from);
      late.emplace_back(to, std::vector(first, first + bytes));
    }
    end_round_if_complete();
  }
  void expect(size_t bytes) {
    expected = true;
    missing += static_cast<int64_t>(bytes);
    end_round_if_complete();
  }
  void end_round_if_complete() {
    if (expected && missing == 0) {
      for (const auto& [to, bytes] : late) {
        std::memcpy(to, bytes.data(), bytes.size());
      }
      late.clear();
      expected = false;
      barrier.next();
    }
  }
};

struct Warp {
  Barrier barrier;
  Barrier shown{.orders_memory = false};
  alignas(16) unsigned char lanes[kLanes][kLaneBytes] = {};
};

struct Block {
  uint3 index;
  Barrier barrier;
  std::map<int, Barrier> of_first;  // barriers of its first threads, by their number
  std::vector<Warp> warps;
  std::map<size_t, int> votes;        // by the barrier's generation
  std::vector<unsigned char> memory;  // dynamic shared memory between margins
  races::Shadow shadow;               // of it

  unsigned char* shared() {
    const auto start = reinterpret_cast<uintptr_t>(memory.data()) + kSharedMargin;
    return memory.data() + kSharedMargin + (128 - start % 128) % 128;
  }
};

// Of 16 bytes, under way: the first `bytes`, then zeros.
struct Copy {
  void* to;
  const void* from;
  size_t bytes;
};

// Where a thread or the scheduler goes on. A thread starts by its context, once; from then on the two jump, which takes
// no call of the operating system.
struct Place {
  ucontext_t context;
  bool started;
  jmp_buf registers;
};

[[gnu::noinline]] inline void jump(Place& from, Place& to) {
  if (_setjmp(from.registers) != 0) {
    return;
  }
  if (to.started) {
    _longjmp(to.registers, 1);
  }
  to.started = true;
  setcontext(&to.context);
}

struct Fibre {
  Place place;
  std::unique_ptr<char[]> stack{new char[kStackBytes]};
  uint3 index;
  Block* block;
  Warp* warp;
  unsigned lane;
  const Barrier* at;  // that it waits for, until its generation is no longer `generation`
  size_t generation;
  size_t cluster_generation;
  std::vector<std::vector<Copy>> copies;  // in groups
  bool done;
};

inline Place scheduler{.started = true};
inline std::vector<Fibre> fibres;
inline Fibre* current;
inline std::vector<Block> blocks;  // of the cluster
inline Barrier cluster_barrier;
inline std::map<const void*, Arrivals> arrivals;  // by where they lie
inline size_t shared_bytes;
inline std::function<void()> body;

[[noreturn]] inline void fail(const char* what) {
  std::fprintf(stderr, "emulation: block (%u, %u, %u): %s\n", blockIdx.x, blockIdx.y, blockIdx.z,
               what);
  std::abort();
}

// Lets the other threads run; for a loop that waits for what another one writes.
inline void give_way() {
  races::settle();
  jump(current->place, scheduler);
}

inline void wait(const Barrier& barrier, size_t generation) {
  const races::Pause pause;
  current->generation = generation;
  current->at = &barrier;
  while (barrier.generation == generation) {
    give_way();
  }
  current->at = nullptr;
  if (barrier.orders_memory) {
    barrier.order.acquire(generation);
  }
}

inline void sync(Barrier& barrier) {
  const races::Pause pause;
  wait(barrier, barrier.arrive());
}

inline void run_fibre() {
  races::start_kernel(true);
  body();
  races::start_kernel(false);
  current->done = true;
  std::memset(current->warp->lanes[current->lane], 0, kLaneBytes);
  current->warp->barrier.leave();
  current->warp->shown.leave();
  current->block->barrier.leave();
  if (current->block->barrier.members == 0) {  // another block must not read it any more
    std::memset(current->block->shared(), 0xff, shared_bytes);
  }
  cluster_barrier.leave();
  give_way();
}

inline void start_block(Block& block, uint3 index, Fibre* first, size_t threads) {
  block.index = index;
  block.barrier = {threads};
  block.votes.clear();
  block.of_first.clear();
  block.warps.assign((threads + kLanes - 1) / kLanes, {});
  block.memory.assign(shared_bytes + 2 * kSharedMargin + 128, 0xff);
  for (size_t t = 0; t < threads; ++t) {
    Fibre& fibre = first[t];
    fibre.index = {static_cast<unsigned>(t % blockDim.x),
                   static_cast<unsigned>(t / blockDim.x % blockDim.y),
                   static_cast<unsigned>(t / blockDim.x / blockDim.y)};
    fibre.block = &block;
    fibre.warp = &block.warps[t / kLanes];
    ++fibre.warp->barrier.members;
    ++fibre.warp->shown.members;
    fibre.lane = t % kLanes;
    fibre.at = nullptr;
    fibre.copies.assign(1, {});
    fibre.done = false;
    fibre.place.started = false;
    ucontext_t& context = fibre.place.context;
    getcontext(&context);
    context.uc_stack.ss_sp = fibre.stack.get();
    context.uc_stack.ss_size = kStackBytes;
    context.uc_link = nullptr;
    makecontext(&context, run_fibre, 0);
  }
}

inline void check_margins(Block& block) {
  const unsigned char* begin = block.memory.data();
  const unsigned char* end = begin + block.memory.size();
  const auto untouched = [](unsigned char byte) { return byte == 0xff; };
  if (!std::all_of(begin, static_cast<const unsigned char*>(block.shared()), untouched) ||
      !std::all_of(block.shared() + shared_bytes, const_cast<unsigned char*>(end), untouched)) {
    fail("written outside its shared memory");
  }
}

// Until all its threads have returned, wait at barriers, or ask for others to run. Returns whether
// any ran.
inline bool run_block(Fibre* first, size_t threads) {
  bool ran = false, advanced = true;
  while (advanced) {
    advanced = false;
    for (size_t t = 0; t < threads; ++t) {
      Fibre& fibre = first[reversed ? threads - 1 - t : t];
      if (fibre.done || (fibre.at && fibre.at->generation == fibre.generation)) {
        continue;
      }
      current = &fibre;
      threadIdx = fibre.index;
      blockIdx = fibre.block->index;
      jump(scheduler, fibre.place);
      ran = true;
      advanced |= fibre.done || fibre.at;
    }
  }
  return ran;
}

// first: the index of the block of rank 0.
inline void run_cluster(uint3 first, unsigned size) {
  const size_t threads = size_t{blockDim.x} * blockDim.y * blockDim.z;
  fibres.resize(threads * size);
  blocks.resize(size);
  cluster_barrier = {fibres.size()};
  arrivals.clear();
  for (unsigned rank = 0; rank < size; ++rank) {
    start_block(blocks[rank], {first.x + rank, first.y, first.z}, &fibres[rank * threads], threads);
  }
  races::start_cluster();
  const auto alive = [](const Fibre& fibre) { return !fibre.done; };
  while (std::any_of(fibres.begin(), fibres.end(), alive)) {
    bool moved = false;
    for (unsigned i = 0; i < size; ++i) {
      moved |= run_block(&fibres[(reversed ? size - 1 - i : i) * threads], threads);
    }
    if (!moved) {
      fail("its threads wait at different barriers");
    }
  }
  for (Block& block : blocks) {
    check_margins(block);
  }
}

template <class... Parameters, class... Arguments>
void run_grid(void (*kernel)(Parameters...), dim3 grid, dim3 block, unsigned cluster,
              size_t dynamic_bytes, const Arguments&... arguments) {
  gridDim = grid;
  blockDim = block;
  shared_bytes = dynamic_bytes;
  body = [&] { kernel(arguments...); };
  if (cluster == 0 || grid.x % cluster != 0 || (cluster > 1 && !clusters)) {
    fail("a launch in clusters that a device would refuse");
  }
  races::start_launch();
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; x += cluster) {
        run_cluster({x, y, z}, cluster);
      }
    }
  }
}

}  // namespace emulation

#include "tensor_core.h"
