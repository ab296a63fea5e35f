// The CUDA backend's way from a dispatched call to the five stages and back: check, then for the
// whole batch gram -> spectrum -> leverage -> select -> gather, on torch's current stream and in
// memory of torch's allocator. Nothing here waits for the device, unless SVDPRUNE_DEBUG_SYNC is
// set.

#include "launch.h"
#include "linear_algebra.h"

#include "../prune_args.h"

#include <torch/csrc/stable/accelerator.h>

#include <cstdlib>
#include <memory>

namespace svdprune::cuda {

namespace {

constexpr int64_t kMaxImages = 65535;  // of a launch's second dimension

Dtype dtype_of(ScalarType type) {
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

cudaDataType data_type_of(ScalarType type) {
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

// Raises, after waiting, what the kernels could only mark. For finding an error, not for service.
void debug_check(const Call& call, const Tensor& ranks, int64_t images, bool batched) {
  static const bool enabled = std::getenv("SVDPRUNE_DEBUG_SYNC") != nullptr;
  if (!enabled) {
    return;
  }
  std::vector<int32_t> values(images);
  cudaMemcpyAsync(values.data(), pointer<int32_t>(ranks), images * sizeof(int32_t),
                  cudaMemcpyDeviceToHost, call.stream());
  cudaStreamSynchronize(call.stream());
  for (int64_t b = 0; b < images; ++b) {
    if (values[b] < 0) {
      const std::string name = batched ? "image " + std::to_string(b) + " of x" : "x";
      refuse(call.op(), "x must be finite and its eigendecomposition converge, got NaN, Inf or no ",
             "convergence in ", name);
    }
  }
}

// Stages 1 to 3: scores [B, N], packed [T]; ranks [B].
void score(const Call& call, const Images& x, const Options& options, const Tensor& scores,
           const Tensor& ranks) {
  const ScalarType work = scores.scalar_type();
  const bool tokens_side = x.tokens <= x.features;
  const int64_t n = tokens_side ? x.tokens : x.features;
  // 16-bit features go to the tensor cores as they are, unless they change or meet float32 vectors.
  const bool as_given = tokens_side && !options.center;
  const ScalarType packed_type = as_given && x.dtype == Dtype::kFloat16    ? ScalarType::Half
                                 : as_given && x.dtype == Dtype::kBFloat16 ? ScalarType::BFloat16
                                                                           : work;

  Tensor means;
  if (options.center) {
    means = call.empty({x.images, x.features}, ScalarType::Double);
    launch_feature_means(x, pointer<double>(means), call.stream());
  }
  const double* mean = options.center ? pointer<double>(means) : nullptr;
  const Tensor largest = call.empty({x.images}, ScalarType::Double);
  launch_largest_magnitude(x, mean, pointer<double>(largest), call.stream());
  const Tensor packed = call.empty({x.images, x.tokens, x.features}, packed_type);
  launch_pack(x, mean, pointer<double>(largest), packed.mutable_data_ptr(), dtype_of(packed_type),
              call.stream());

  const Tensor matrices = call.empty({x.images, n, n}, work);
  launch_gram(call.blas(), tokens_side, x.images, x.tokens, x.features, packed.const_data_ptr(),
              data_type_of(packed_type), matrices.mutable_data_ptr());

  const Tensor eigenvalues = call.empty({x.images, n}, work);
  const Tensor info = call.empty({x.images}, ScalarType::Int);
  SolverHandle& solver = call.solver();
  const Workspace sizes =
      spectrum_workspace(solver, x.images, n, data_type_of(work), matrices.mutable_data_ptr(),
                         eigenvalues.mutable_data_ptr());
  const Tensor workspace = call.empty({static_cast<int64_t>(sizes.device_bytes)}, ScalarType::Byte);
  // Must outlive a replayed graph, so it is kept and only grows.
  thread_local std::vector<std::unique_ptr<char[]>> host_workspaces;
  thread_local size_t host_bytes = 0;
  if (sizes.host_bytes > host_bytes) {
    host_workspaces.push_back(std::make_unique<char[]>(sizes.host_bytes));
    host_bytes = sizes.host_bytes;
  }
  launch_spectrum(solver, x.images, n, data_type_of(work), matrices.mutable_data_ptr(),
                  eigenvalues.mutable_data_ptr(), workspace.mutable_data_ptr(),
                  host_workspaces.empty() ? nullptr : host_workspaces.back().get(), sizes,
                  pointer<int>(info));

  Tensor basis = matrices;
  if (!tokens_side) {
    basis = call.empty({x.images, x.features, x.tokens}, work);
    launch_rotate(call.blas(), x.images, x.tokens, x.features, packed.const_data_ptr(),
                  matrices.const_data_ptr(), data_type_of(work), basis.mutable_data_ptr());
  }
  const RankRule rule{options.variance, options.rank.value_or(0)};
  const auto launch = [&](auto zero) {
    using T = decltype(zero);
    launch_leverage<T>(x, tokens_side, n, pointer<T>(basis), pointer<T>(eigenvalues),
                       pointer<double>(largest), pointer<int>(info), rule, pointer<T>(scores),
                       pointer<int32_t>(ranks), call.stream());
  };
  work == ScalarType::Double ? launch(0.0) : launch(0.0f);
}

// As score, for images without a number in them too.
void score_or_zero(const Call& call, const Images& x, const Options& options, const Tensor& scores,
                   const Tensor& ranks) {
  if (x.images > 0 && x.tokens > 0 && x.features > 0) {
    score(call, x, options, scores, ranks);
    return;
  }
  cudaMemsetAsync(scores.mutable_data_ptr(), 0, scores.numel() * scores.element_size(),
                  call.stream());
  cudaMemsetAsync(ranks.mutable_data_ptr(), 0, ranks.numel() * ranks.element_size(), call.stream());
}

// Stages 4 and 5. counts: undefined, or [B].
void keep(const Call& call, const Images& x, const Budget& budget, const Tensor& scores,
          const Tensor& ranks, const Tensor& tokens, const Tensor& indices, int32_t* counts) {
  if (counts) {
    cudaMemsetAsync(counts, 0, x.images * sizeof(int32_t), call.stream());
  }
  if (x.images == 0 || x.tokens == 0) {
    return;
  }
  const Tensor kept = call.empty({scores.numel()}, ScalarType::Byte);
  const auto launch = [&](auto zero) {
    using T = decltype(zero);
    launch_select<T>(x, pointer<T>(scores), pointer<int32_t>(ranks), budget, pointer<uint8_t>(kept),
                     call.stream());
  };
  scores.scalar_type() == ScalarType::Double ? launch(0.0) : launch(0.0f);
  launch_gather(x, pointer<uint8_t>(kept), budget, tokens.mutable_data_ptr(),
                pointer<int64_t>(indices), counts, call.stream());
}

// x [B, N, D] or [N, D], checked.
struct Batch {
  bool batched;
  Images images;

  Batch(const char* op, const Tensor& x) {
    check_features(op, x, 2, 3, "[B, N, D] or [N, D]");
    batched = x.dim() == 3;
    const int64_t last = x.dim() - 1;
    images = Images{batched ? x.size(0) : 1,
                    x.size(last - 1),
                    x.size(last),
                    x.const_data_ptr(),
                    dtype_of(x.scalar_type()),
                    batched ? x.stride(0) : 0,
                    x.stride(last - 1),
                    x.stride(last),
                    nullptr,
                    0};
    check_side(op, images.tokens, images.features);
    if (images.images > kMaxImages) {
      refuse(op, "x must hold at most ", kMaxImages, " images, got ", images.images);
    }
  }

  int64_t rank_limit() const {
    return std::min(images.tokens, images.features);
  }

  // [B, sizes...], or [sizes...] for unbatched input.
  Tensor output(const Call& call, std::vector<int64_t> sizes, ScalarType dtype) const {
    if (batched) {
      sizes.insert(sizes.begin(), images.images);
    }
    return call.empty(sizes, dtype);
  }
};

Options check_cuda_options(const char* op, double variance, std::optional<int64_t> rank,
                           bool center, const std::string& solver, int64_t rank_limit,
                           const char* limit_name) {
  const Options options = check_options(op, variance, rank, center, solver, rank_limit, limit_name);
  if (options.solver != Solver::kAuto && options.solver != Solver::kEigh) {
    refuse(op, "solver must be \"auto\" or \"eigh\" for CUDA tensors, got \"", solver, "\"");
  }
  return options;
}

std::tuple<Tensor, Tensor> leverage_scores_cuda(const Tensor& x, double variance,
                                                std::optional<int64_t> rank, bool center,
                                                const std::string& solver) {
  const char* op = "leverage_scores";
  const Batch batch(op, x);
  const Options options =
      check_cuda_options(op, variance, rank, center, solver, batch.rank_limit(), "min(N, D)");
  const Call call(op, x);
  const Tensor scores = batch.output(call, {batch.images.tokens}, score_dtype(x));
  const Tensor ranks = batch.output(call, {}, ScalarType::Int);
  score_or_zero(call, batch.images, options, scores, ranks);
  debug_check(call, ranks, batch.images.images, batch.batched);
  return {scores, ranks};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> prune_cuda(const Tensor& x, int64_t keep_tokens,
                                                      double variance, std::optional<int64_t> rank,
                                                      bool center, const std::string& solver,
                                                      const std::string& select) {
  const char* op = "prune";
  const Batch batch(op, x);
  const Images& images = batch.images;
  check_keep(op, "keep", keep_tokens, images.tokens);
  const Options options =
      check_cuda_options(op, variance, rank, center, solver, batch.rank_limit(), "min(N, D)");
  check_select(op, select);
  const Call call(op, x);
  const Tensor tokens = batch.output(call, {keep_tokens, images.features}, x.scalar_type());
  const Tensor indices = batch.output(call, {keep_tokens}, ScalarType::Long);
  const Tensor scores = batch.output(call, {images.tokens}, score_dtype(x));
  const Tensor ranks = batch.output(call, {}, ScalarType::Int);
  score_or_zero(call, images, options, scores, ranks);
  keep(call, images, Budget{keep_tokens, nullptr, 0, 0}, scores, ranks, tokens, indices, nullptr);
  debug_check(call, ranks, images.images, batch.batched);
  return {tokens, indices, scores, ranks};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> prune_adaptive_cuda(
    const Tensor& x, int64_t max_keep, double coverage, double variance,
    std::optional<int64_t> rank, bool center, const std::string& solver) {
  const char* op = "prune_adaptive";
  const Batch batch(op, x);
  const Images& images = batch.images;
  check_keep(op, "max_keep", max_keep, images.tokens);
  check_coverage(op, coverage);
  const Options options =
      check_cuda_options(op, variance, rank, center, solver, batch.rank_limit(), "min(N, D)");
  const Call call(op, x);
  const Tensor tokens = batch.output(call, {max_keep, images.features}, x.scalar_type());
  const Tensor indices = batch.output(call, {max_keep}, ScalarType::Long);
  const Tensor counts = batch.output(call, {}, ScalarType::Int);
  const Tensor scores = batch.output(call, {images.tokens}, score_dtype(x));
  const Tensor ranks = batch.output(call, {}, ScalarType::Int);
  score_or_zero(call, images, options, scores, ranks);
  keep(call, images, Budget{max_keep, nullptr, 0, coverage}, scores, ranks, tokens, indices,
       pointer<int32_t>(counts));
  debug_check(call, ranks, images.images, batch.batched);
  return {tokens, indices, counts, scores, ranks};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> prune_varlen_cuda(
    const Tensor& x, const Tensor& cu_seqlens, const Tensor& cu_keep, int64_t total_keep,
    int64_t max_seqlen, double variance, std::optional<int64_t> rank, bool center,
    const std::string& solver, const std::string& select) {
  const char* op = "prune_varlen";
  check_packed(op, x, cu_seqlens, cu_keep, total_keep, max_seqlen);
  const int64_t images_count = cu_seqlens.size(0) - 1;
  if (images_count > kMaxImages) {
    refuse(op, "cu_seqlens must name at most ", kMaxImages, " images, got ", images_count);
  }
  const Options options = check_cuda_options(op, variance, rank, center, solver, x.size(1), "D");
  check_select(op, select);
  const Call call(op, x);
  const Tensor seqlens = to_int64(cu_seqlens);
  const Tensor keeps = to_int64(cu_keep);
  const Images images{images_count,
                      max_seqlen,
                      x.size(1),
                      x.const_data_ptr(),
                      dtype_of(x.scalar_type()),
                      0,
                      x.stride(0),
                      x.stride(1),
                      static_cast<const int64_t*>(seqlens.const_data_ptr()),
                      x.size(0)};
  const Tensor tokens = call.empty({total_keep, x.size(1)}, x.scalar_type());
  const Tensor indices = call.empty({total_keep}, ScalarType::Long);
  const Tensor scores = call.empty({x.size(0)}, score_dtype(x));
  const Tensor ranks = call.empty({images_count}, ScalarType::Int);
  score_or_zero(call, images, options, scores, ranks);
  const Budget budget{0, static_cast<const int64_t*>(keeps.const_data_ptr()), total_keep, 0};
  keep(call, images, budget, scores, ranks, tokens, indices, nullptr);
  debug_check(call, ranks, images_count, true);
  return {tokens, indices, scores, ranks};
}

STABLE_TORCH_LIBRARY_IMPL(svdprune, CUDA, m) {
  m.impl("leverage_scores", TORCH_BOX(&leverage_scores_cuda));
  m.impl("prune", TORCH_BOX(&prune_cuda));
  m.impl("prune_adaptive", TORCH_BOX(&prune_adaptive_cuda));
  m.impl("prune_varlen", TORCH_BOX(&prune_varlen_cuda));
}

}  // namespace

}  // namespace svdprune::cuda
