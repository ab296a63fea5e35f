// torch's CUDA shims, which a torch without CUDA lacks.

#include "../executor.h"
#include "standins.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/c/shim.h>

using standins::state;

static int32_t current_device = -2;  // the one that a guard holds; a CPU tensor's is -1

extern "C" {

AOTITorchError aoti_torch_create_device_guard(int32_t device, DeviceGuardHandle* guard) {
  ++state.guards;
  current_device = device;
  *guard = reinterpret_cast<DeviceGuardHandle>(&current_device);
  return AOTI_TORCH_SUCCESS;
}

AOTITorchError aoti_torch_delete_device_guard(DeviceGuardHandle) {
  --state.guards;
  current_device = -2;
  return AOTI_TORCH_SUCCESS;
}

AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device, void** stream) {
  if (device != current_device) {
    return AOTI_TORCH_FAILURE;
  }
  *stream = &standins::stream;
  emulation::stream = static_cast<cudaStream_t>(*stream);
  return AOTI_TORCH_SUCCESS;
}

// As that of torch, for the current device.
AOTITorchError torch_get_current_cuda_blas_handle(void** handle) {
  if (current_device == -2) {
    return AOTI_TORCH_FAILURE;
  }
  *handle = &standins::blas_handle;
  return AOTI_TORCH_SUCCESS;
}

void* emulated_stream() {
  return &standins::stream;
}

standins::State* emulated_state() {
  return &state;
}
}
