// Included before csrc/ops.cpp and the host files of csrc/cuda: registers the operators as
// torch.ops.SVDPRUNE_NAMESPACE, for tensors on the CPU.
#pragma once

#include <torch/csrc/stable/library.h>

// For the name to be put in before torch's macros make text of it.
#define SVDPRUNE_FRAGMENT(ns, m) _STABLE_TORCH_LIBRARY_FRAGMENT(ns, m, C10_UID)
#define SVDPRUNE_IMPL(ns, m) _STABLE_TORCH_LIBRARY_IMPL(ns, CPU, m, C10_UID)

#undef STABLE_TORCH_LIBRARY
#define STABLE_TORCH_LIBRARY(ns, m) SVDPRUNE_FRAGMENT(SVDPRUNE_NAMESPACE, m)
#undef STABLE_TORCH_LIBRARY_IMPL
#define STABLE_TORCH_LIBRARY_IMPL(ns, key, m) SVDPRUNE_IMPL(SVDPRUNE_NAMESPACE, m)
