// Solver "eigh": stages 1 and 2 on cuBLAS and cuSOLVER, then a kernel a stage.

#include "call.h"
#include "environment.h"

namespace svdprune::cuda {

namespace {

// Stages 1 to 3: scores [B, N], packed [T]; ranks [B].
void score(const Call& call, const Images& x, const Options& options, const Tensor& scores,
           const Tensor& ranks) {
  const ScalarType work = scores.scalar_type();
  const bool tokens_side = x.tokens <= x.features;
  const int64_t n = tokens_side ? x.tokens : x.features;
  check_spectrum_capturable(call.stream(), n);
  // As given unless they change or meet float32 vectors.
  const ScalarType type = packed_type(x, tokens_side && !options.center, work);
  const Packed packed = pack(call, x, options.center, type);

  const Tensor matrices = call.empty({x.images, n, n}, work);
  static const bool tf32 = switched_on("SVDPRUNE_ALLOW_TF32");
  launch_gram(call.blas(), tokens_side, x.images, x.tokens, x.features,
              packed.values.const_data_ptr(), data_type_of(type), matrices.mutable_data_ptr(),
              tf32);

  const Tensor eigenvalues = call.empty({x.images, n}, work);
  const Tensor info = call.empty({x.images}, ScalarType::Int);
  SolverHandle& solver = call.solver();
  const Workspace sizes =
      spectrum_workspace(solver, x.images, n, data_type_of(work), matrices.mutable_data_ptr(),
                         eigenvalues.mutable_data_ptr());
  const Tensor workspace = call.empty({static_cast<int64_t>(sizes.device_bytes)}, ScalarType::Byte);
  launch_spectrum(solver, x.images, n, data_type_of(work), matrices.mutable_data_ptr(),
                  eigenvalues.mutable_data_ptr(), workspace.mutable_data_ptr(), sizes,
                  pointer<int>(info));

  Tensor basis = matrices;
  if (!tokens_side) {
    basis = call.empty({x.images, x.features, x.tokens}, work);
    launch_rotate(call.blas(), x.images, x.tokens, x.features, packed.values.const_data_ptr(),
                  matrices.const_data_ptr(), data_type_of(work), basis.mutable_data_ptr());
  }
  const RankRule rule{options.variance, options.rank.value_or(0)};
  const auto launch = [&](auto zero) {
    using T = decltype(zero);
    launch_leverage<T>(x, tokens_side, n, pointer<T>(basis), pointer<T>(eigenvalues),
                       pointer<double>(packed.largest), pointer<int>(info), rule,
                       pointer<T>(scores), pointer<int32_t>(ranks), call.stream());
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
  for (const Tensor& result : {scores, ranks}) {
    set_zero(result.mutable_data_ptr(), bytes_of(result), call.stream());
  }
}

}  // namespace

Packed pack(const Call& call, const Images& x, bool center, ScalarType dtype) {
  Packed packed;
  double* mean = nullptr;
  if (center) {
    packed.means = call.empty({x.images, x.features}, ScalarType::Double);
    mean = pointer<double>(packed.means);
    launch_feature_means(x, mean, call.stream());
  }
  packed.largest = call.empty({x.images}, ScalarType::Double);
  launch_largest_magnitude(x, mean, pointer<double>(packed.largest), call.stream());
  packed.values = call.empty({x.images, x.tokens, x.features}, dtype);
  launch_pack(x, mean, pointer<double>(packed.largest), packed.values.mutable_data_ptr(),
              dtype_of(dtype), call.stream());
  return packed;
}

void keep(const Call& call, const Images& x, const Results& results) {
  if (results.counts) {
    set_zero(results.counts, x.images * sizeof(int32_t), call.stream());
  }
  if (x.images == 0 || x.tokens == 0) {
    return;
  }
  const Tensor kept = call.empty({results.scores.numel()}, ScalarType::Byte);
  const auto launch = [&](auto zero) {
    using T = decltype(zero);
    launch_select<T>(x, pointer<T>(results.scores), pointer<int32_t>(results.ranks), results.budget,
                     pointer<uint8_t>(kept), call.stream());
  };
  results.scores.scalar_type() == ScalarType::Double ? launch(0.0) : launch(0.0f);
  launch_gather(x, pointer<uint8_t>(kept), results.budget, results.tokens, results.indices,
                results.counts, call.stream());
}

void prune_eigh(const Call& call, const Images& x, const Options& options, const Results& results) {
  score_or_zero(call, x, options, results.scores, results.ranks);
  if (results.selects) {
    keep(call, x, results);
  }
}

}  // namespace svdprune::cuda
