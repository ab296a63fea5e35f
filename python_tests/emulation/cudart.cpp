// The calls of CUDA's runtime that the backend makes, whose device memory is the host's here. That there are no
// others - no cudaMalloc above all, since memory comes from torch - the linker sees to.

#include "executor.h"
#include "host/standins.h"

using standins::state;

// Work goes to the stream that is current.
static void check_stream(cudaStream_t stream) {
  if (stream != emulation::stream) {
    emulation::fail("not on the current stream");
  }
}

extern "C" {

// The device that is emulated: the order its threads run in, whether it has clusters, and whether its driver says how
// many blocks there is room for.
void emulated_device(bool reversed, bool clusters, bool silent) {
  emulation::reversed = reversed;
  emulation::clusters = clusters;
  emulation::silent = silent;
}

cudaError_t cudaMemsetAsync(void* pointer, int value, size_t bytes, cudaStream_t stream) {
  check_stream(stream);
  std::memset(pointer, value, bytes);
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind,
                            cudaStream_t stream) {
  check_stream(stream);
  ++state.copies;
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  check_stream(stream);
  ++state.waits;
  return static_cast<cudaError_t>(state.refused_wait);
}

cudaError_t cudaGetLastError() {
  return cudaSuccess;
}

const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorIllegalAddress ? "an illegal memory access" : "another error";
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  check_stream(stream);
  *status = state.capturing ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}

cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}

// Those of sm_90.
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  switch (attribute) {
    case cudaDevAttrClusterLaunch:
      *value = emulation::clusters;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = 227 * 1024;
      return cudaSuccess;
    default:
      return cudaErrorInvalidValue;
  }
}
}
