#include "keep.h"

#include "gather.h"
#include "pivot.h"
#include "score.h"
#include "select.h"

namespace svdprune::cpu {

namespace {

// Stage 4, rule "topk". Returns how many tokens stay.
template <class T>
int64_t select_by_leverage(const T* scores, int64_t n, const Rule& rule, int64_t* indices) {
  if (rule.coverage > 0) {
    return select_coverage(scores, n, rule.most, rule.coverage, indices);
  }
  select_topk(scores, n, rule.most, indices);
  return rule.most;
}

// Stages 1 to 4. "pivoted" chooses on the Gram matrix, so it has no stages 2 and 3.
Kept select_tokens(Crew& crew, const Image& image, const Options& options, const Rule& rule,
                   const Outputs& outputs) {
  if (rule.select == Select::kPivoted) {
    const Picked picked = select_pivoted(crew, image, options.center, rule.most, rule.coverage,
                                         outputs.scores, outputs.indices);
    return {picked.count, picked.rank};
  }
  const int64_t rank = score_image(crew, image, options, outputs.scores).rank;
  const int64_t count = image.dtype == ScalarType::Double
                            ? select_by_leverage(static_cast<const double*>(outputs.scores),
                                                 image.tokens, rule, outputs.indices)
                            : select_by_leverage(static_cast<const float*>(outputs.scores),
                                                 image.tokens, rule, outputs.indices);
  return {count, rank};
}

}  // namespace

Kept keep_image(Crew& crew, const Image& image, const Options& options, const Rule& rule,
                const Outputs& outputs) {
  const Kept kept = select_tokens(crew, image, options, rule, outputs);
  gather(image, outputs.indices, rule.most, outputs.tokens);
  return kept;
}

}  // namespace svdprune::cpu
