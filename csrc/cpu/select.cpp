#include "select.h"

#include <algorithm>
#include <numeric>
#include <vector>

namespace svdprune::cpu {

namespace {

// Highest score first, lower index first among equals: a strict total order, so the result is
// unique.
template <class T>
auto by_score(const T* scores) {
  return [scores](int64_t a, int64_t b) {
    return scores[a] != scores[b] ? scores[a] > scores[b] : a < b;
  };
}

std::vector<int64_t> all_tokens(int64_t n) {
  std::vector<int64_t> order(n);
  std::iota(order.begin(), order.end(), 0);
  return order;
}

}  // namespace

template <class T>
void select_topk(const T* scores, int64_t n, int64_t keep, int64_t* indices) {
  std::vector<int64_t> order = all_tokens(n);
  std::nth_element(order.begin(), order.begin() + keep, order.end(), by_score(scores));
  std::sort(order.begin(), order.begin() + keep);
  std::copy_n(order.begin(), keep, indices);
}

template <class T>
int64_t select_coverage(const T* scores, int64_t n, int64_t max_keep, double coverage,
                        int64_t* indices) {
  std::vector<int64_t> order = all_tokens(n);
  std::partial_sort(order.begin(), order.begin() + max_keep, order.end(), by_score(scores));
  const double target = coverage * std::accumulate(scores, scores + n, 0.0);
  double sum = 0;
  int64_t count = 0;
  // A score of 0 adds nothing, and rounding of the two sums may ask for more.
  while (count < max_keep && sum < target && scores[order[count]] > 0) {
    sum += scores[order[count++]];
  }
  std::sort(order.begin(), order.begin() + count);
  std::fill(std::copy_n(order.begin(), count, indices), indices + max_keep, -1);
  return count;
}

template void select_topk(const float*, int64_t, int64_t, int64_t*);
template void select_topk(const double*, int64_t, int64_t, int64_t*);
template int64_t select_coverage(const float*, int64_t, int64_t, double, int64_t*);
template int64_t select_coverage(const double*, int64_t, int64_t, double, int64_t*);

}  // namespace svdprune::cpu
