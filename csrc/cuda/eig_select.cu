// Stages 2 to 5 in one launch, solver "tridiag": from an image's Gram matrix to its kept tokens. The
// algorithm is that of ../cpu/solver_tridiag.cpp; the files in tridiag/ hold one idea each.
//
//   load      the rows of G, dealt to the blocks of a cluster
//   reduce    fused tridiagonalisation, one exchange a step (certificate, probe: may it stop?)
//   ritz      eigenvalues of T_m
//   vectors   eigenvectors of T_m (multiple: where eigenvalues coincide)
//   leverage  back through the reflectors, squared row norms
//   keep      top-K, gather

#include "tridiag/certificate.cuh"
#include "tridiag/keep.cuh"
#include "tridiag/load.cuh"
#include "tridiag/multiple.cuh"

#include <algorithm>
#include <limits>
#include <map>
#include <mutex>
#include <tuple>

namespace svdprune::cuda {

namespace {

#ifdef SVDPRUNE_EMULATED
constexpr int kThreads = 64;  // which take an eighth of the time
#else
constexpr int kThreads = 32 * kMostWarps;
#endif

struct Solved {
  int rank, steps;
};

// Reduces until certified or to the end; the Ritz values are in s.ritz. Returns the steps.
template <int kColumns>
__device__ __forceinline__ int reduce(const Team& team, Shared& s, const LoadedGram& loaded,
                                      const RankRule& rule, float* gram, int64_t stride) {
  const int asked = static_cast<int>(rule.rank);
  int check = tridiag::next_check(0, s.n, asked);
  first_column(team, s, gram, stride);
  float scale = loaded.scale;
  int m = 0;
  for (;; scale = 1) {
    HeldRows<kColumns> held;
    held.load(team, s.n, gram, stride, scale);
    for (; m < s.n; ++m) {
      if (m > 0 && m == check) {
        check = tridiag::next_check(m, s.n, asked);
        if (asked > 0 || energy_captured(s, m, loaded.trace, rule.variance)) {
          break;
        }
      }
      if (m > 0) {
        next_column(team, s, m - 1, gram, stride);
      }
      sweep(team, s, held, m);
    }
    if (m == s.n) {
      break;
    }
    held.store(team, s.n, m, gram, stride);  // registers are needed, and rows from m on are free
    __syncthreads();
    if (certified(team, s, {m, gram, stride}, loaded.trace, rule.variance, asked)) {
      return m;
    }
  }
  send_ritz_values(team, s, m, kFine);
  cluster_sync();
  return m;
}

[[maybe_unused]] __device__ __forceinline__ int rank_of(const Shared& s, int m, double trace,
                                                        const RankRule& rule, int most,
                                                        bool count_energy) {
  double total = trace;
  if (m == s.n) {
    total = 0;
    for (int i = 0; i < m; ++i) {
      total += fmax(s.ritz[i], 0.0);
    }
  }
  const int rank = rule.rank > 0
                       ? min(static_cast<int>(rule.rank), most)
                       : min(m, tridiag::rank_for_variance(s.ritz, m, rule.variance, total));
  return count_energy ? tridiag::standing_out(s.ritz, rank) : rank;
}

// Stages 2 and 3 for an image whose rows are loaded. Rank -1: an eigenvalue did not converge.
template <int kColumns>
__device__ __forceinline__ Solved solve(const Team& team, Shared& s, const Images& x,
                                        const EigSelect& a, int64_t b, const LoadedGram& loaded,
                                        float* scores) {
  const int64_t stride = x.tokens;
  float* const gram = a.gram + b * stride * stride;  // whose rows become reflectors
  float* const vectors = a.vectors + b * (stride / 2 + 1) * stride;
  RankRule rule = a.rule;
  rule.rank = min(rule.rank, min(static_cast<int64_t>(s.n), x.features));
  const int m = reduce<kColumns>(team, s, loaded, rule, gram, stride);
  const int rank = rank_of(s, m, loaded.trace, rule, s.n, x.tokens > x.features || x.cu_seqlens);

  const bool complement = m == s.n && rank > s.n - rank;
  const int first = complement ? rank : 0;
  const int columns = complement ? s.n - rank : rank;
  write_vectors(team, s, m, first, columns, vectors, stride);
  cluster_sync();
  if (!separated(team, s, first, columns, vectors, stride)) {
    if (!write_orthogonal_vectors(team, s, m, first, columns, vectors, stride)) {
      return {-1, m};
    }
    cluster_sync();
  }
  apply_reflectors<kColumns>(team, s, m - 1, columns, gram, vectors, stride);
  cluster_sync();
  send_leverage(team, s, columns, complement, vectors, stride, scores);
  return {rank, m};
}

template <int kColumns>
__device__ __forceinline__ void prune_image(const Images& x, const EigSelect& a) {
  const Team team = this_team();
  const int64_t b = blockIdx.y;
  const int n = static_cast<int>(length_of(x, b));
  Shared s = carve<kColumns>(team, n);
  float* const scores = a.scores + first_token(x, b);
  cluster_sync();  // all blocks have started

  Solved solved{0, 0};
  if (n > 0) {
    float* const gram = a.gram + b * x.tokens * x.tokens;
    const LoadedGram loaded = find_gram(team, s, x, a, b, gram);
    if (loaded.state == Loaded::kReady) {
      load_rows(team, s, gram, x.tokens, loaded.scale);
      cluster_sync();
      solved = solve<kColumns>(team, s, x, a, b, loaded, scores);
    } else {
      solved.rank = loaded.state == Loaded::kNotFinite ? -1 : 0;
    }
    if (solved.rank < 0 || loaded.state != Loaded::kReady) {
      send_score(team, s, solved.rank < 0 ? std::numeric_limits<float>::quiet_NaN() : 0.0f, scores);
    }
  }
  if (team.rank == 0 && team.thread == 0) {
    a.rank[b] = solved.rank;
    if (a.steps) {
      a.steps[b] = solved.steps;
    }
  }
  cluster_sync();
  if (!a.selects) {
    return;
  }
  send_kept(team, s, solved.rank, places_of(a.budget, b), a.budget.coverage);
  cluster_sync();
  gather_kept(team, s, x, b, a.budget, static_cast<char*>(a.tokens), a.indices, a.count);
}

// A cluster: one image, blockIdx.y. Shared memory: SharedSizes, dynamic. n = N <= 32 kColumns. Every
// decision is taken by all blocks alike, from the same bits; results are deterministic. Empty for devices without
// clusters, on which it is never launched.
template <int kColumns>
__global__ __launch_bounds__(most_threads(kColumns), 1) void eig_select_kernel(Images x,
                                                                               EigSelect a) {
  if constexpr (kClusters) {
    prune_image<kColumns>(x, a);
  }
}

// Calls f(kernel, its kColumns) with the smallest kernel for images of up to `tokens` tokens. False if there is
// none.
template <class F>
bool with_kernel(int64_t tokens, F&& f) {
  if (tokens <= 256) {
    f(eig_select_kernel<256 / 32>, 256 / 32);
  } else if (tokens <= 576) {
    f(eig_select_kernel<576 / 32>, 576 / 32);
  } else if (tokens <= 768) {
    f(eig_select_kernel<768 / 32>, 768 / 32);
  } else if (tokens <= kMostTokens) {
    f(eig_select_kernel<kMostTokens / 32>, kMostTokens / 32);
  } else {
    return false;
  }
  return true;
}

}  // namespace

EigSelectShape eig_select_shape(int64_t tokens, int blocks, int threads) {
  EigSelectShape shape{0, threads, 0};
  if (tokens > 0) {
    with_kernel(tokens, [&](auto, int columns) {
      const int n = static_cast<int>(tokens);
      shape.blocks = blocks;
      shape.threads = std::min(threads, most_threads(columns));
      shape.shared_bytes = SharedSizes(columns, n, blocks, shape.threads / 32).total_bytes();
    });
  }
  return shape;
}

namespace {

// How many clusters of that shape the current device runs at the same time. The answers are kept.
int clusters_at_once(int64_t tokens, const EigSelectShape& shape) {
  int device = 0, shared_limit = 0;
  if (cudaGetDevice(&device) != cudaSuccess ||
      cudaDeviceGetAttribute(&shared_limit, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) !=
          cudaSuccess ||
      shape.blocks == 0 || shape.shared_bytes > static_cast<size_t>(shared_limit)) {
    return 0;
  }
  static std::mutex mutex;
  static std::map<std::tuple<int, int, size_t>, int> answers;
  const std::lock_guard lock(mutex);
  const auto [answer, is_new] = answers.try_emplace({device, shape.blocks, shape.shared_bytes});
  if (is_new) {
    with_kernel(tokens, [&](auto kernel, int) {
      answer->second = most_clusters(kernel, dim3(shape.threads),
                                     {static_cast<unsigned>(shape.blocks), shape.shared_bytes});
    });
  }
  return answer->second;
}

}  // namespace

// A cluster of 16 halves the rows that a block sweeps, but where that makes images wait for each other, clusters
// of 8 leave room for more of them. Few tokens need few blocks: below 8 rows a block, its share of a step is less
// than the barrier's.
EigSelectShape eig_select_shape_for(int64_t images, int64_t tokens) {
  constexpr int64_t kLeastRows = 8;
  if (!clusters_supported()) {
    return {};
  }
  int blocks = kMostCluster;
  while (blocks > 1 && tokens < kLeastRows * blocks) {
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
  with_kernel(x.tokens, [&](auto kernel, int) {
    launch_clusters("eig_select_kernel", kernel, grid, dim3(shape.threads), cluster, stream, x,
                    arguments);
  });
}

}  // namespace svdprune::cuda
