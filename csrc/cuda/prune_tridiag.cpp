// Solver "tridiag": the Gram matrix in one launch, everything else in a second. "auto" and "purify" have a third one,
// which purifies the images that the second one leaves to it: those with flat spectra, or all that are in range. Centred
// features are packed first, in three more.

#include "call.h"
#include "purify.h"

namespace svdprune::cuda {

namespace {

// Up to which eigenvalues next to the cut are far from rounding, being a share of what is missing to 1.
constexpr double kMostVariance = 0.995;

// Whether purification finds what is asked for. Of a rank it would count directions that are nothing but rounding, which
// there are where N > D or images are packed.
bool can_purify(const Images& x, const Options& options) {
  return options.rank ? x.tokens <= x.features && !x.cu_seqlens : options.variance <= kMostVariance;
}

// Which images to leave to it: of a rank it is known beforehand, a reduction for so many would not stop early.
HandOver hand_over(const Images& x, const Options& options) {
  constexpr int64_t kMany = 8;  // a rank of more than the N-th part by it
  if (options.solver == Solver::kPurify) {
    return HandOver::kAlways;
  }
  if (options.rank) {
    return kMany * *options.rank > x.tokens ? HandOver::kAlways : HandOver::kNever;
  }
  return HandOver::kFlat;
}

// Blocks for launch_purify, 0 where it is not to serve.
int blocks_to_purify(const Images& x, const Options& options) {
  if (options.solver == Solver::kTridiag || !can_purify(x, options) ||
      hand_over(x, options) == HandOver::kNever) {
    return 0;
  }
  const int blocks = purify_blocks(x.images, x.tokens);
  const bool serves = options.solver == Solver::kPurify || purify_pays(x.images, x.tokens, blocks);
  return serves ? blocks : 0;
}

void run_purify(const Call& call, const Images& x, const EigSelect& tridiag, int blocks,
                const Results& results) {
  const int64_t side = purify_side(x.tokens), tiles = purify_tiles(x.tokens);
  const int64_t half_bytes = 2 * x.images * 2 * side * side * 2;
  const int64_t sum_bytes = 2 * x.images * kPurifySums * tiles * 8;
  const int64_t state_bytes = 2 * x.images * static_cast<int64_t>(sizeof(purify::State));
  const int64_t kept_bytes = x.cu_seqlens ? x.total_tokens : x.images * x.tokens;
  // In one piece, as each takes the allocator some microseconds; in the order of their alignment.
  const Tensor scratch =
      call.empty({half_bytes + sum_bytes + state_bytes + kept_bytes}, ScalarType::Byte);
  auto* const halves = pointer<unsigned char>(scratch);
  auto* const sums = halves + half_bytes;
  auto* const states = sums + sum_bytes;
  const Purify arguments{
      .partials = tridiag.partials,
      .parts = tridiag.parts,
      .gram = tridiag.gram,
      .rule = tridiag.rule,
      .x = halves,
      .sums = reinterpret_cast<double*>(sums),
      .states = reinterpret_cast<purify::State*>(states),
      .kept = states + state_bytes,
      .solvers = results.solvers,
      .solver = static_cast<int32_t>(Solver::kPurify),
      .out = tridiag.out,
  };
  launch_purify(x, arguments, blocks, call.stream());
}

}  // namespace

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

  const int blocks = blocks_to_purify(x, options);
  const Tensor reflectors =
      blocks > 0 ? call.empty({x.images, x.tokens, x.tokens}, ScalarType::Float) : gram;
  const Tensor vectors = call.empty({x.images, x.tokens / 2 + 1, x.tokens}, ScalarType::Float);
  const EigSelect arguments{
      .partials = pointer<double>(partials),
      .parts = parts,
      .gram = pointer<float>(gram),
      .reflectors = pointer<float>(reflectors),
      .largest = options.center ? pointer<double>(packed.largest) : nullptr,
      .vectors = pointer<float>(vectors),
      .eigenvalues = nullptr,
      .rule = {options.variance, options.rank.value_or(0)},
      .hand_over = blocks > 0 ? hand_over(x, options) : HandOver::kNever,
      .out = {.scores = pointer<float>(results.scores),
              .rank = pointer<int32_t>(results.ranks),
              .steps = results.steps,
              .selects = results.selects,
              .budget = results.budget,
              .tokens = results.tokens,
              .indices = results.indices,
              .count = results.counts},
  };
  launch_eig_select(x, arguments, shape, call.stream());
  if (blocks > 0) {
    run_purify(call, x, arguments, blocks, results);
  }
}

}  // namespace svdprune::cuda
