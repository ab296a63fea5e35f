// How the blocks of a cluster tell each other what their rows gave.
//
// Note [one exchange a step]
// In step k each block sweeps its own rows once: it applies the pending update, multiplies by v_k, and sends each
// row's product and its entry of column k + 1 to all blocks. When all have come, every block forms w_k, the next
// column and its reflector from them, in the same order and so with the same bits, and nothing else has to be agreed
// on. Two buffers take turns: a block that is ahead writes the other one. It cannot be two rounds ahead, as every
// block has rows in every group that is still worked on, and sends them after all its threads have read the round
// before: a round is over for no block before each has begun it.
#pragma once

#include "shared.cuh"

namespace svdprune::cuda {

// Two neighbours, which travel together.
template <class T>
struct alignas(2 * sizeof(T)) Pair {
  T first, second;
};

template <class T>
__device__ __forceinline__ unsigned buffer_of(const Exchange<T>& exchange) {
  return (exchange.rounds - 1) % 2;
}

// A round in which all rows of groups with rows from `first` on are sent. A barrier of the block lies between this
// and the last use of `latest`.
template <class T>
__device__ __forceinline__ void begin_round(const Team& team, Exchange<T>& exchange, int n,
                                            int first) {
  ++exchange.rounds;
  if (team.thread == 0) {
    const int groups = group_count(n) - first / 32;
    expect_bytes(exchange.arrivals + buffer_of(exchange), 32 * sizeof(T) * groups);
  }
}

// What rows `row` and `row + 1` gave, to all blocks: to block l by lanes l and l + 16, those of them that say so.
template <class T>
__device__ __forceinline__ void send_pair(const Team& team, const Exchange<T>& exchange, int row,
                                          const Pair<T>& pair, bool sends) {
  const int block = team.lane % kMostCluster;
  if (sends && block < team.size) {
    auto* const place = reinterpret_cast<Pair<T>*>(exchange.results +
                                                   buffer_of(exchange) * exchange.capacity + row);
    send(place, pair, exchange.arrivals + buffer_of(exchange), block);
  }
}

// Waits until the round is over.
template <class T>
__device__ __forceinline__ void end_round(const Exchange<T>& exchange) {
  await(exchange.arrivals + buffer_of(exchange), (exchange.rounds - 1) / 2);
}

// What the last round brought: all rows' results, until the round after the next.
template <class T>
__device__ __forceinline__ const T* latest(const Exchange<T>& exchange) {
  return exchange.results + buffer_of(exchange) * exchange.capacity;
}

// The buffer that the next round will fill, free until then.
template <class T>
__device__ __forceinline__ T* free_buffer(const Exchange<T>& exchange) {
  return exchange.results + exchange.rounds % 2 * exchange.capacity;
}

}  // namespace svdprune::cuda
