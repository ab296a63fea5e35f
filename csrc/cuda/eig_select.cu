// Stages 2 to 5 in one launch, solver "tridiag": from an image's Gram matrix to its kept tokens; or, on the features'
// side, stage 2 alone: to its leading eigenvectors. The algorithm is that of ../cpu/solver_tridiag.cpp; the files in
// tridiag/ hold one idea each.
//
//   load      finds G
//   rows      of G, dealt to the warps of a cluster (layout), in registers and shared memory
//   reduce    fused tridiagonalisation, one exchange a step (certificate, probe: may it stop?)
//   ritz      eigenvalues of T_m
//   vectors   eigenvectors of T_m (multiple: where eigenvalues coincide)
//   leverage  back through the reflectors, squared row norms
//   keep      top-K, gather

#include "tridiag/certificate.cuh"
#include "tridiag/keep.cuh"
#include "tridiag/load.cuh"
#include "tridiag/multiple.cuh"

#include "answers.h"
#include "purify.h"

#include <algorithm>
#include <limits>
#include <tuple>

namespace svdprune::cuda {

namespace {

constexpr int kThreads = kThreadsKnown ? 32 * kMostWarps : 64;  // at most

struct Solved {
  int rank, steps;
};

// Reduces until certified or to the end; the Ritz values are in s.ritz. Returns the steps, 0 for an image that is handed
// over.
template <class Plan>
__device__ __forceinline__ int reduce(Team team, Shared& s, float scale) {
  Rows<Plan> rows;
  rows.load(team, s, scale);
  first_column<Plan::kColumns>(team, s, scale);
  const bool may_hand_over = s.problem->may_hand_over;
#pragma unroll 1
  for (int m = 1;; ++m) {
    forget_derived(team);
    const int look = s.problem->looks.next;
    sweep(team, s, rows, m - 1);
    if (m == s.n) {
      break;
    }
    if (m == look) {
      end_round(s.steps);
      if (certified(team, s, rows, m)) {
        return m;
      }
      if (keeps_looks(team)) {
        s.problem->looks.fail();
      }
    }
    if (may_hand_over && tridiag::seems_flat(m, look, s.n, s.problem->looks.captured,
                                             s.problem->trace, s.problem->variance)) {
      end_round(s.steps);
      return 0;
    }
    next_column<Plan::kColumns>(team, s, m - 1);
  }
  end_round(s.steps);
  send_ritz_values(team, s, s.n, kFine);
  cluster_sync();
  return s.n;
}

// By all eigenvalues, or by the Ritz values of a certified stop.
__device__ __forceinline__ int final_rank(const Shared& s, int m) {
  if (m < s.n || s.problem->rank > 0) {
    return rank_found(s, m);
  }
  double total = 0;
  for (int i = 0; i < m; ++i) {
    total += fmax(s.ritz[i], 0.0);
  }
  return min(m, tridiag::rank_for_variance(s.ritz, m, s.problem->variance, total));
}

// Of gram itself, not as it is scaled.
__device__ __forceinline__ void write_eigenvalues(const Team& team, const Shared& s, int rank,
                                                  float scale, double* eigenvalues) {
  for (int j = team.rank + team.size * team.thread; j < rank; j += team.size * team.threads) {
    eigenvalues[j] = s.ritz[j] / scale;
  }
}

// Stages 2 and 3 of an image; with a.eigenvalues stage 2 alone. Rank -1: an eigenvalue did not converge; kHandedOver:
// there are no scores.
template <class Plan>
__device__ __forceinline__ Solved solve(const Team& team, Shared& s, const Images& x,
                                        const EigSelect& a, float scale) {
  const int m = reduce<Plan>(team, s, scale);
  if (m == 0) {
    return {kHandedOver, 0};
  }
  const bool for_vectors = a.eigenvalues != nullptr;
  int rank = final_rank(s, m);
  if (for_vectors || x.tokens > x.features || x.cu_seqlens) {
    rank = tridiag::standing_out(s.ritz, rank);
  }

  const bool complement = !for_vectors && m == s.n && rank > s.n - rank;
  const int first = complement ? rank : 0;
  const int columns = complement ? s.n - rank : rank;
  if (m == s.n) {  // else the certificate has left them
    write_vectors(team, s, m, first, columns, reinterpret_cast<double*>(s.work),
                  work_bytes(s) / sizeof(double));
    cluster_sync();
  }
  float* const vectors = s.problem->vectors;
  const int stride = s.problem->stride;
  if (!separated(team, s, first, columns, vectors, stride)) {
    if (!write_orthogonal_vectors(team, s, m, first, columns, vectors, stride)) {
      return {-1, m};
    }
    cluster_sync();
  }
  apply_reflectors<Plan::kColumns>(team, s, m - 1, columns, s.problem->reflectors, vectors, stride);
  if (for_vectors) {
    write_eigenvalues(team, s, rank, scale, a.eigenvalues + this_image() * x.tokens);
    return {rank, m};
  }
  cluster_sync();
  send_leverage(team, s, columns, complement, vectors, stride,
                a.out.scores + first_token(x, this_image()));
  return {rank, m};
}

template <class Plan>
__device__ __forceinline__ void prune_image(const Images& x, const EigSelect& a) {
  const Team team = this_team(kThreadsKnown ? Plan::kThreads : blockDim.x);
  const int n = static_cast<int>(length_of(x, this_image()));
  Shared s = carve<Plan::kColumns>(team, n);
  cluster_sync();  // all blocks have started

  Solved solved{0, 0};
  if (n > 0) {
    const LoadedGram loaded = find_gram(team, s, x, a, this_image());
    if (loaded.state == Loaded::kReady) {
      if (team.thread == 0) {
        const int64_t most = min(static_cast<int64_t>(n), x.features);
        const int64_t vector_rows = a.eigenvalues ? x.tokens : x.tokens / 2 + 1;
        const int rank = static_cast<int>(min(a.rule.rank, most));
        *s.problem = {loaded.trace,
                      a.rule.variance,
                      loaded.gram,
                      a.reflectors + this_image() * x.tokens * x.tokens,
                      a.vectors + this_image() * vector_rows * x.tokens,
                      static_cast<int>(x.tokens),
                      rank,
                      a.hand_over != HandOver::kNever && !loaded.formed_anew,
                      CheckSchedule(n, loaded.trace, a.rule.variance, rank)};
      }
      __syncthreads();
      solved = a.hand_over == HandOver::kAlways && !loaded.formed_anew
                   ? Solved{kHandedOver, 0}
                   : solve<Plan>(team, s, x, a, loaded.scale);
    } else {
      solved.rank = loaded.state == Loaded::kNotFinite ? -1 : 0;
    }
    if (!a.eigenvalues && (solved.rank == -1 || (solved.steps == 0 && solved.rank == 0))) {
      send_score(team, s, solved.rank < 0 ? std::numeric_limits<float>::quiet_NaN() : 0.0f,
                 a.out.scores + first_token(x, this_image()));
    }
  }
  const int64_t b = this_image();
  if (team.rank == 0 && team.thread == 0) {
    a.out.rank[b] = solved.rank;
    if (a.out.steps) {  // of an image that is handed over they are written later
      a.out.steps[b] = solved.steps;
    }
  }
  cluster_sync();
  if (!a.out.selects || solved.rank == kHandedOver) {
    return;
  }
  send_kept(team, s, solved.rank, places_of(a.out.budget, b), a.out.budget.coverage);
  cluster_sync();
  gather_rows(x, b, a.out.budget, shared_kept(s), team.rank + team.size * team.warp,
              team.size * team.warps,
              {static_cast<char*>(a.out.tokens), a.out.indices, a.out.count});
}

// A cluster: one image, blockIdx.y. Shared memory: SharedSizes, dynamic. n = N <= 32 Plan::kColumns. Every
// decision is taken by all blocks alike, from the same bits. Results are deterministic; rows in registers and those in
// shared memory add their columns in different orders, so the last bits depend on the cluster's size, where that decides
// which are where. A trap for devices without clusters, on which it is never launched.
template <class Plan>
__global__ __launch_bounds__(Plan::kThreads, 1) void eig_select_kernel(Images x, EigSelect a) {
  if constexpr (kClusters) {
    prune_image<Plan>(x, a);
  } else {
    __trap();
  }
}

// Calls f(kernel, its Plan) with the smallest kernel for images of up to `tokens` tokens. False if there is none. A
// cluster of 16 has all rows in registers, but for 1024 tokens half of them; one of 8 nearly all up to 576.
template <class F>
bool with_kernel(int64_t tokens, int blocks, F&& f) {
  const auto call = [&f](auto plan) { f(eig_select_kernel<decltype(plan)>, plan); };
  if (tokens <= 256) {
    call(Plan<256 / 32, 4>{});
  } else if (tokens <= 576 && blocks == kMostCluster) {
    call(Plan<576 / 32, 3>{});
  } else if (tokens <= 576) {
    call(Plan<576 / 32, 4>{});
  } else if (tokens <= 768) {
    call(Plan<768 / 32, 3>{});
  } else if (tokens <= kMostTokens) {
    call(Plan<kMostTokens / 32, 2>{});
  } else {
    return false;
  }
  return true;
}

}  // namespace

EigSelectShape eig_select_shape(int64_t tokens, int blocks, int threads) {
  EigSelectShape shape{0, threads, 0};
  if (tokens > 0) {
    with_kernel(tokens, blocks, [&](auto, auto plan) {
      const int n = static_cast<int>(tokens);
      shape.blocks = blocks;
      shape.threads = std::min(threads, plan.kThreads);
      shape.shared_bytes =
          SharedSizes(plan.kColumns, plan.kHeld, n, blocks, shape.threads / 32).total_bytes();
    });
  }
  return shape;
}

namespace {

// How many clusters of that shape the current device runs at the same time. The answers are kept.
int clusters_at_once(int64_t tokens, const EigSelectShape& shape) {
  int device = 0;
  if (shape.blocks == 0 || shape.shared_bytes > shared_memory_limit() ||
      cudaGetDevice(&device) != cudaSuccess) {
    return 0;
  }
  static Answers<std::tuple<int, const void*, int, size_t>> answers;
  int at_once = 0;
  with_kernel(tokens, shape.blocks, [&](auto kernel, auto) {
    const auto* const name = reinterpret_cast<const void*>(kernel);
    at_once = answers.of({device, name, shape.blocks, shape.shared_bytes}, [&] {
      return most_clusters(kernel, dim3(shape.threads),
                           {static_cast<unsigned>(shape.blocks), shape.shared_bytes});
    });
  });
  return at_once;
}

}  // namespace

// A cluster of 16 halves the rows that a block sweeps, but where that makes images wait for each other, clusters
// of 8 leave room for more of them. Few tokens need few blocks: below 8 rows a block, its share of a step is less
// than the exchange's. Two at least: a block alone is no cluster, in which alone blocks may send.
EigSelectShape eig_select_shape_for(int64_t images, int64_t tokens) {
  constexpr int64_t kLeastRows = 8;
  if (!clusters_supported()) {
    return {};
  }
  int blocks = kMostCluster;
  while (blocks > 2 && tokens < kLeastRows * blocks) {
    blocks /= 2;
  }
  EigSelectShape possible{};
  for (const int candidate : {blocks, std::min(blocks, 8)}) {
    const EigSelectShape shape = eig_select_shape(tokens, candidate, kThreads);
    const int at_once = clusters_at_once(tokens, shape);
    if (at_once > 0) {
      possible = shape;
    }
    if (at_once >= images) {
      break;
    }
  }
  return possible;
}

void launch_eig_select(const Images& x, const EigSelect& arguments, EigSelectShape shape,
                       cudaStream_t stream) {
  const dim3 grid(shape.blocks, static_cast<unsigned>(x.images));
  const ClusterShape cluster{static_cast<unsigned>(shape.blocks), shape.shared_bytes};
  with_kernel(x.tokens, shape.blocks, [&](auto kernel, auto) {
    launch_clusters("eig_select_kernel", kernel, grid, dim3(shape.threads), cluster, stream, x,
                    arguments);
  });
}

}  // namespace svdprune::cuda
