// The CUDA backend's way from a dispatched call to the five stages and back: check, then for the
// whole batch gram -> spectrum -> leverage -> select -> gather, on torch's current stream and in
// memory of torch's allocator. Nothing here waits for the device, unless SVDPRUNE_DEBUG_SYNC is
// set.

#include "call.h"
#include "environment.h"

#include "../prune_args.h"

namespace svdprune::cuda {

namespace {

constexpr int64_t kMaxImages = 65535;  // of a launch's second dimension

// Whether to wait, and raise what otherwise cannot be known or is only marked. For finding an error, not for service.
bool debugging() {
  static const bool enabled = switched_on("SVDPRUNE_DEBUG_SYNC");
  return enabled;
}

// Waits for them.
template <class T>
std::vector<T> on_host(const Call& call, const Tensor& numbers) {
  std::vector<T> values(numbers.numel());
  check_cuda(cudaMemcpyAsync(values.data(), numbers.const_data_ptr(), values.size() * sizeof(T),
                             cudaMemcpyDeviceToHost, call.stream()),
             "reading numbers for SVDPRUNE_DEBUG_SYNC");
  check_cuda(cudaStreamSynchronize(call.stream()), "waiting for SVDPRUNE_DEBUG_SYNC");
  return values;
}

// Raises what the kernels could only mark.
void debug_check(const Call& call, const Tensor& ranks, int64_t images, bool batched) {
  if (!debugging()) {
    return;
  }
  const std::vector<int32_t> values = on_host<int32_t>(call, ranks);
  for (int64_t b = 0; b < images; ++b) {
    if (values[b] < 0) {
      const std::string name = batched ? "image " + std::to_string(b) + " of x" : "x";
      refuse(call.op(), "x must be finite and its eigendecomposition converge, got NaN, Inf or no ",
             "convergence in ", name);
    }
  }
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

// Which solver ran, kTridiag for "purify" too; kAuto: none, as select "pivoted" needs none. And the order of the matrix
// that it worked on.
struct Ran {
  Solver solver;
  int64_t size;
};

// The five stages by the solver that was asked for, "auto" being "tridiag", which leaves flat spectra to "purify" where
// that can run, as "purify" leaves to it what it cannot do; or by "eigh" where neither can run. "tridiag" is on the
// tokens' side, in as few launches as that takes, or else on the features' side, if that is the smaller one.
Ran run(const Call& call, const Images& x, const Options& options, const Results& results) {
  const bool empty = x.images == 0 || x.tokens == 0 || x.features == 0;
  const int64_t smaller = std::min(x.tokens, x.features);
  if (results.select == Select::kPivoted && !empty) {
    prune_pivoted(call, x, options, results);
    return {Solver::kAuto, smaller};
  }
  if (options.solver != Solver::kEigh && x.dtype != Dtype::kFloat64 && !empty) {
    const EigSelectShape of_tokens = eig_select_shape_for(x.images, x.tokens);
    if (of_tokens.blocks > 0) {
      prune_tridiag(call, x, options, results, of_tokens);
      return {Solver::kTridiag, x.tokens};
    }
    const EigSelectShape of_features =
        smaller < x.tokens ? eig_select_shape_for(x.images, x.features) : EigSelectShape{};
    if (of_features.blocks > 0) {
      prune_features_side(call, x, options, results, of_features);
      return {Solver::kTridiag, x.features};
    }
  }
  prune_eigh(call, x, options, results);
  return {Solver::kEigh, smaller};
}

std::tuple<Tensor, Tensor> leverage_scores_cuda(const Tensor& x, double variance,
                                                std::optional<int64_t> rank, bool center,
                                                const Text& solver) {
  const char* op = "leverage_scores";
  const Batch batch(op, x);
  const Options options =
      check_options(op, variance, rank, center, solver, batch.rank_limit(), "min(N, D)");
  const Call call(op, x);
  const Tensor scores = batch.output(call, {batch.images.tokens}, score_dtype(x));
  const Tensor ranks = batch.output(call, {}, ScalarType::Int);
  run(call, batch.images, options, {.scores = scores, .ranks = ranks});
  debug_check(call, ranks, batch.images.images, batch.batched);
  return {scores, ranks};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> diagnose_cuda(const Tensor& x, double variance,
                                                                 std::optional<int64_t> rank,
                                                                 bool center, const Text& solver) {
  const char* op = "diagnose";
  const Batch batch(op, x);
  const Options options =
      check_options(op, variance, rank, center, solver, batch.rank_limit(), "min(N, D)");
  const Call call(op, x);
  const Tensor scores = batch.output(call, {batch.images.tokens}, score_dtype(x));
  const Tensor ranks = batch.output(call, {}, ScalarType::Int);
  Tensor steps = batch.output(call, {}, ScalarType::Int);
  Tensor sizes = batch.output(call, {}, ScalarType::Int);
  Tensor solvers = batch.output(call, {}, ScalarType::Int);
  Tensor refined = batch.output(call, {}, ScalarType::Int);
  torch::stable::fill_(solvers, static_cast<double>(static_cast<int64_t>(Solver::kTridiag)));
  const Ran ran = run(call, batch.images, options,
                      {.scores = scores,
                       .ranks = ranks,
                       .steps = pointer<int32_t>(steps),
                       .solvers = pointer<int32_t>(solvers)});
  torch::stable::fill_(sizes, static_cast<double>(ran.size));
  torch::stable::fill_(refined, 0.0);
  if (ran.solver != Solver::kTridiag) {
    torch::stable::fill_(solvers, static_cast<double>(static_cast<int64_t>(ran.solver)));
  }
  if (ran.solver == Solver::kEigh) {
    torch::stable::fill_(steps, static_cast<double>(ran.size));
  }
  debug_check(call, ranks, batch.images.images, batch.batched);
  return {ranks, steps, sizes, solvers, refined};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> prune_cuda(const Tensor& x, int64_t keep_tokens,
                                                      double variance, std::optional<int64_t> rank,
                                                      bool center, const Text& solver,
                                                      const Text& select) {
  const char* op = "prune";
  const Batch batch(op, x);
  const Images& images = batch.images;
  check_keep(op, "keep", keep_tokens, images.tokens);
  const Options options =
      check_options(op, variance, rank, center, solver, batch.rank_limit(), "min(N, D)");
  const Select rule = check_select(op, select, variance, rank, solver, images.tokens);
  const Call call(op, x);
  const Tensor tokens = batch.output(call, {keep_tokens, images.features}, x.scalar_type());
  const Tensor indices = batch.output(call, {keep_tokens}, ScalarType::Long);
  const Tensor scores = batch.output(call, {images.tokens}, score_dtype(x));
  const Tensor ranks = batch.output(call, {}, ScalarType::Int);
  run(call, images, options,
      {.scores = scores,
       .ranks = ranks,
       .selects = true,
       .select = rule,
       .budget = {keep_tokens, nullptr, 0, 0},
       .tokens = tokens.mutable_data_ptr(),
       .indices = pointer<int64_t>(indices)});
  debug_check(call, ranks, images.images, batch.batched);
  return {tokens, indices, scores, ranks};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> prune_adaptive_cuda(
    const Tensor& x, int64_t max_keep, double coverage, double variance,
    std::optional<int64_t> rank, bool center, const Text& solver, const Text& select) {
  const char* op = "prune_adaptive";
  const Batch batch(op, x);
  const Images& images = batch.images;
  check_keep(op, "max_keep", max_keep, images.tokens);
  check_coverage(op, coverage);
  const Options options =
      check_options(op, variance, rank, center, solver, batch.rank_limit(), "min(N, D)");
  const Select rule = check_select(op, select, variance, rank, solver, images.tokens);
  const Call call(op, x);
  const Tensor tokens = batch.output(call, {max_keep, images.features}, x.scalar_type());
  const Tensor indices = batch.output(call, {max_keep}, ScalarType::Long);
  const Tensor counts = batch.output(call, {}, ScalarType::Int);
  const Tensor scores = batch.output(call, {images.tokens}, score_dtype(x));
  const Tensor ranks = batch.output(call, {}, ScalarType::Int);
  run(call, images, options,
      {.scores = scores,
       .ranks = ranks,
       .selects = true,
       .select = rule,
       .budget = {max_keep, nullptr, 0, coverage},
       .tokens = tokens.mutable_data_ptr(),
       .indices = pointer<int64_t>(indices),
       .counts = pointer<int32_t>(counts)});
  debug_check(call, ranks, images.images, batch.batched);
  return {tokens, indices, counts, scores, ranks};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> prune_varlen_cuda(
    const Tensor& x, const Tensor& cu_seqlens, const Tensor& cu_keep, int64_t total_keep,
    int64_t max_seqlen, double variance, std::optional<int64_t> rank, bool center,
    const Text& solver, const Text& select) {
  const char* op = "prune_varlen";
  check_packed(op, x, cu_seqlens, cu_keep, total_keep, max_seqlen);
  const int64_t images_count = cu_seqlens.size(0) - 1;
  if (images_count > kMaxImages) {
    refuse(op, "cu_seqlens must name at most ", kMaxImages, " images, got ", images_count);
  }
  const Options options = check_options(op, variance, rank, center, solver, x.size(1), "D");
  const Select rule = check_select(op, select, variance, rank, solver, max_seqlen);
  const Call call(op, x);
  const Tensor seqlens = to_int64(cu_seqlens);
  const Tensor keeps = to_int64(cu_keep);
  if (debugging()) {
    check_offsets(op, on_host<int64_t>(call, seqlens).data(), on_host<int64_t>(call, keeps).data(),
                  images_count, x.size(0), total_keep, max_seqlen);
  }
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
  // What offsets that are wrong leave out: index -1, zero rows, NaN.
  set_bytes(indices.mutable_data_ptr(), 0xFF, bytes_of(indices), call.stream());
  set_zero(tokens.mutable_data_ptr(), bytes_of(tokens), call.stream());
  set_bytes(scores.mutable_data_ptr(), 0xFF, bytes_of(scores), call.stream());
  run(call, images, options,
      {.scores = scores,
       .ranks = ranks,
       .selects = true,
       .select = rule,
       .budget = {0, static_cast<const int64_t*>(keeps.const_data_ptr()), total_keep, 0},
       .tokens = tokens.mutable_data_ptr(),
       .indices = pointer<int64_t>(indices)});
  debug_check(call, ranks, images_count, true);
  return {tokens, indices, scores, ranks};
}

STABLE_TORCH_LIBRARY_IMPL(svdprune, CUDA, m) {
  m.impl("leverage_scores", TORCH_BOX(&leverage_scores_cuda));
  m.impl("diagnose", TORCH_BOX(&diagnose_cuda));
  m.impl("prune", TORCH_BOX(&prune_cuda));
  m.impl("prune_adaptive", TORCH_BOX(&prune_adaptive_cuda));
  m.impl("prune_varlen", TORCH_BOX(&prune_varlen_cuda));
}

}  // namespace

}  // namespace svdprune::cuda
