// The calls of cuBLAS that gram.cpp makes: products in plain loops, summed in float64.

#include "standins.h"

#include <cublas_v2.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>

using standins::state;

namespace {

double number(const void* numbers, int64_t at, cudaDataType type) {
  switch (type) {
    case CUDA_R_64F:
      return static_cast<const double*>(numbers)[at];
    case CUDA_R_32F:
      return static_cast<const float*>(numbers)[at];
    case CUDA_R_16F:
      return __half2float(static_cast<const __half*>(numbers)[at]);
    default:
      return __bfloat162float(static_cast<const __nv_bfloat16*>(numbers)[at]);
  }
}

bool supported(cublasComputeType_t compute, cudaDataType a, cudaDataType b, cudaDataType c) {
  if (a != b) {
    return false;
  }
  switch (compute) {
    case CUBLAS_COMPUTE_64F:
      return a == CUDA_R_64F && c == CUDA_R_64F;
    case CUBLAS_COMPUTE_32F:
      return (a == CUDA_R_32F || a == CUDA_R_16F || a == CUDA_R_16BF) && c == CUDA_R_32F;
    case CUBLAS_COMPUTE_32F_FAST_TF32:
      return a == CUDA_R_32F && c == CUDA_R_32F;
    default:
      return false;
  }
}

}  // namespace

extern "C" {

cublasStatus_t cublasGetMathMode(cublasHandle_t, cublasMath_t* mode) {
  *mode = static_cast<cublasMath_t>(state.math);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetMathMode(cublasHandle_t, cublasMath_t mode) {
  state.math = mode;
  return CUBLAS_STATUS_SUCCESS;
}

const char* cublasGetStatusString(cublasStatus_t status) {
  return status == CUBLAS_STATUS_EXECUTION_FAILED ? "the function failed to launch on the GPU"
                                                  : "an unsupported value or parameter";
}

cublasStatus_t cublasGemmStridedBatchedEx_64(
    cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b, int64_t m, int64_t n,
    int64_t k, const void* alpha, const void* a, cudaDataType a_type, int64_t lda,
    long long stride_a, const void* b, cudaDataType b_type, int64_t ldb, long long stride_b,
    const void* beta, void* c, cudaDataType c_type, int64_t ldc, long long stride_c, int64_t images,
    cublasComputeType_t compute, cublasGemmAlgo_t) {
  ++state.products;
  if (state.refused_multiply != 0) {
    return static_cast<cublasStatus_t>(state.refused_multiply);
  }
  if (handle != reinterpret_cast<cublasHandle_t>(&standins::blas_handle)) {
    return CUBLAS_STATUS_NOT_INITIALIZED;
  }
  const bool a_as_is = op_a == CUBLAS_OP_N, b_as_is = op_b == CUBLAS_OP_N;
  if (m < 0 || n < 0 || k < 0 || images < 0 || !a || !b || !c || !alpha || !beta ||
      lda < std::max<int64_t>(1, a_as_is ? m : k) || ldb < std::max<int64_t>(1, b_as_is ? k : n) ||
      ldc < std::max<int64_t>(1, m)) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  if (!supported(compute, a_type, b_type, c_type)) {
    return CUBLAS_STATUS_NOT_SUPPORTED;
  }
  state.tf32_products += compute == CUBLAS_COMPUTE_32F_FAST_TF32 ||
                         (a_type == CUDA_R_32F && state.math != CUBLAS_DEFAULT_MATH);
  const cudaDataType scale_type = compute == CUBLAS_COMPUTE_64F ? CUDA_R_64F : CUDA_R_32F;
  const double scale = number(alpha, 0, scale_type), old = number(beta, 0, scale_type);
  for (int64_t image = 0; image < images; ++image) {
    for (int64_t column = 0; column < n; ++column) {
      for (int64_t row = 0; row < m; ++row) {
        double sum = 0;
        for (int64_t i = 0; i < k; ++i) {
          const int64_t at_a = a_as_is ? row + i * lda : i + row * lda;
          const int64_t at_b = b_as_is ? i + column * ldb : column + i * ldb;
          sum += number(a, image * stride_a + at_a, a_type) *
                 number(b, image * stride_b + at_b, b_type);
        }
        const int64_t at = image * stride_c + row + column * ldc;
        const double result = scale * sum + (old == 0 ? 0 : old * number(c, at, c_type));
        if (c_type == CUDA_R_64F) {
          static_cast<double*>(c)[at] = result;
        } else {
          static_cast<float*>(c)[at] = static_cast<float>(result);
        }
      }
    }
  }
  return CUBLAS_STATUS_SUCCESS;
}
}
