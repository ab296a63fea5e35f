// Included before csrc/ops.cpp and the host files of csrc/cuda: registers the operators as
// torch.ops.svdprune_emulated, for tensors on the CPU.
#pragma once

#include <torch/csrc/stable/library.h>

#undef STABLE_TORCH_LIBRARY
#define STABLE_TORCH_LIBRARY(ns, m) _STABLE_TORCH_LIBRARY_FRAGMENT(svdprune_emulated, m, C10_UID)
#undef STABLE_TORCH_LIBRARY_IMPL
#define STABLE_TORCH_LIBRARY_IMPL(ns, key, m) \
  _STABLE_TORCH_LIBRARY_IMPL(svdprune_emulated, CPU, m, C10_UID)
