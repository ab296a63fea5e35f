// C functions around the launches, for ctypes.

#include "../../csrc/cuda/cluster.cuh"
#include "../../csrc/cuda/launch.h"
#include "../../csrc/cuda/pivot.h"
#include "../../csrc/cuda/purify.h"

using svdprune::cuda::Budget;
using svdprune::cuda::Dtype;
using svdprune::cuda::EigSelect;
using svdprune::cuda::Images;
using svdprune::cuda::Pivot;
using svdprune::cuda::Purify;
using svdprune::cuda::RaterCall;

// Each block passes its rank and thread numbers on to the next one of its cluster, and the sum over
// a warp of them to all lanes.
static void pass_on_kernel(int64_t* received, int64_t* sums) {
  using namespace svdprune::cuda;
  auto* const own = reinterpret_cast<int64_t*>(dynamic_shared());
  const unsigned next = (cluster_rank() + 1) % cluster_size();
  const int64_t number = 1000 * cluster_rank() + threadIdx.x;
  cluster_sync();  // every block has started
  cluster_map(own, next)[threadIdx.x] = number;
  int64_t sum = number;
  for (int lanes = 16; lanes > 0; lanes /= 2) {
    sum += __shfl_xor_sync(~0u, sum, lanes);
  }
  cluster_arrive();
  sums[blockIdx.x * blockDim.x + threadIdx.x] = sum;
  cluster_wait();
  received[blockIdx.x * blockDim.x + threadIdx.x] = own[threadIdx.x];
}

// In each round every block sends its threads' numbers to all blocks of its cluster, and each thread adds what came
// from its namesakes; two buffers take turns, as in csrc/cuda/tridiag/exchange.cuh.
static void send_all_kernel(int rounds, int64_t* received) {
  using namespace svdprune::cuda;
  auto* const arrivals = reinterpret_cast<Arrivals*>(dynamic_shared());
  auto* const buffers = reinterpret_cast<int64_t*>(arrivals + 2);
  const unsigned numbers = blockDim.x * cluster_size();
  if (threadIdx.x == 0) {
    start_arrivals(arrivals);
    start_arrivals(arrivals + 1);
  }
  cluster_sync();  // all have started
  int64_t number = 100 * cluster_rank() + threadIdx.x;
  for (int round = 0; round < rounds; ++round) {
    Arrivals* const own = arrivals + round % 2;
    int64_t* const buffer = buffers + round % 2 * numbers;
    if (threadIdx.x == 0) {
      expect_bytes(own, numbers * sizeof(int64_t));
    }
    for (unsigned rank = 0; rank < cluster_size(); ++rank) {
      send(buffer + cluster_rank() * blockDim.x + threadIdx.x, number, own, rank);
    }
    await(own, round / 2);
    for (unsigned rank = 0; rank < cluster_size(); ++rank) {
      number += buffer[rank * blockDim.x + threadIdx.x];
    }
    __syncthreads();
  }
  received[blockIdx.x * blockDim.x + threadIdx.x] = number;
  cluster_sync();  // none has ended while others send
}

extern "C" {

void emulated_send_all(int blocks, int threads, int cluster, int rounds, int64_t* received) {
  const size_t bytes =
      2 * sizeof(svdprune::cuda::Arrivals) + 2 * threads * cluster * sizeof(int64_t);
  svdprune::cuda::launch_clusters("send_all_kernel", send_all_kernel, blocks, threads,
                                  {static_cast<unsigned>(cluster), bytes}, nullptr, rounds,
                                  received);
}

void emulated_pass_on(int blocks, int threads, int cluster, int64_t* received, int64_t* sums) {
  svdprune::cuda::launch_clusters("pass_on_kernel", pass_on_kernel, blocks, threads,
                                  {static_cast<unsigned>(cluster), threads * sizeof(int64_t)},
                                  nullptr, received, sums);
}

void emulated_feature_means(const Images* x, double* means) {
  svdprune::cuda::launch_feature_means(*x, means, nullptr);
}

void emulated_largest_magnitude(const Images* x, const double* means, double* largest) {
  svdprune::cuda::launch_largest_magnitude(*x, means, largest, nullptr);
}

int64_t emulated_gram_fused_partials(const Images* x) {
  return svdprune::cuda::gram_fused_partials(*x);
}

void emulated_gram_fused(const Images* x, float* gram, double* partials) {
  svdprune::cuda::launch_gram_fused(*x, gram, partials, nullptr);
}

void emulated_pack(const Images* x, const double* means, const double* largest, void* packed,
                   int dtype) {
  svdprune::cuda::launch_pack(*x, means, largest, packed, static_cast<Dtype>(dtype), nullptr);
}

void emulated_leverage(const Images* x, bool tokens_side, int64_t n, const float* basis,
                       const float* eigenvalues, const double* largest, const int* info,
                       double variance, int64_t rank, float* scores, int32_t* ranks) {
  svdprune::cuda::launch_leverage(*x, tokens_side, n, basis, eigenvalues, largest, info,
                                  {variance, rank}, scores, ranks, nullptr);
}

void emulated_select(const Images* x, const float* scores, const int32_t* ranks,
                     const Budget* budget, uint8_t* kept) {
  svdprune::cuda::launch_select(*x, scores, ranks, *budget, kept, nullptr);
}

int64_t emulated_pivot_on_chip(const Images* x, const Budget* budget) {
  return svdprune::cuda::pivot_on_chip(*x, *budget);
}

int64_t emulated_pivot_numbers(int64_t tokens) {
  return svdprune::cuda::pivot_numbers(tokens);
}

void emulated_pivot(const Images* x, const Pivot<float>* arguments) {
  svdprune::cuda::launch_pivot(*x, *arguments, nullptr);
}

void emulated_pivot_float64(const Images* x, const Pivot<double>* arguments) {
  svdprune::cuda::launch_pivot(*x, *arguments, nullptr);
}

void emulated_gather(const Images* x, const uint8_t* kept, const Budget* budget, void* tokens,
                     int64_t* indices, int32_t* counts) {
  svdprune::cuda::launch_gather(*x, kept, *budget, tokens, indices, counts, nullptr);
}

int64_t emulated_eig_select_bytes(int64_t tokens, int blocks, int threads) {
  const auto shape = svdprune::cuda::eig_select_shape(tokens, blocks, threads);
  return shape.blocks ? static_cast<int64_t>(shape.shared_bytes) : 0;
}

void emulated_eig_select(const Images* x, const EigSelect* arguments, int blocks, int threads) {
  svdprune::cuda::launch_eig_select(
      *x, *arguments, svdprune::cuda::eig_select_shape(x->tokens, blocks, threads), nullptr);
}

int64_t emulated_purify_state_bytes() {
  return sizeof(svdprune::purify::State);
}

void emulated_purify(const Images* x, const Purify* arguments, int blocks) {
  svdprune::cuda::launch_purify(*x, *arguments, blocks, nullptr);
}

int64_t emulated_rater_tiles(const RaterCall* call) {
  return svdprune::cuda::rater_tiles(call->args);
}

void emulated_rater_scores(const RaterCall* call) {
  svdprune::cuda::launch_rater_scores(*call, nullptr);
}

void emulated_rater_scores_by_head(const RaterCall* call) {
  svdprune::cuda::launch_rater_scores_by_head(*call, nullptr);
}
}
