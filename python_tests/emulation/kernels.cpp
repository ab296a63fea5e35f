// C functions around the launches, for ctypes.

#include "../../csrc/cuda/launch.h"

using svdprune::cuda::Budget;
using svdprune::cuda::Dtype;
using svdprune::cuda::Images;

extern "C" {

void emulated_feature_means(const Images* x, double* means) {
  svdprune::cuda::launch_feature_means(*x, means, nullptr);
}

void emulated_largest_magnitude(const Images* x, const double* means, double* largest) {
  svdprune::cuda::launch_largest_magnitude(*x, means, largest, nullptr);
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

void emulated_gather(const Images* x, const uint8_t* kept, const Budget* budget, void* tokens,
                     int64_t* indices, int32_t* counts) {
  svdprune::cuda::launch_gather(*x, kept, *budget, tokens, indices, counts, nullptr);
}
}
