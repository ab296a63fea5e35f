// The CPU backend's way from a dispatched call to the five stages and back: check, then for each
// image gram -> spectrum -> leverage -> select -> gather.

#include "for_each_image.h"
#include "keep.h"
#include "score.h"
#include "spectrum.h"

#include <algorithm>

namespace svdprune::cpu {

namespace {

// x as images: [N, D] is one, [B, N, D] are B.
struct Batch {
  int64_t images, tokens, features;
  bool batched;
  Image first;
  int64_t image_stride;  // in elements

  explicit Batch(const Tensor& x)
      : images(x.dim() == 3 ? x.size(0) : 1),
        tokens(x.size(x.dim() - 2)),
        features(x.size(x.dim() - 1)),
        batched(x.dim() == 3),
        first{x.const_data_ptr(), x.scalar_type(),       tokens,
              features,           x.stride(x.dim() - 2), x.stride(x.dim() - 1)},
        image_stride(batched ? x.stride(0) : 0) {}

  Image image(int64_t b) const {
    Image result = first;
    result.data = static_cast<const char*>(first.data) + b * image_stride * width_of(first.dtype);
    return result;
  }

  int64_t rank_limit() const {
    return std::min(tokens, features);
  }

  // [B, sizes...], or [sizes...] for unbatched input.
  Tensor output(const Tensor& x, std::vector<int64_t> sizes, ScalarType dtype) const {
    if (batched) {
      sizes.insert(sizes.begin(), images);
    }
    return new_empty(x, sizes, dtype);
  }
};

Batch checked_batch(const char* op, const Tensor& x) {
  check_features(op, x, 2, 3, "[B, N, D] or [N, D]");
  const Batch batch(x);
  check_side(op, batch.tokens, batch.features);
  return batch;
}

// "purify" works on N x N whatever D is.
void check_purify(const char* op, const Options& options, int64_t tokens) {
  if (options.solver == Solver::kPurify && tokens > kMaxSide) {
    refuse(op, "x must have N <= ", kMaxSide, " for solver \"purify\", got N = ", tokens);
  }
}

Options checked_options(const char* op, const Batch& batch, double variance,
                        std::optional<int64_t> rank, bool center, const std::string& solver) {
  const Options options =
      check_options(op, variance, rank, center, solver, batch.rank_limit(), "min(N, D)");
  check_purify(op, options, batch.tokens);
  return options;
}

char* row(const Tensor& t, int64_t offset) {
  return static_cast<char*>(t.mutable_data_ptr()) + offset * static_cast<int64_t>(t.element_size());
}

// One number of an int32 tensor [B].
void set(const Tensor& t, int64_t b, int64_t value) {
  *reinterpret_cast<int32_t*>(row(t, b)) = static_cast<int32_t>(value);
}

// Whether an image's work is divided between threads here, or within LAPACK.
bool divides(const Options& options, const Tensor& x) {
  return takes_tridiag(options, x.scalar_type() == ScalarType::Double);
}

std::tuple<Tensor, Tensor> leverage_scores_cpu(const Tensor& x, double variance,
                                               std::optional<int64_t> rank, bool center,
                                               const Text& solver) {
  const char* op = "leverage_scores";
  const Batch batch = checked_batch(op, x);
  const Options options = checked_options(op, batch, variance, rank, center, solver);

  const Tensor scores = batch.output(x, {batch.tokens}, score_dtype(x));
  const Tensor ranks = batch.output(x, {}, ScalarType::Int);
  for_each_image(op, batch.images, batch.batched, divides(options, x), [&](int64_t b, Crew& crew) {
    set(ranks, b, score_image(crew, batch.image(b), options, row(scores, b * batch.tokens)).rank);
  });
  return {scores, ranks};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> diagnose_cpu(const Tensor& x, double variance,
                                                                std::optional<int64_t> rank,
                                                                bool center, const Text& solver) {
  const char* op = "diagnose";
  const Batch batch = checked_batch(op, x);
  const Options options = checked_options(op, batch, variance, rank, center, solver);

  const Tensor scores = batch.output(x, {batch.tokens}, score_dtype(x));
  const Tensor ranks = batch.output(x, {}, ScalarType::Int);
  const Tensor steps = batch.output(x, {}, ScalarType::Int);
  const Tensor sizes = batch.output(x, {}, ScalarType::Int);
  const Tensor solvers = batch.output(x, {}, ScalarType::Int);
  const Tensor refined = batch.output(x, {}, ScalarType::Int);
  for_each_image(op, batch.images, batch.batched, divides(options, x), [&](int64_t b, Crew& crew) {
    const Solved solved = score_image(crew, batch.image(b), options, row(scores, b * batch.tokens));
    set(ranks, b, solved.rank);
    set(steps, b, solved.steps);
    set(sizes, b, solved.size);
    set(solvers, b, static_cast<int64_t>(solved.solver));
    set(refined, b, solved.refined);
  });
  return {ranks, steps, sizes, solvers, refined};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> prune_cpu(const Tensor& x, int64_t keep, double variance,
                                                     std::optional<int64_t> rank, bool center,
                                                     const Text& solver, const Text& select) {
  const char* op = "prune";
  const Batch batch = checked_batch(op, x);
  check_keep(op, "keep", keep, batch.tokens);
  const Options options = checked_options(op, batch, variance, rank, center, solver);
  const Rule rule{check_select(op, select, variance, rank, solver, batch.tokens), keep, 0};

  const Tensor tokens = batch.output(x, {keep, batch.features}, x.scalar_type());
  const Tensor indices = batch.output(x, {keep}, ScalarType::Long);
  const Tensor scores = batch.output(x, {batch.tokens}, score_dtype(x));
  const Tensor ranks = batch.output(x, {}, ScalarType::Int);
  for_each_image(op, batch.images, batch.batched, divides(options, x), [&](int64_t b, Crew& crew) {
    int64_t* kept = reinterpret_cast<int64_t*>(row(indices, b * keep));
    const Kept result =
        keep_image(crew, batch.image(b), options, rule,
                   {row(scores, b * batch.tokens), kept, row(tokens, b * keep * batch.features)});
    set(ranks, b, result.rank);
  });
  return {tokens, indices, scores, ranks};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> prune_adaptive_cpu(
    const Tensor& x, int64_t max_keep, double coverage, double variance,
    std::optional<int64_t> rank, bool center, const Text& solver, const Text& select) {
  const char* op = "prune_adaptive";
  const Batch batch = checked_batch(op, x);
  check_keep(op, "max_keep", max_keep, batch.tokens);
  check_coverage(op, coverage);
  const Options options = checked_options(op, batch, variance, rank, center, solver);
  const Rule rule{check_select(op, select, variance, rank, solver, batch.tokens), max_keep,
                  coverage};

  const Tensor tokens = batch.output(x, {max_keep, batch.features}, x.scalar_type());
  const Tensor indices = batch.output(x, {max_keep}, ScalarType::Long);
  const Tensor counts = batch.output(x, {}, ScalarType::Int);
  const Tensor scores = batch.output(x, {batch.tokens}, score_dtype(x));
  const Tensor ranks = batch.output(x, {}, ScalarType::Int);
  for_each_image(op, batch.images, batch.batched, divides(options, x), [&](int64_t b, Crew& crew) {
    int64_t* kept = reinterpret_cast<int64_t*>(row(indices, b * max_keep));
    const Kept result = keep_image(
        crew, batch.image(b), options, rule,
        {row(scores, b * batch.tokens), kept, row(tokens, b * max_keep * batch.features)});
    set(ranks, b, result.rank);
    set(counts, b, result.count);
  });
  return {tokens, indices, counts, scores, ranks};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> prune_varlen_cpu(
    const Tensor& x, const Tensor& cu_seqlens, const Tensor& cu_keep, int64_t total_keep,
    int64_t max_seqlen, double variance, std::optional<int64_t> rank, bool center,
    const Text& solver, const Text& select) {
  const char* op = "prune_varlen";
  check_packed(op, x, cu_seqlens, cu_keep, total_keep, max_seqlen);
  const int64_t images = cu_seqlens.size(0) - 1;
  const Batch packed(x);
  const Tensor seqlens = to_int64(cu_seqlens);
  const Tensor keeps = to_int64(cu_keep);
  const int64_t* first_token = static_cast<const int64_t*>(seqlens.const_data_ptr());
  const int64_t* first_kept = static_cast<const int64_t*>(keeps.const_data_ptr());
  check_offsets(op, first_token, first_kept, images, packed.tokens, total_keep, max_seqlen);
  const Options options = check_options(op, variance, rank, center, solver, packed.features, "D");
  check_purify(op, options, max_seqlen);
  const Select chosen = check_select(op, select, variance, rank, solver, max_seqlen);

  const Tensor tokens = new_empty(x, {total_keep, packed.features}, x.scalar_type());
  const Tensor indices = new_empty(x, {total_keep}, ScalarType::Long);
  const Tensor scores = new_empty(x, {packed.tokens}, score_dtype(x));
  const Tensor ranks = new_empty(x, {images}, ScalarType::Int);
  for_each_image(op, images, true, divides(options, x), [&](int64_t b, Crew& crew) {
    Image image = packed.first;
    image.tokens = first_token[b + 1] - first_token[b];
    image.data = static_cast<const char*>(image.data) +
                 first_token[b] * image.token_stride * width_of(image.dtype);
    const int64_t keep = first_kept[b + 1] - first_kept[b];
    Options own = options;
    if (own.rank) {
      own.rank = std::min(*own.rank, std::min(image.tokens, image.features));
    }
    int64_t* kept = reinterpret_cast<int64_t*>(row(indices, first_kept[b]));
    const Kept result = keep_image(
        crew, image, own, {chosen, keep, 0},
        {row(scores, first_token[b]), kept, row(tokens, first_kept[b] * packed.features)});
    set(ranks, b, result.rank);
    for (int64_t k = 0; k < keep; ++k) {
      kept[k] += first_token[b];  // from the image's rows to x's
    }
  });
  return {tokens, indices, scores, ranks};
}

STABLE_TORCH_LIBRARY_IMPL(svdprune, CPU, m) {
  m.impl("leverage_scores", TORCH_BOX(&leverage_scores_cpu));
  m.impl("diagnose", TORCH_BOX(&diagnose_cpu));
  m.impl("prune", TORCH_BOX(&prune_cpu));
  m.impl("prune_adaptive", TORCH_BOX(&prune_adaptive_cpu));
  m.impl("prune_varlen", TORCH_BOX(&prune_varlen_cpu));
}

}  // namespace

}  // namespace svdprune::cpu
