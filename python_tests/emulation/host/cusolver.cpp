// The calls of cuSOLVER that spectrum.cpp makes, on the LAPACK of torch's CPU library.

#include "standins.h"

#include <cusolverDn.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <vector>

using standins::state;

extern "C" {
void ssyevd_(const char*, const char*, const int*, float*, const int*, float*, float*, const int*,
             int*, const int*, int*);
void dsyevd_(const char*, const char*, const int*, double*, const int*, double*, double*,
             const int*, int*, const int*, int*);
}

namespace {

void syevd(const int* n, float* a, const int* lda, float* w, float* work, const int* length,
           int* iwork, const int* ilength, int* info) {
  ssyevd_("V", "L", n, a, lda, w, work, length, iwork, ilength, info);
}
void syevd(const int* n, double* a, const int* lda, double* w, double* work, const int* length,
           int* iwork, const int* ilength, int* info) {
  dsyevd_("V", "L", n, a, lda, w, work, length, iwork, ilength, info);
}

// Odd numbers, so that a size that is mistaken for another shows.
constexpr size_t kHostBytes = 1237;
size_t device_bytes(int64_t n, cudaDataType type, int64_t images) {
  return static_cast<size_t>(n * (type == CUDA_R_64F ? 8 : 4) * images + 773);
}

// What is true of both calls.
bool valid(cusolverDnHandle_t handle, cusolverDnParams_t params, cublasFillMode_t uplo, int64_t n,
           cudaDataType type, const void* a, int64_t lda, cudaDataType w_type, const void* w,
           cudaDataType compute, int64_t images) {
  return handle && params && uplo == CUBLAS_FILL_MODE_LOWER && n >= 0 && images >= 0 && a && w &&
         lda >= std::max<int64_t>(1, n) && (type == CUDA_R_32F || type == CUDA_R_64F) &&
         w_type == type && compute == type &&
         (images <= 1 || n * lda * images <= SVDPRUNE_MOST_EIGENPROBLEM);
}

template <class T>
void decompose(int64_t n, T* matrices, T* values, int* info, int64_t images) {
  constexpr T nan = std::numeric_limits<T>::quiet_NaN();
  const int order = static_cast<int>(n);
  const int length = 1 + 6 * order + 2 * order * order, ilength = 3 + 5 * order;
  std::vector<T> work(length);
  std::vector<int> iwork(ilength);
  for (int64_t b = 0; b < images; ++b) {
    T* const a = matrices + b * n * n;
    for (int64_t column = 1; column < n; ++column) {  // which uplo says is not read
      std::fill_n(a + column * n, column, nan);
    }
    syevd(&order, a, &order, values + b * n, work.data(), &length, iwork.data(), &ilength,
          info + b);
    if (b == state.failing_image) {
      info[b] = order;
    }
    if (info[b] != 0) {
      std::fill_n(a, n * n, nan);
      std::fill_n(values + b * n, n, nan);
    }
  }
}

}  // namespace

// The handle says which stream it was told.
struct cusolverDnContext {
  cudaStream_t stream;
};
struct cusolverDnParams {};

extern "C" {

cusolverStatus_t cusolverDnCreate(cusolverDnHandle_t* handle) {
  ++state.solvers;
  *handle = new cusolverDnContext{};
  return CUSOLVER_STATUS_SUCCESS;
}

cusolverStatus_t cusolverDnCreateParams(cusolverDnParams_t* params) {
  *params = new cusolverDnParams;
  return CUSOLVER_STATUS_SUCCESS;
}

cusolverStatus_t cusolverDnSetStream(cusolverDnHandle_t handle, cudaStream_t stream) {
  handle->stream = stream;
  return CUSOLVER_STATUS_SUCCESS;
}

cusolverStatus_t cusolverDnXsyevBatched_bufferSize(
    cusolverDnHandle_t handle, cusolverDnParams_t params, cusolverEigMode_t, cublasFillMode_t uplo,
    int64_t n, cudaDataType type, const void* a, int64_t lda, cudaDataType w_type, const void* w,
    cudaDataType compute, size_t* on_device, size_t* on_host, int64_t images) {
  if (!valid(handle, params, uplo, n, type, a, lda, w_type, w, compute, images)) {
    return CUSOLVER_STATUS_INVALID_VALUE;
  }
  *on_device = device_bytes(n, type, images);
  *on_host = kHostBytes;
  return CUSOLVER_STATUS_SUCCESS;
}

cusolverStatus_t cusolverDnXsyevBatched(cusolverDnHandle_t handle, cusolverDnParams_t params,
                                        cusolverEigMode_t mode, cublasFillMode_t uplo, int64_t n,
                                        cudaDataType type, void* a, int64_t lda,
                                        cudaDataType w_type, void* w, cudaDataType compute,
                                        void* device_buffer, size_t on_device, void* host_buffer,
                                        size_t on_host, int* info, int64_t images) {
  ++state.solves;
  if (state.refused_solve != 0) {
    return static_cast<cusolverStatus_t>(state.refused_solve);
  }
  if (!valid(handle, params, uplo, n, type, a, lda, w_type, w, compute, images) ||
      mode != CUSOLVER_EIG_MODE_VECTOR || lda != n || !device_buffer || !host_buffer || !info ||
      on_device < device_bytes(n, type, images) || on_host < kHostBytes ||
      handle->stream != reinterpret_cast<cudaStream_t>(&standins::stream)) {
    return CUSOLVER_STATUS_INVALID_VALUE;
  }
  std::memset(device_buffer, 0xff, on_device);
  std::memset(host_buffer, 0xff, on_host);
  if (type == CUDA_R_64F) {
    decompose(n, static_cast<double*>(a), static_cast<double*>(w), info, images);
  } else {
    decompose(n, static_cast<float*>(a), static_cast<float*>(w), info, images);
  }
  return CUSOLVER_STATUS_SUCCESS;
}

// Of one matrix; bench/eigensolvers.py compares them with the batched ones.
cusolverStatus_t cusolverDnXsyevd_bufferSize(cusolverDnHandle_t handle, cusolverDnParams_t params,
                                             cusolverEigMode_t mode, cublasFillMode_t uplo,
                                             int64_t n, cudaDataType type, const void* a,
                                             int64_t lda, cudaDataType w_type, const void* w,
                                             cudaDataType compute, size_t* on_device,
                                             size_t* on_host) {
  return cusolverDnXsyevBatched_bufferSize(handle, params, mode, uplo, n, type, a, lda, w_type, w,
                                           compute, on_device, on_host, 1);
}

cusolverStatus_t cusolverDnXsyevd(cusolverDnHandle_t handle, cusolverDnParams_t params,
                                  cusolverEigMode_t mode, cublasFillMode_t uplo, int64_t n,
                                  cudaDataType type, void* a, int64_t lda, cudaDataType w_type,
                                  void* w, cudaDataType compute, void* device_buffer,
                                  size_t on_device, void* host_buffer, size_t on_host, int* info) {
  return cusolverDnXsyevBatched(handle, params, mode, uplo, n, type, a, lda, w_type, w, compute,
                                device_buffer, on_device, host_buffer, on_host, info, 1);
}
}
