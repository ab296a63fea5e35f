// Aliases for torch's stable C++ ABI, and the ATen calls the kernels make.
//
// Everything here keeps working from torch 2.10 on: no ATen or c10 header is included.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cstdint>
#include <string>
#include <vector>

namespace svdprune {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// A string that an operator is called with. Of torch's own, std::string, up to 2.13 a copy is left behind by every call
// (pytorch issue 191340); where those lie, the memory of a large matrix cannot be used again.
struct Text {
  std::string value;

  operator const std::string&() const {
    return value;
  }
};

// The working precision, and the scores': float64 for float64 input, float32 for all others.
inline ScalarType score_dtype(const Tensor& x) {
  return x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// An uninitialised tensor on `like`'s device.
inline Tensor new_empty(const Tensor& like, const std::vector<int64_t>& sizes, ScalarType dtype) {
  return torch::stable::new_empty(
      like, torch::headeronly::IntHeaderOnlyArrayRef(sizes.data(), sizes.size()), dtype);
}

// aten::to.dtype(Tensor self, ScalarType dtype, ...), for index tensors only: under torch.autocast
// a kernel's own ATen calls are dispatched again, so nothing that touches the features goes through
// ATen.
inline Tensor to_int64(const Tensor& t) {
  return torch::stable::contiguous(torch::stable::to(t, ScalarType::Long));
}

}  // namespace svdprune

template <>
struct torch::stable::detail::ToImpl<svdprune::Text> {
  static svdprune::Text call(StableIValue value, uint64_t, bool) {
    const auto handle = to<StringHandle>(value);
    const char* first = nullptr;
    size_t length = 0;
    TORCH_ERROR_CODE_CHECK(torch_string_c_str(handle, &first));
    TORCH_ERROR_CODE_CHECK(torch_string_length(handle, &length));
    svdprune::Text text{std::string(first, length)};
    TORCH_ERROR_CODE_CHECK(torch_delete_string(handle));
    return text;
  }
};
