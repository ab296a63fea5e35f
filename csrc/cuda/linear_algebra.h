// Stages 1 and 2 on cuBLAS and cuSOLVER. Framework-free, as launch.h; matrices are column-major.
#pragma once

#include <cublas_v2.h>
#include <cusolverDn.h>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace svdprune::cuda {

// A cuSOLVER handle with its parameters, of one thread and device at a time. Made once and kept:
// making one takes milliseconds and device memory.
struct SolverHandle {
  cusolverDnHandle_t handle;
  cusolverDnParams_t params;
  std::vector<char>* host_workspace;  // the last one
};

// This thread's solver on the current device, set to the stream.
SolverHandle& solver_on(int device, cudaStream_t stream);

// Stage 1, gram. packed [B, N, D] row-major, in input_type; gram [B, n, n] in the accumulation
// type: float64 for float64 input, float32 for all others, which 16-bit products are exact in. X
// X^T (n = N) on the tokens' side, X^T X (n = D) on the features'. float32 input uses TF32 where
// it `may_round`, and never otherwise, whatever the handle's mode.
void launch_gram(cublasHandle_t handle, bool tokens_side, int64_t images, int64_t tokens,
                 int64_t features, const void* packed, cudaDataType input_type, void* gram,
                 bool may_round = false);

// X V for the features' side: packed [B, N, D] row-major, vectors [B, D, D], product [B, N, D]
// column-major.
void launch_rotate(cublasHandle_t handle, int64_t images, int64_t tokens, int64_t features,
                   const void* packed, const void* vectors, cudaDataType type, void* product);

// Stage 2, spectrum: eigenvalues [B, n] ascending; the eigenvectors replace matrices [B, n, n];
// info [B], 0 for success. Workspace is of the sizes that spectrum_workspace gives: the device's the caller's, the
// host's the handle's.
struct Workspace {
  size_t device_bytes, host_bytes;
};

// Throws where that cannot be captured in a CUDA graph, and the stream is: to be called before any work.
void check_spectrum_capturable(cudaStream_t stream, int64_t n);

Workspace spectrum_workspace(SolverHandle& solver, int64_t images, int64_t n, cudaDataType type,
                             void* matrices, void* eigenvalues);
void launch_spectrum(SolverHandle& solver, int64_t images, int64_t n, cudaDataType type,
                     void* matrices, void* eigenvalues, void* device_workspace, Workspace sizes,
                     int* info);

}  // namespace svdprune::cuda
