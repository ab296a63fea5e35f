// Stage 2 of 5, spectrum, on cuSOLVER: one batched call for every batch size, where
// torch.linalg.eigh loops over the images (pytorch issues 174674, 175585). A batch beyond cuSOLVER's limit of
// one call takes several.

#include "linear_algebra.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

// What cusolverDnXsyevBatched takes in one call, in numbers n * n * images. python_tests/emulation has a
// smaller one, lest it take a test gigabytes to get there.
#ifndef SVDPRUNE_MOST_EIGENPROBLEM
#define SVDPRUNE_MOST_EIGENPROBLEM 2147483647
#endif

namespace svdprune::cuda {

namespace {

int64_t images_per_call(int64_t images, int64_t n) {
  return std::clamp<int64_t>(SVDPRUNE_MOST_EIGENPROBLEM / (n * n), 1, images);
}

void check(cusolverStatus_t status, const char* call) {
  if (status != CUSOLVER_STATUS_SUCCESS) {
    throw std::runtime_error(
        std::string("svdprune: ") + call + " failed with cuSOLVER status " +
        std::to_string(static_cast<int>(status)) +
        "; if this was under CUDA graph capture, this version of cuSOLVER cannot be captured");
  }
}

// Handles that no thread holds, by device. Never destroyed: at exit the CUDA context may be gone
// first.
struct Pool {
  std::mutex mutex;
  std::map<int, std::vector<SolverHandle>> idle;
};

Pool& pool() {
  static Pool* const instance = new Pool;
  return *instance;
}

SolverHandle make_solver() {
  SolverHandle solver{};
  check(cusolverDnCreate(&solver.handle), "cusolverDnCreate");
  check(cusolverDnCreateParams(&solver.params), "cusolverDnCreateParams");
  return solver;
}

// Of that many bytes. A graph that was captured may use it when it is replayed, so one that is too small is kept beside
// the next.
void* host_workspace(SolverHandle& solver, size_t bytes) {
  if (bytes > 0 && (!solver.host_workspace || solver.host_workspace->size() < bytes)) {
    solver.host_workspace = new std::vector<char>(bytes);
  }
  return solver.host_workspace ? solver.host_workspace->data() : nullptr;
}

// A thread's handles, by device; they go back to the pool with the thread.
class Held {
 public:
  ~Held() {
    const std::lock_guard lock(pool().mutex);
    for (const auto& [device, solver] : solvers_) {
      pool().idle[device].push_back(solver);
    }
  }

  SolverHandle& on(int device) {
    if (const auto found = solvers_.find(device); found != solvers_.end()) {
      return found->second;
    }
    {
      const std::lock_guard lock(pool().mutex);
      std::vector<SolverHandle>& idle = pool().idle[device];
      if (!idle.empty()) {
        const SolverHandle solver = idle.back();
        idle.pop_back();
        return solvers_.emplace(device, solver).first->second;
      }
    }
    return solvers_.emplace(device, make_solver()).first->second;
  }

 private:
  std::map<int, SolverHandle> solvers_;
};

}  // namespace

SolverHandle& solver_on(int device, cudaStream_t stream) {
  thread_local Held held;
  SolverHandle& solver = held.on(device);
  check(cusolverDnSetStream(solver.handle, stream), "cusolverDnSetStream");
  return solver;
}

void check_spectrum_capturable(cudaStream_t stream, int64_t n) {
  // Above it cusolverDnXsyevBatched of cuSOLVER 12.0 waits for the device.
  constexpr int64_t kMostCaptured = 512;
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  if (n > kMostCaptured && cudaStreamIsCapturing(stream, &status) == cudaSuccess &&
      status != cudaStreamCaptureStatusNone) {
    throw std::runtime_error(
        "svdprune: solver \"eigh\" must have min(N, D) <= " + std::to_string(kMostCaptured) +
        " in a CUDA graph, since cuSOLVER waits for the device above, got " + std::to_string(n) +
        "; select \"pivoted\" can be captured, and so can solver \"tridiag\", where the GPU has "
        "clusters of blocks and the shared memory for it");
  }
}

Workspace spectrum_workspace(SolverHandle& solver, int64_t images, int64_t n, cudaDataType type,
                             void* matrices, void* eigenvalues) {
  const int64_t most = images_per_call(images, n);
  Workspace largest{};
  for (const int64_t count : {most, images % most}) {
    Workspace sizes{};
    if (count > 0) {
      check(cusolverDnXsyevBatched_bufferSize(solver.handle, solver.params,
                                              CUSOLVER_EIG_MODE_VECTOR, CUBLAS_FILL_MODE_LOWER, n,
                                              type, matrices, n, type, eigenvalues, type,
                                              &sizes.device_bytes, &sizes.host_bytes, count),
            "cusolverDnXsyevBatched_bufferSize");
    }
    largest.device_bytes = std::max(largest.device_bytes, sizes.device_bytes);
    largest.host_bytes = std::max(largest.host_bytes, sizes.host_bytes);
  }
  return largest;
}

void launch_spectrum(SolverHandle& solver, int64_t images, int64_t n, cudaDataType type,
                     void* matrices, void* eigenvalues, void* device_workspace, Workspace sizes,
                     int* info) {
  const int64_t most = images_per_call(images, n), width = type == CUDA_R_64F ? 8 : 4;
  for (int64_t first = 0; first < images; first += most) {
    check(cusolverDnXsyevBatched(
              solver.handle, solver.params, CUSOLVER_EIG_MODE_VECTOR, CUBLAS_FILL_MODE_LOWER, n,
              type, static_cast<char*>(matrices) + first * n * n * width, n, type,
              static_cast<char*>(eigenvalues) + first * n * width, type, device_workspace,
              sizes.device_bytes, host_workspace(solver, sizes.host_bytes), sizes.host_bytes,
              info + first, std::min(most, images - first)),
          "cusolverDnXsyevBatched");
  }
}

}  // namespace svdprune::cuda
