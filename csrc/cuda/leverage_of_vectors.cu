// Stage 3 on the features' side for solver "tridiag": leverage from right singular vectors, U_r = X V_r L_r^-1/2, of which
// the squared row norms are summed up as the product X V_r is formed.

#include "gram_sums.cuh"
#include "warp.cuh"

#include <limits>

namespace svdprune::cuda {

namespace {

constexpr int kFeatures = 32;                   // of a panel, one a lane
constexpr int kRows = kTile / (kThreads / 32);  // of a panel, that a warp brings
constexpr int kSums = 4;  // a thread's rows and columns of the tile, see Sums<float>

// A warp's rows of a panel, on their way through registers.
struct Fetched {
  float number[kRows];
};

// Rows first, first + 1, ... of a matrix [end, features] in rows of `stride`: of the panel that begins at a feature; zeros
// where the matrix ends.
template <class S>
__device__ __forceinline__ Fetched fetch(const S* matrix, int64_t stride, int64_t first,
                                         int64_t end, int64_t feature, int64_t features) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  Fetched rows;
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    const int64_t row = first + warp * kRows + i;
    const bool exists = row < end && feature + lane < features;
    rows.number[i] =
        exists ? static_cast<float>(to_double(matrix[row * stride + feature + lane])) : 0;
  }
  return rows;
}

__device__ __forceinline__ void put(const Fetched& rows, unsigned char* panel) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    const int place = place_of(warp * kRows + i, lane / 4) + lane % 4 * 4;
    *reinterpret_cast<float*>(panel + place) = rows.number[i];
  }
}

// A block: 64 tokens of one image, and one 64 vectors after the other: a tile of X V_r in float32, 32 features at a time,
// of which the next are on their way while one panel of X and one of V^T are worked on. Squares are summed in float64, in
// a fixed order.
template <class S>
__global__ __launch_bounds__(kThreads, 1) void leverage_of_vectors_kernel(Images x, const S* packed,
                                                                          const float* vectors,
                                                                          const double* eigenvalues,
                                                                          const int32_t* ranks,
                                                                          float* scores) {
  alignas(16) __shared__ unsigned char panels[2][kPanelBytes];
  const int64_t b = blockIdx.y, features = x.features;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kTile;
  const int64_t length = length_of(x, b);
  const int rank = ranks[b];
  const S* const image = packed + b * x.tokens * features;
  const float* const basis = vectors + b * features * features;
  double squares[kSums] = {};
  for (int64_t vector = 0; vector < rank; vector += kTile) {
    Sums<float> product;
    Fetched left = fetch(image, features, first, length, 0, features);
    Fetched right = fetch(basis, features, vector, rank, 0, features);
    for (int64_t feature = 0; feature < features; feature += kFeatures) {
      __syncthreads();
      put(left, panels[0]);
      put(right, panels[1]);
      __syncthreads();
      left = fetch(image, features, first, length, feature + kFeatures, features);
      right = fetch(basis, features, vector, rank, feature + kFeatures, features);
      product.add(panels[0], panels[1]);
    }
    for (int j = 0; j < kSums; ++j) {
      const int64_t column = vector + Sums<float>::first_col() + 16 * j;
      const double eigenvalue = column < rank ? eigenvalues[b * features + column] : 1;
      for (int i = 0; i < kSums; ++i) {
        const double value = product.sums[i][j];
        squares[i] += value * value / eigenvalue;
      }
    }
  }
  for (int i = 0; i < kSums; ++i) {
    double sum = squares[i];
    for (int apart = 8; apart > 0; apart /= 2) {  // over the 16 threads of a row
      sum += __shfl_xor_sync(kAllLanes, sum, apart);
    }
    const int64_t token = first + Sums<float>::first_row() + 16 * i;
    if (Sums<float>::first_col() == 0 && token < length) {
      scores[first_token(x, b) + token] =
          rank < 0 ? std::numeric_limits<float>::quiet_NaN() : static_cast<float>(min(sum, 1.0));
    }
  }
}

}  // namespace

void launch_leverage_of_vectors(const Images& x, const void* packed, Dtype dtype,
                                const float* vectors, const double* eigenvalues,
                                const int32_t* rank, float* scores, cudaStream_t stream) {
  const dim3 grid(blocks_for(x.tokens, kTile), static_cast<unsigned>(x.images));
  const auto run = [&](auto type) {
    using S = decltype(type);
    launch("leverage_of_vectors_kernel", leverage_of_vectors_kernel<S>, grid, dim3(kThreads),
           stream, x, static_cast<const S*>(packed), vectors, eigenvalues, rank, scores);
  };
  switch (dtype) {
    case Dtype::kFloat16:
      return run(__half{});
    case Dtype::kBFloat16:
      return run(__nv_bfloat16{});
    default:
      return run(float{});
  }
}

}  // namespace svdprune::cuda
