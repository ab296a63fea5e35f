// The Gram matrix of the tokens from the features as they lie in memory, in one launch: G = X Xᵀ,
// its trace and ||G||_F².
//
// Grid (tiles x parts, B): a tile is one of the lower 64 x 64 ones, a part one of up to 8 runs of the
// features. The parts of one tile are a cluster (without clusters there is one part), and add up
// through distributed shared memory, each block a run of the tile's rows. 256 threads: on tensor
// cores 8 warps of 32 x 16 sums, in float32 16 x 16 threads of 4 x 4. Shared memory: 64 KB dynamic,
// four stages of two panels [64 rows, 128 bytes], then the tile of sums.
//
// Products of 16-bit numbers are exact; all sums are float32, in float32's own products too (no
// TF32); trace and norm are summed in float64. Deterministic, and the same for an image whatever
// batch it comes in: the parts depend on N, D, the type and the kind of device, and are added in
// order. G is symmetric bit for bit, as each upper number is a copy of its lower one.

#include "cluster.cuh"
#include "gram_sums.cuh"

#include <algorithm>
#include <stdexcept>

namespace svdprune::cuda {

namespace {

constexpr int kStages = 4;
constexpr int kSharedBytes = kStages * 2 * kPanelBytes;
constexpr int kWarps = kThreads / 32;
static_assert(kTile * kSumStride * sizeof(float) + 2 * kWarps * sizeof(double) <= kSharedBytes);

// What a block works on.
struct Work {
  int64_t b;
  int64_t length;      // of the image
  int64_t row, col;    // of the tile's first token; row >= col
  int64_t begin, end;  // stages, of features_in_stage each
};

template <class S>
constexpr int64_t features_in_stage = kRowBytes / sizeof(S);

__device__ inline Work work_of(const Images& x, int64_t stages) {
  const int64_t parts = cluster_size(), part = cluster_rank();
  int64_t tile = blockIdx.x / cluster_size();
  int64_t i = 0;
  for (; tile > i; ++i) {
    tile -= i + 1;
  }
  const int64_t length = length_of(x, blockIdx.y);
  const bool empty = i * kTile >= length;
  return {blockIdx.y,
          length,
          i * kTile,
          tile * kTile,
          empty ? 0 : stages * part / parts,
          empty ? 0 : stages * (part + 1) / parts};
}

// Brings panels to shared memory: rows [first, first + 64) and one stage's features, zeros outside the image.
template <class S, bool kAligned>
class Panels;

// Of rows that are aligned to 16 bytes and have contiguous features: by asynchronous copies of 16 bytes, a thread one
// of some rows, whose addresses it works out once.
template <class S>
class Panels<S, true> {
  static constexpr int kRows = kTile * kPieces / kThreads;
  static constexpr int kNumbers = 16 / sizeof(S);

  const S* image_;
  int64_t features_;
  const S* from_[kRows];  // the first feature of the piece in stage 0
  int to_[kRows];
  bool exists_[kRows];

 public:
  __device__ Panels(const Images& x, const Work& work, int64_t first)
      : image_(static_cast<const S*>(x.data) + token_offset(x, work.b, 0)), features_(x.features) {
    const int piece = threadIdx.x % kPieces;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int row = threadIdx.x / kPieces + r * (kThreads / kPieces);
      exists_[r] = first + row < work.length;
      from_[r] = image_ + (first + row) * x.token_stride + piece * kNumbers;
      to_[r] = place_of(row, piece);
    }
  }

  __device__ void load(int64_t feature, unsigned char* panel) const {
    const int64_t left = features_ - feature - threadIdx.x % kPieces * kNumbers;
    const int count = static_cast<int>(clamped(left, 0, kNumbers));
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const bool any = exists_[r] && count > 0;
      copy_async(panel + to_[r], any ? from_[r] + feature : image_,
                 any ? count * static_cast<int>(sizeof(S)) : 0);
    }
  }
};

// Of any others, number by number.
template <class S>
class Panels<S, false> {
  static constexpr int kNumbers = 16 / sizeof(S);

  const Images& x_;
  const Work& work_;
  int64_t first_;

 public:
  __device__ Panels(const Images& x, const Work& work, int64_t first)
      : x_(x), work_(work), first_(first) {}

  __device__ void load(int64_t feature, unsigned char* panel) const {
    const S* image = static_cast<const S*>(x_.data) + token_offset(x_, work_.b, 0);
    const bool along_tokens = x_.token_stride == 1;  // for neighbours to read neighbours
#pragma unroll 1
    for (int p = threadIdx.x; p < kTile * kPieces; p += kThreads) {
      const int row = along_tokens ? p % kTile : p / kPieces;
      const int piece = along_tokens ? p / kTile : p % kPieces;
      const int64_t token = first_ + row, j = feature + piece * kNumbers;
      const int64_t left = token < work_.length ? x_.features - j : 0;
      const int count = static_cast<int>(clamped(left, 0, kNumbers));
      const S* from = image + token * x_.token_stride + j * x_.feature_stride;
      S numbers[kNumbers];
#pragma unroll
      for (int n = 0; n < kNumbers; ++n) {
        numbers[n] = n < count ? from[n * x_.feature_stride] : from_double<S>(0);
      }
      *reinterpret_cast<uint4*>(panel + place_of(row, piece)) = as_bytes(numbers);
    }
  }
};

// This part's sums, in `sums`: kStages - 1 stages are on their way while one is worked on.
template <class S, bool kAligned>
__device__ void sum_part(const Images& x, const Work& work, Sums<S>& sums) {
  const auto panel = [](int64_t stage, int which) {
    return dynamic_shared() + (2 * (stage % kStages) + which) * kPanelBytes;
  };
  const bool diagonal = work.row == work.col;
  const Panels<S, kAligned> rows(x, work, work.row), cols(x, work, work.col);
  const auto load = [&](int64_t stage) {
    if (stage < work.end) {
      const int64_t feature = stage * features_in_stage<S>;
      rows.load(feature, panel(stage, 0));
      if (!diagonal) {
        cols.load(feature, panel(stage, 1));
      }
    }
    commit_copies();
  };
  for (int s = 0; s < kStages - 1; ++s) {
    load(work.begin + s);
  }
  for (int64_t stage = work.begin; stage < work.end; ++stage) {
    wait_for_copies<kStages - 2>();
    __syncthreads();
    load(stage + kStages - 1);
    sums.add(panel(stage, 0), panel(stage, diagonal ? 0 : 1));
  }
  __syncthreads();
}

// The sum over the block of two numbers a thread, by thread 0 to out [2]; in a fixed order.
__device__ inline void write_block_sums(double first, double second, double* scratch, double* out) {
  for (int lanes = 16; lanes > 0; lanes /= 2) {
    first += __shfl_down_sync(~0u, first, lanes);
    second += __shfl_down_sync(~0u, second, lanes);
  }
  if (threadIdx.x % 32 == 0) {
    scratch[threadIdx.x / 32] = first;
    scratch[kWarps + threadIdx.x / 32] = second;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int w = 1; w < kWarps; ++w) {
      first += scratch[w];
      second += scratch[kWarps + w];
    }
    out[0] = first;
    out[1] = second;
  }
}

// Adds the parts' tiles up and writes them: each block of the cluster has its own run of rows, which
// no other block reads from its tile. gram: of the image.
__device__ inline void write_tile(const Work& work, int64_t n, float* tile, float* gram,
                                  double* partial) {
  constexpr int kSlots = kTile * kTile / kThreads;  // rows a thread has, where there is one part
  const int parts = static_cast<int>(cluster_size()), part = static_cast<int>(cluster_rank());
  const int begin = kTile * part / parts, end = kTile * (part + 1) / parts;
  const int first = begin + threadIdx.x / kTile, j = threadIdx.x % kTile;
  float sums[kSlots] = {};
  for (int p = 0; p < parts; ++p) {
    const float* from = cluster_map(tile, p);
#pragma unroll
    for (int s = 0; s < kSlots; ++s) {
      const int i = first + s * (kThreads / kTile);
      if (i >= end) {
        break;
      }
      sums[s] += from[i * kSumStride + j];
    }
  }
  cluster_arrive();

  double trace = 0, norm = 0;
#pragma unroll
  for (int s = 0; s < kSlots; ++s) {
    const int i = first + s * (kThreads / kTile);
    const int64_t row = work.row + i, col = work.col + j;
    if (i >= end || row >= n) {
      break;
    }
    if (col > row) {
      continue;
    }
    const float sum = row < work.length ? sums[s] : 0;  // 0 x Inf is no zero
    const double square = static_cast<double>(sum) * sum;
    trace += row == col ? static_cast<double>(sum) : 0.0;
    norm += row == col ? square : 2 * square;
    tile[i * kSumStride + j] = sum;
    gram[row * n + col] = sum;
  }
  __syncthreads();
  for (int column = threadIdx.x / 32; column < kTile; column += kWarps) {
    const int64_t col = work.col + column;
    for (int i = begin + threadIdx.x % 32; i < end; i += 32) {
      const int64_t row = work.row + i;
      if (row < n && col < row) {
        gram[col * n + row] = tile[i * kSumStride + column];
      }
    }
  }
  auto* const scratch = reinterpret_cast<double*>(tile + kTile * kSumStride);
  write_block_sums(trace, norm, scratch, partial);
  cluster_wait();  // the others have read this block's tile
}

template <class S, bool kAligned>
__global__ void __launch_bounds__(kThreads)
    gram_fused_kernel(Images x, float* gram, double* partials) {
  const int64_t stages = (x.features + features_in_stage<S> - 1) / features_in_stage<S>;
  const Work work = work_of(x, stages);
  auto* const tile = reinterpret_cast<float*>(dynamic_shared());
  Sums<S> sums;
  sum_part<S, kAligned>(x, work, sums);
  sums.store(tile);
  cluster_sync();
  const int64_t n = x.tokens;
  write_tile(work, n, tile, gram + work.b * n * n,
             partials + 2 * (work.b * gridDim.x + blockIdx.x));
}

int64_t tiles_of(const Images& x) {
  const int64_t rows = blocks_for(x.tokens, kTile);
  return rows * (rows + 1) / 2;
}

int64_t bytes_of(Dtype dtype) {
  return dtype == Dtype::kFloat32 ? 4 : 2;
}

// Parts of a tile: as many as bring one image's blocks near the 132 multiprocessors of an H100 or
// H200, and leave each part two stages.
int64_t parts_of(const Images& x) {
  constexpr int64_t kBlocks = 132, kMost = 8;
  if (!clusters_supported()) {
    return 1;
  }
  const int64_t tiles = tiles_of(x);
  const int64_t stages = blocks_for(x.features * bytes_of(x.dtype), kRowBytes);
  return std::clamp<int64_t>((kBlocks + tiles / 2) / tiles, 1,
                             std::clamp<int64_t>(stages / 2, 1, kMost));
}

// Whether rows can be read 16 bytes at a time.
bool aligned_rows(const Images& x) {
  const int64_t numbers = 16 / bytes_of(x.dtype);
  return x.feature_stride == 1 && x.token_stride % numbers == 0 && x.image_stride % numbers == 0 &&
         reinterpret_cast<uintptr_t>(x.data) % 16 == 0;
}

}  // namespace

int64_t gram_fused_partials(const Images& x) {
  return tiles_of(x) * parts_of(x);
}

void launch_gram_fused(const Images& x, float* gram, double* partials, cudaStream_t stream) {
  const int64_t parts = parts_of(x);
  const dim3 grid(static_cast<unsigned>(tiles_of(x) * parts), static_cast<unsigned>(x.images));
  const ClusterShape shape{static_cast<unsigned>(parts), kSharedBytes};
  const auto run = [&](auto kernel) {
    launch_clusters("gram_fused_kernel", kernel, grid, kThreads, shape, stream, x, gram, partials);
  };
  const bool aligned = aligned_rows(x);
  switch (x.dtype) {
    case Dtype::kFloat32:
      return run(aligned ? gram_fused_kernel<float, true> : gram_fused_kernel<float, false>);
    case Dtype::kFloat16:
      return run(aligned ? gram_fused_kernel<__half, true> : gram_fused_kernel<__half, false>);
    case Dtype::kBFloat16:
      return run(aligned ? gram_fused_kernel<__nv_bfloat16, true>
                         : gram_fused_kernel<__nv_bfloat16, false>);
    default:
      throw std::invalid_argument(
          "svdprune: gram_fused: x must be float32, float16 or bfloat16, got float64");
  }
}

}  // namespace svdprune::cuda
