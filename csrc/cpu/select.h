// Stage 4 of 5, select: which tokens stay. Ties go to the lower index; indices come out ascending.
#pragma once

#include <cstdint>

namespace svdprune::cpu {

// indices [keep]: the tokens of highest score. 0 <= keep <= n.
template <class T>
void select_topk(const T* scores, int64_t n, int64_t keep, int64_t* indices);

// indices [max_keep]: the fewest tokens whose scores sum to coverage * the sum of all, at most
// max_keep, then -1. Returns how many.
template <class T>
int64_t select_coverage(const T* scores, int64_t n, int64_t max_keep, double coverage,
                        int64_t* indices);

}  // namespace svdprune::cpu
