// rater_scores and rater_scores_by_head on CUDA: check, then launches on torch's current stream. Nothing here waits for
// the device.

#include "call.h"

#include "../rater_args.h"

#include <optional>
#include <tuple>

namespace svdprune::cuda {

namespace {

constexpr int64_t kMaxPrompts = 65535;      // blocks along y
constexpr int64_t kMaxBlocks = 2147483647;  // along x

RaterArgs checked_for_cuda(const char* op, const Tensor& q, const Tensor& k, const Tensor& raters,
                           const Tensor& visual, const std::optional<Tensor>& mask, bool causal,
                           std::optional<double> scale) {
  const RaterArgs args = checked_rater_args(op, q, k, raters, visual, mask, causal, scale);
  if (args.prompts > kMaxPrompts) {
    refuse(op, "q must hold at most ", kMaxPrompts, " prompts, got ", args.prompts);
  }
  if (std::max({rater_tiles(args), args.heads * args.raters, args.heads * args.columns}) >
      kMaxBlocks) {
    refuse(op,
           "raters and visual must have H R, H N and R N / 512 below 2^31, got R = ", args.raters,
           ", N = ", args.columns);
  }
  return args;
}

std::tuple<Tensor, Tensor, Tensor> rater_scores_cuda(const Tensor& q, const Tensor& k,
                                                     const Tensor& raters, const Tensor& visual,
                                                     const std::optional<Tensor>& mask,
                                                     const std::optional<Tensor>& head_weights,
                                                     bool causal, std::optional<double> scale) {
  const char* op = "rater_scores";
  const RaterArgs args = checked_for_cuda(op, q, k, raters, visual, mask, causal, scale);
  check_head_weights(op, head_weights, q);
  const int64_t tiles = rater_tiles(args);
  const Call call(op, q);
  const ScalarType dtype = score_dtype(q);
  const Tensor scores = call.empty({args.prompts, args.columns}, dtype);
  const Tensor attention = call.empty({args.prompts, args.raters, args.columns}, dtype);
  const Tensor head_mass = call.empty({args.prompts, args.heads}, dtype);
  const Tensor rows = call.empty({args.prompts, args.heads, args.raters, 2}, dtype);
  const Tensor masses = call.empty({args.prompts, args.heads, tiles}, dtype);
  const Tensor positions = torch::stable::contiguous(raters);
  const Tensor columns = torch::stable::contiguous(visual);
  std::optional<Tensor> weights;
  if (head_weights) {
    weights = torch::stable::contiguous(*head_weights);
  }
  launch_rater_scores(
      {.args = args,
       .dtype = dtype_of(q.scalar_type()),
       .raters = static_cast<const int64_t*>(positions.const_data_ptr()),
       .visual = static_cast<const int64_t*>(columns.const_data_ptr()),
       .head_weights = weights ? static_cast<const float*>(weights->const_data_ptr()) : nullptr,
       .divisor = nullptr,
       .divisor_stride = 0,
       .rows = rows.mutable_data_ptr(),
       .masses = masses.mutable_data_ptr(),
       .scores = scores.mutable_data_ptr(),
       .attention = attention.mutable_data_ptr(),
       .head_mass = head_mass.mutable_data_ptr()},
      call.stream());
  return {scores, attention, head_mass};
}

Tensor rater_scores_by_head_cuda(const Tensor& q, const Tensor& k, const Tensor& raters,
                                 const Tensor& visual, const std::optional<Tensor>& mask,
                                 const std::optional<Tensor>& divisor, bool causal,
                                 std::optional<double> scale) {
  const char* op = "rater_scores_by_head";
  const RaterArgs args = checked_for_cuda(op, q, k, raters, visual, mask, causal, scale);
  check_divisor(op, divisor, args, q);
  const Call call(op, q);
  const ScalarType dtype = score_dtype(q);
  const Tensor scores = call.empty({args.prompts, args.heads, args.columns}, dtype);
  const Tensor rows = call.empty({args.prompts, args.heads, args.raters, 2}, dtype);
  const Tensor positions = torch::stable::contiguous(raters);
  const Tensor columns = torch::stable::contiguous(visual);
  std::optional<Tensor> divisors;
  if (divisor) {
    divisors = torch::stable::contiguous(*divisor);
  }
  launch_rater_scores_by_head(
      {.args = args,
       .dtype = dtype_of(q.scalar_type()),
       .raters = static_cast<const int64_t*>(positions.const_data_ptr()),
       .visual = static_cast<const int64_t*>(columns.const_data_ptr()),
       .head_weights = nullptr,
       .divisor = divisors ? divisors->const_data_ptr() : nullptr,
       .divisor_stride = divisors && divisors->size(0) > 1 ? args.raters : 0,
       .rows = rows.mutable_data_ptr(),
       .masses = nullptr,
       .scores = scores.mutable_data_ptr(),
       .attention = nullptr,
       .head_mass = nullptr},
      call.stream());
  return scores;
}

STABLE_TORCH_LIBRARY_IMPL(svdprune, CUDA, m) {
  m.impl("rater_scores", TORCH_BOX(&rater_scores_cuda));
  m.impl("rater_scores_by_head", TORCH_BOX(&rater_scores_by_head_cuda));
}

}  // namespace

}  // namespace svdprune::cuda
