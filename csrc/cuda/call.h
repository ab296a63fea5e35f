// One call of an operator on CUDA, for the host files: device, stream, library handles and memory, and
// what its results are.
#pragma once

#include "launch.h"
#include "linear_algebra.h"
#include "runtime.h"

#include "../image.h"
#include "../stable.h"

#include <torch/csrc/stable/accelerator.h>

#include <vector>

namespace svdprune::cuda {

inline Dtype dtype_of(ScalarType type) {
  switch (type) {
    case ScalarType::Double:
      return Dtype::kFloat64;
    case ScalarType::Float:
      return Dtype::kFloat32;
    case ScalarType::Half:
      return Dtype::kFloat16;
    default:
      return Dtype::kBFloat16;
  }
}

inline cudaDataType data_type_of(ScalarType type) {
  switch (type) {
    case ScalarType::Double:
      return CUDA_R_64F;
    case ScalarType::Float:
      return CUDA_R_32F;
    case ScalarType::Half:
      return CUDA_R_16F;
    default:
      return CUDA_R_16BF;
  }
}

template <class T>
T* pointer(const Tensor& t) {
  return static_cast<T*>(t.mutable_data_ptr());
}

inline size_t bytes_of(const Tensor& t) {
  return static_cast<size_t>(t.numel()) * t.element_size();
}

#pragma GCC visibility push(hidden)  // as that of torch::stable::Tensor, which they hold

// One call: the device made current, its stream and library handles, and scratch memory that lives
// until the call returns. The allocator keeps the order of the stream, so it may go while kernels
// still run.
class Call {
 public:
  Call(const char* op, const Tensor& x) : op_(op), x_(x), guard_(x.get_device_index()) {
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(x.get_device_index(), &stream));
    stream_ = static_cast<cudaStream_t>(stream);
  }

  const char* op() const {
    return op_;
  }
  cudaStream_t stream() const {
    return stream_;
  }
  cublasHandle_t blas() const {
    void* handle = nullptr;
    TORCH_ERROR_CODE_CHECK(torch_get_current_cuda_blas_handle(&handle));
    return static_cast<cublasHandle_t>(handle);
  }
  SolverHandle& solver() const {
    return solver_on(x_.get_device_index(), stream_);
  }
  Tensor empty(std::vector<int64_t> sizes, ScalarType dtype) const {
    return new_empty(x_, sizes, dtype);
  }

 private:
  const char* op_;
  const Tensor& x_;
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_;
};

// What an operator returns, [B] images; null where it does not.
struct Results {
  Tensor scores;  // [B, N], packed [T]
  Tensor ranks;   // [B]
  bool selects = false;
  Select select = Select::kTopk;
  Budget budget{};
  void* tokens = nullptr;
  int64_t* indices = nullptr;
  int32_t* counts = nullptr;
  int32_t* steps = nullptr;    // of "tridiag" and "purify"
  int32_t* solvers = nullptr;  // written for images of "purify" alone
};

// What stage 1 reads in place of x, brought into range and, if asked, centred.
struct Packed {
  Tensor means, largest, values;
};

// The type of that copy: 16-bit features go to the tensor cores `as_given`, all others become `work`.
inline ScalarType packed_type(const Images& x, bool as_given, ScalarType work) {
  return as_given && x.dtype == Dtype::kFloat16    ? ScalarType::Half
         : as_given && x.dtype == Dtype::kBFloat16 ? ScalarType::BFloat16
                                                   : work;
}

Packed pack(const Call& call, const Images& x, bool center, ScalarType dtype);

// Stages 4 and 5 of the scores and ranks, a kernel each.
void keep(const Call& call, const Images& x, const Results& results);

// The five stages on cuBLAS, cuSOLVER and kernels of their own, for any x.
void prune_eigh(const Call& call, const Images& x, const Options& options, const Results& results);

// The five stages in two launches or three, for an x that is not empty and not float64. `shape`: from
// eig_select_shape_for.
void prune_tridiag(const Call& call, const Images& x, const Options& options,
                   const Results& results, EigSelectShape shape);

// The same for an x of which the features' side is to be worked on. `shape`: for as many "tokens" as x has features.
void prune_features_side(const Call& call, const Images& x, const Options& options,
                         const Results& results, EigSelectShape shape);

// Stages 1, 4 and 5 of select "pivoted", for an x that is not empty.
void prune_pivoted(const Call& call, const Images& x, const Options& options,
                   const Results& results);

#pragma GCC visibility pop

}  // namespace svdprune::cuda
