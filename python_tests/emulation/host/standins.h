// What stands in for CUDA's runtime, cuBLAS, cuSOLVER and torch's CUDA shims has in common: what the test asks
// of it, and what it notes. A call that the real library would refuse is refused; memory that the real one
// leaves undefined becomes NaN.
#pragma once

#include <cstdint>

namespace standins {

// Read and set by the tests, as a ctypes.Structure (emulated_backend.py).
struct State {
  // Set by the test.
  int64_t failing_image;     // that does not converge, of each eigendecomposition; -1: none
  int64_t refused_multiply;  // cuBLAS status of every product; 0: none
  int64_t refused_solve;     // cuSOLVER status of every eigendecomposition; 0: none
  int64_t refused_wait;      // error of every wait for the stream; 0: none
  int64_t math;              // mode of the handle that torch lends
  int64_t capturing;         // whether a graph is being captured
  // Noted.
  int64_t products;       // calls of cuBLAS
  int64_t tf32_products;  // those of them that may round to TF32
  int64_t solves;         // calls of cuSOLVER
  int64_t solvers;        // handles of cuSOLVER that were made
  int64_t waits;          // of the host for the stream
  int64_t copies;         // between host and device
  int64_t guards;         // of the device, that are alive
};

inline State state{};

// The handle of cuBLAS that torch lends, and the stream that is current.
inline int blas_handle, stream;

}  // namespace standins
