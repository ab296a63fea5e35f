// Select "pivoted": the Gram matrix on cuBLAS, all picks in one launch, the gather in another. No eigensolver.

#include "call.h"
#include "pivot.h"

namespace svdprune::cuda {

void prune_pivoted(const Call& call, const Images& x, const Options& options,
                   const Results& results) {
  const ScalarType work = results.scores.scalar_type();
  const ScalarType type = packed_type(x, !options.center, work);
  const Packed packed = pack(call, x, options.center, type);
  const Tensor gram = call.empty({x.images, x.tokens, x.tokens}, work);
  launch_gram(call.blas(), true, x.images, x.tokens, x.features, packed.values.const_data_ptr(),
              data_type_of(type), gram.mutable_data_ptr());

  const Budget& budget = results.budget;
  const int64_t places = budget.cu_keep ? budget.total_keep : x.images * budget.keep;
  const Tensor left = call.empty({x.images, pivot_numbers(x.tokens)}, ScalarType::Double);
  const Tensor rows = call.empty({places, x.tokens}, ScalarType::Double);
  const Tensor picked = call.empty({places}, ScalarType::Int);
  const Tensor kept = call.empty({results.scores.numel()}, ScalarType::Byte);
  const auto launch = [&](auto zero) {
    using T = decltype(zero);
    const Pivot<T> arguments{
        .gram = pointer<T>(gram),
        .largest = pointer<double>(packed.largest),
        .on_chip = pivot_on_chip(x, budget),
        .left = pointer<double>(left),
        .rows = pointer<double>(rows),
        .picked = pointer<int32_t>(picked),
        .budget = budget,
        .scores = pointer<T>(results.scores),
        .ranks = pointer<int32_t>(results.ranks),
        .kept = pointer<uint8_t>(kept),
    };
    launch_pivot<T>(x, arguments, call.stream());
  };
  work == ScalarType::Double ? launch(0.0) : launch(0.0f);
  launch_gather(x, pointer<uint8_t>(kept), budget, results.tokens, results.indices, results.counts,
                call.stream());
}

}  // namespace svdprune::cuda
