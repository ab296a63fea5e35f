#include "linear_algebra.h"

#include <stdexcept>
#include <string>

namespace svdprune::cuda {

namespace {

void check(cublasStatus_t status, const char* call) {
  if (status != CUBLAS_STATUS_SUCCESS) {
    throw std::runtime_error(std::string("svdprune: ") + call +
                             " failed: " + cublasGetStatusString(status));
  }
}

// torch lends one handle to all: its mode, which may allow TF32, is put back.
class TrueFloat32 {
 public:
  explicit TrueFloat32(cublasHandle_t handle) : handle_(handle) {
    check(cublasGetMathMode(handle_, &mode_), "cublasGetMathMode");
    check(cublasSetMathMode(handle_, CUBLAS_DEFAULT_MATH), "cublasSetMathMode");
  }
  ~TrueFloat32() {
    cublasSetMathMode(handle_, mode_);
  }
  TrueFloat32(const TrueFloat32&) = delete;
  TrueFloat32& operator=(const TrueFloat32&) = delete;

 private:
  cublasHandle_t handle_;
  cublasMath_t mode_;
};

// C [B, m, n] = op(A) op(B), each image's matrices `stride` apart.
void multiply(cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b, int64_t m,
              int64_t n, int64_t k, const void* a, int64_t lda, int64_t stride_a, const void* b,
              int64_t ldb, int64_t stride_b, cudaDataType input_type, void* c, int64_t ldc,
              int64_t stride_c, int64_t images, bool tf32 = false) {
  const bool wide = input_type == CUDA_R_64F;
  const float one = 1, zero = 0;
  const double wide_one = 1, wide_zero = 0;
  const cublasComputeType_t compute = wide   ? CUBLAS_COMPUTE_64F
                                      : tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32
                                             : CUBLAS_COMPUTE_32F;
  const TrueFloat32 guard(handle);
  check(cublasGemmStridedBatchedEx_64(
            handle, op_a, op_b, m, n, k, wide ? static_cast<const void*>(&wide_one) : &one, a,
            input_type, lda, stride_a, b, input_type, ldb, stride_b,
            wide ? static_cast<const void*>(&wide_zero) : &zero, c, wide ? CUDA_R_64F : CUDA_R_32F,
            ldc, stride_c, images, compute, CUBLAS_GEMM_DEFAULT),
        "cublasGemmStridedBatchedEx");
}

}  // namespace

void launch_gram(cublasHandle_t handle, bool tokens_side, int64_t images, int64_t tokens,
                 int64_t features, const void* packed, cudaDataType input_type, void* gram,
                 bool may_round) {
  // Row-major [N, D] is column-major [D, N].
  const int64_t n = tokens_side ? tokens : features;
  const int64_t depth = tokens_side ? features : tokens;
  const auto first = tokens_side ? CUBLAS_OP_T : CUBLAS_OP_N;
  const auto second = tokens_side ? CUBLAS_OP_N : CUBLAS_OP_T;
  multiply(handle, first, second, n, n, depth, packed, features, tokens * features, packed,
           features, tokens * features, input_type, gram, n, n * n, images,
           input_type == CUDA_R_32F && may_round);
}

void launch_rotate(cublasHandle_t handle, int64_t images, int64_t tokens, int64_t features,
                   const void* packed, const void* vectors, cudaDataType type, void* product) {
  multiply(handle, CUBLAS_OP_T, CUBLAS_OP_N, tokens, features, features, packed, features,
           tokens * features, vectors, features, features * features, type, product, tokens,
           tokens * features, images);
}

}  // namespace svdprune::cuda
