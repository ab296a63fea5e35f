// Races in shared and global memory, of kernels that are compiled with -DSVDPRUNE_RACES -fsanitize=thread: what the compiler calls
// before each access comes here (races.cpp) and not to its own library, which knows no barriers of blocks.
//
// Each thread of a cluster has a vector clock. It is passed on at barriers, of a warp (__syncwarp alone, as a shuffle orders
// no memory), a block, a cluster or the grid, and by what is sent to another block. Two accesses to a number, one of them a
// write, are a race if neither thread's clock has seen the other's, or if they are of two clusters of one launch. Accesses of
// less than four bytes are not compared with wider ones; atomics and writes of what was there already are not looked at.
//
// What is sent passes on all that its sender had seen, where a device orders no more than what was sent. It has to, as the
// sender has read what its next message overwrites. With nothing passed on, and messages not looked at, there is no race
// either: nothing else relies on them.
#pragma once

#include <cstddef>
#include <cstdint>

#ifndef SVDPRUNE_RACES

namespace emulation::races {

struct Pause {
  Pause() {}
  ~Pause() {}
};

struct Order {
  void release(size_t) {}
  void acquire(size_t) const {}
  void begin(size_t) {}
};

struct Shadow {};

inline void start_kernel(bool) {}
inline void settle() {}
inline void start_launch() {}
inline void start_cluster() {}
inline void write(const void*, size_t) {}
inline void read(const void*, size_t) {}

}  // namespace emulation::races

#else

#include <memory>
#include <utility>
#include <vector>

namespace emulation::races {

using Clocks = std::vector<uint32_t>;  // by thread of the cluster

inline volatile bool watching = false;  // in a kernel's own code
inline uint32_t run = 0;                // of clusters, counted

// What the emulation itself does is not looked at.
struct Pause {
  const bool before = watching;
  Pause() {
    watching = false;
  }
  ~Pause() {
    watching = before;
  }
};

// What those who wait for a barrier will have seen, by its generation; none is two behind. Threads that have seen the same
// share one vector.
struct Order {
  using Seen = std::shared_ptr<const Clocks>;
  struct Round {
    std::shared_ptr<Clocks> sum;
    Seen added;         // the last one
    Seen from, merged;  // the last one that has acquired, and what became of it
  };
  mutable Round rounds[2];

  void release(size_t generation);
  void acquire(size_t generation) const;
  void begin(size_t generation) {
    rounds[generation % 2] = {};
  }
};

struct Access {
  uint32_t thread, clock;
  const void* code;
};

// Of a number: the last write, and the reads since, in a run.
struct Cell {
  uint32_t run = 0;
  bool written = false;
  Access write;
  std::vector<Access> reads;
};

// Of a block's dynamic shared memory, a cell a byte.
struct Shadow {
  std::vector<Cell> cells;
};

inline void start_kernel(bool starts) {
  watching = starts;
}
void settle();  // before another thread runs
void start_launch();
void start_cluster();
void write(const void* place, size_t bytes);
void read(const void* place, size_t bytes);

}  // namespace emulation::races

#endif
