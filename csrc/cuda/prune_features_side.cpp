// Solver "tridiag" on the features' side, for more tokens than its kernel has room for but few enough features: their
// Gram matrix X^T X on cuBLAS, its leading eigenvectors in one launch, then a kernel a stage.

#include "call.h"

namespace svdprune::cuda {

void prune_features_side(const Call& call, const Images& x, const Options& options,
                         const Results& results, EigSelectShape shape) {
  const ScalarType type = packed_type(x, !options.center, ScalarType::Float);
  const Packed packed = pack(call, x, options.center, type);
  const Tensor gram = call.empty({x.images, x.features, x.features}, ScalarType::Float);
  launch_gram(call.blas(), false, x.images, x.tokens, x.features, packed.values.const_data_ptr(),
              data_type_of(type), gram.mutable_data_ptr());

  const Tensor vectors = call.empty({x.images, x.features, x.features}, ScalarType::Float);
  const Tensor eigenvalues = call.empty({x.images, x.features}, ScalarType::Double);
  const Images transposed{.images = x.images,
                          .tokens = x.features,
                          .features = x.tokens,
                          .data = packed.values.const_data_ptr(),
                          .dtype = dtype_of(type),
                          .image_stride = x.tokens * x.features,
                          .token_stride = 1,
                          .feature_stride = x.features,
                          .cu_seqlens = nullptr,
                          .total_tokens = 0};
  const EigSelect arguments{
      .partials = nullptr,
      .parts = 0,
      .gram = pointer<float>(gram),
      .reflectors = pointer<float>(gram),
      .largest = pointer<double>(packed.largest),
      .vectors = pointer<float>(vectors),
      .eigenvalues = pointer<double>(eigenvalues),
      .rule = {options.variance, options.rank.value_or(0)},
      .hand_over = HandOver::kNever,
      .out = {.rank = pointer<int32_t>(results.ranks), .steps = results.steps},
  };
  launch_eig_select(transposed, arguments, shape, call.stream());
  launch_leverage_of_vectors(x, packed.values.const_data_ptr(), dtype_of(type),
                             pointer<float>(vectors), pointer<double>(eigenvalues),
                             pointer<int32_t>(results.ranks), pointer<float>(results.scores),
                             call.stream());
  if (results.selects) {
    keep(call, x, results);
  }
}

}  // namespace svdprune::cuda
