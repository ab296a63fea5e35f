// Solver "tridiag": the Gram matrix in one launch, everything else in a second. Centred features are
// packed first, in three more.

#include "call.h"

namespace svdprune::cuda {

void prune_tridiag(const Call& call, const Images& x, const Options& options,
                   const Results& results, EigSelectShape shape) {
  Images features = x;
  Packed packed;
  if (options.center) {
    packed = pack(call, x, true, ScalarType::Float);
    features.data = packed.values.const_data_ptr();
    features.dtype = Dtype::kFloat32;
    features.image_stride = x.tokens * x.features;
    features.token_stride = x.features;
    features.feature_stride = 1;
    features.cu_seqlens = nullptr;  // zeros stand behind an image's end
  }
  const int64_t parts = gram_fused_partials(features);
  const Tensor gram = call.empty({x.images, x.tokens, x.tokens}, ScalarType::Float);
  const Tensor partials = call.empty({x.images, parts, 2}, ScalarType::Double);
  launch_gram_fused(features, pointer<float>(gram), pointer<double>(partials), call.stream());

  const Tensor vectors = call.empty({x.images, x.tokens / 2 + 1, x.tokens}, ScalarType::Float);
  const EigSelect arguments{
      .partials = pointer<double>(partials),
      .parts = parts,
      .gram = pointer<float>(gram),
      .largest = options.center ? pointer<double>(packed.largest) : nullptr,
      .vectors = pointer<float>(vectors),
      .rule = {options.variance, options.rank.value_or(0)},
      .scores = pointer<float>(results.scores),
      .rank = pointer<int32_t>(results.ranks),
      .steps = results.steps,
      .selects = results.selects,
      .budget = results.budget,
      .tokens = results.tokens,
      .indices = results.indices,
      .count = results.counts,
  };
  launch_eig_select(x, arguments, shape, call.stream());
}

}  // namespace svdprune::cuda
