// The bridge between the host file, which knows torch, and the kernels, which do not. Every pointer
// is to device memory, row-major and contiguous unless its comment says otherwise; every call is
// asynchronous on `stream`, takes no memory, never synchronises, and may be captured in a CUDA
// graph. All results are deterministic: sums of reals have a fixed order, and atomics are used on
// maxima, minima and integers only.
#pragma once

#include "../rater.h"

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

namespace svdprune::cuda {

enum class Dtype { kFloat64, kFloat32, kFloat16, kBFloat16 };

// B images of N tokens, or packed images of different lengths, N being the longest.
struct Images {
  int64_t images;    // B
  int64_t tokens;    // N
  int64_t features;  // D
  const void* data;  // [B, N, D], packed [T, D]; any strides
  Dtype dtype;
  int64_t image_stride, token_stride, feature_stride;  // in elements
  const int64_t* cu_seqlens;                           // packed: [B + 1]; else null
  int64_t total_tokens;                                // packed: T, which bounds what is read
};

// Budgets: `keep` tokens an image, or packed ones.
struct Budget {
  int64_t keep;            // K
  const int64_t* cu_keep;  // packed: [B + 1]; else null
  int64_t total_keep;      // packed: length of the output, which bounds what is written
  double coverage;         // in (0, 1]: as many as reach that share of the leverage; 0: all of K
};

// How the rank is found; see svdprune::Options.
struct RankRule {
  double variance;
  int64_t rank;  // 0: by variance
};

// means [B, D]: mean over each image's tokens, summed in float64.
void launch_feature_means(const Images& x, double* means, cudaStream_t stream);

// largest [B]: max |x - mean|; NaN where the image holds NaN, infinite where it holds Inf. means:
// [B, D] or null.
void launch_largest_magnitude(const Images& x, const double* means, double* largest,
                              cudaStream_t stream);

// packed [B, N, D] in `dtype`: (x - mean) * scale with scale a power of two chosen from `largest`
// such that squares neither overflow nor underflow; zeros behind an image's end, and for an image
// that is not finite.
void launch_pack(const Images& x, const double* means, const double* largest, void* packed,
                 Dtype dtype, cudaStream_t stream);

// Stages 1 and 2 on the tokens' side, without a packed copy: gram [B, N, N] = X Xᵀ, both triangles,
// zeros behind an image's end. x is float32, float16 or bfloat16, its products neither scaled nor
// centred; N is at least 1 and meant to be up to 1024. partials [B, gram_fused_partials(x), 2]:
// shares of the trace of each image's matrix and of its squared Frobenius norm, to be added in their
// order. The trace is not finite where the image is not, or where its squares overflow.
void launch_gram_fused(const Images& x, float* gram, double* partials, cudaStream_t stream);

// On the current device.
int64_t gram_fused_partials(const Images& x);

// Stage 3. basis: column-major [rows, n], of which the last r columns count; n eigenvalues [B, n],
// ascending. On the tokens' side rows = n = N and the basis is U; on the features' side rows = N, n
// = D, and it is X V, whose columns are divided by the singular values here. scores [B, N] or
// packed [T], in T; rank [B]. An image that is not finite, or whose info [B] is not 0, gets NaN
// scores and rank -1.
template <class T>
void launch_leverage(const Images& x, bool tokens_side, int64_t n, const T* basis,
                     const T* eigenvalues, const double* largest, const int* info, RankRule rule,
                     T* scores, int32_t* rank, cudaStream_t stream);

// Stage 4. kept [B, N], packed [T]: 1 for a token that stays. Ties go to the lower index; an image
// of rank -1 keeps its first tokens.
template <class T>
void launch_select(const Images& x, const T* scores, const int32_t* rank, Budget budget,
                   uint8_t* kept, cudaStream_t stream);

// Stage 5. tokens [B, K, D], packed [total_keep, D], in x's dtype, bit for bit; indices [B, K],
// packed [total_keep]; count [B] or null. Places that are left over get zero rows and index -1.
void launch_gather(const Images& x, const uint8_t* kept, Budget budget, void* tokens,
                   int64_t* indices, int32_t* count, cudaStream_t stream);

// Stages 2 to 5 in one launch: eig_select.cu, solver "tridiag". float32 and 16-bit features, N up to
// what eig_select_shape finds room for, on devices with clusters.

// Blocks of a cluster, which works on one image, threads of a block, and the dynamic shared memory of
// a block. blocks: 0 where the kernel cannot run.
struct EigSelectShape {
  int blocks, threads;
  size_t shared_bytes;
};

// With that many blocks, a power of two, and at most that many threads, which on a device are not fewer than the kernel
// is compiled for; `blocks` becomes 0 where N is too large for it.
EigSelectShape eig_select_shape(int64_t tokens, int blocks, int threads);

// What suits the current device. Asks the driver, waits for nothing.
EigSelectShape eig_select_shape_for(int64_t images, int64_t tokens);

// Results of stages 2 to 5.
struct Outputs {
  float* scores;   // [B, N], packed [T]
  int32_t* rank;   // [B]
  int32_t* steps;  // [B] that were taken; or null
  bool selects;    // else scores, ranks and steps alone
  Budget budget;
  void* tokens;  // as in launch_gather
  int64_t* indices;
  int32_t* count;
};

// Which images are left to launch_purify: their rank is kHandedOver (purify.h), and they have no other results.
enum class HandOver { kNever, kFlat, kAlways };

struct EigSelect {
  // [B, parts, 2], as launch_gram_fused leaves them; null: the trace is taken of gram.
  const double* partials;
  int64_t parts;
  float* gram;        // [B, N, N] full, in row strides of N
  float* reflectors;  // scratch [B, N, N]; where no image is handed over, it may be the Gram matrix
  // [B] where x was packed for the Gram matrix, as launch_pack took it; or null.
  const double* largest;
  float* vectors;  // scratch [B, N / 2 + 1, N]; where there are eigenvalues, a result [B, N, N]
  // [B, N]: the leading ones, `rank` of them, as are rows of vectors; there are no scores then. Or null.
  double* eigenvalues;
  RankRule rule;
  HandOver hand_over;
  Outputs out;  // steps: of the tridiagonalisation, 0 where there was none
};

void launch_eig_select(const Images& x, const EigSelect& arguments, EigSelectShape shape,
                       cudaStream_t stream);

// Stage 3 on the features' side, after a launch_eig_select for eigenvectors: scores [B, N] or packed [T] are the squared
// row norms of X V L^-1/2, for the `rank` [B] leading rows of vectors [B, D, D], V^T, and eigenvalues [B, D], L. packed:
// [B, N, D] in `dtype`, as the Gram matrix was formed of it; x: where scores go. Rank -1: NaN.
void launch_leverage_of_vectors(const Images& x, const void* packed, Dtype dtype,
                                const float* vectors, const double* eigenvalues,
                                const int32_t* rank, float* scores, cudaStream_t stream);

// rater_scores, in three launches, and rater_scores_by_head, in two. Pointers other than q, k and the mask are contiguous; the results are
// float64 for float64 q and k, float32 for all others.
struct RaterCall {
  RaterArgs args;
  Dtype dtype;                // of q and k
  const int64_t* raters;      // [B, R]; what is not in [0, L) is padding
  const int64_t* visual;      // [B, N]; what is not in [0, S) is padding
  const float* head_weights;  // [B, H]; null: 1 / H each
  const void* divisor;        // by head alone: [B, R, N] or [R, N]; null: none
  int64_t divisor_stride;     // rows from one prompt's to the next: R or 0
  void* rows;       // scratch [B, H, R, 2]: largest product of a row, 1 / sum of exponentials
  void* masses;     // scratch [B, H, rater_tiles]: attention of a tile's raters to its columns
  void* scores;     // [B, N]; by head [B, H, N], with null for those after it and the masses
  void* attention;  // [B, R, N]
  void* head_mass;  // [B, H]
};

// Tiles of one prompt's [R, N].
int64_t rater_tiles(const RaterArgs& args);

void launch_rater_scores(const RaterCall& call, cudaStream_t stream);

void launch_rater_scores_by_head(const RaterCall& call, cudaStream_t stream);

}  // namespace svdprune::cuda
