// rater_scores and rater_scores_by_head on the CPU: means over the raters' rows of attention, those of all heads
// together or of each head.
//
// Raters are taken a few at a time, key heads side by side; see the note on rows of raters. For rater_scores heads
// are dealt to up to kParts parts with a sum each, which are added up in order: no result depends on the number of
// threads.

#include "for_each_image.h"
#include "rater_rows.h"

#include <optional>
#include <tuple>

namespace svdprune::cpu {

namespace {

constexpr int64_t kRows = 64;  // of a matrix product
constexpr int64_t kParts = 8;

// The heads of a key head.
int64_t group_of(const RaterArgs& args) {
  return args.heads / args.key_heads;
}

// Calls work(first, count) for some of the raters after the other.
template <class T, class F>
void for_some_raters(const RaterArgs& args, const RaterRows<T>& rows, const F& work) {
  const int64_t all = static_cast<int64_t>(rows.raters().size());
  const int64_t most = std::max<int64_t>(1, kRows / group_of(args));
  for (int64_t first = 0; first < all; first += most) {
    work(first, std::min(most, all - first));
  }
}

// scores [N], attention [R, N], head_mass [H] of one prompt, all of them zeros before. head_weights [H], or null.
template <class T>
void score(const RaterArgs& args, const RaterRows<T>& rows, Crew& crew, const float* head_weights,
           T* scores, T* attention, T* head_mass) {
  const T all = static_cast<T>(rows.raters().size());
  const int64_t columns = args.columns, group = group_of(args);
  const int64_t parts = std::min(kParts, args.key_heads);
  const auto weight = [&](int64_t head) {
    return head_weights ? static_cast<T>(head_weights[head]) : 1 / static_cast<T>(args.heads);
  };
  std::vector<T> sums;
  for_some_raters(args, rows, [&](int64_t first, int64_t count) {
    sums.assign(parts * count * columns, T(0));
    crew.phase(static_cast<int>(parts), [&](int part) {
      for (int64_t key_head = part; key_head < args.key_heads; key_head += parts) {
        std::vector<int64_t> heads;
        for (int64_t h = key_head * group; h < (key_head + 1) * group; ++h) {
          if (weight(h) != 0) {
            heads.push_back(h);
          }
        }
        rows.attention(key_head, heads, first, count, [&](int64_t head, int64_t r, const T* paid) {
          T* sum = sums.data() + (part * count + r) * columns;
          head_mass[head] += add_scaled(paid, columns, weight(head), sum) / all;
        });
      }
    });
    crew.for_each(count, [&](int64_t r) {
      T* row = attention + rows.raters()[first + r].place * columns;
      for (int64_t part = 0; part < parts; ++part) {
        add_scaled(sums.data() + (part * count + r) * columns, columns, T(1), row);
      }
    });
  });
  for (const Rater& rater : rows.raters()) {
    add_scaled(attention + rater.place * columns, columns, 1 / all, scores);
  }
}

// scores [H, N] of one prompt, zeros before. divisor [R, N], or null.
template <class T>
void score_by_head(const RaterArgs& args, const RaterRows<T>& rows, Crew& crew, const T* divisor,
                   T* scores) {
  const int64_t columns = args.columns, group = group_of(args);
  for_some_raters(args, rows, [&](int64_t first, int64_t count) {
    crew.for_each(args.key_heads, [&](int64_t key_head) {
      std::vector<int64_t> heads;
      for (int64_t h = key_head * group; h < (key_head + 1) * group; ++h) {
        heads.push_back(h);
      }
      rows.attention(key_head, heads, first, count, [&](int64_t head, int64_t r, const T* paid) {
        T* out = scores + head * columns;
        if (divisor) {
          add_quotients(paid, divisor + rows.raters()[first + r].place * columns, columns, out);
        } else {
          add_scaled(paid, columns, T(1), out);
        }
      });
    });
  });
  if (!rows.raters().empty()) {
    scale(1 / static_cast<T>(rows.raters().size()), args.heads * columns, scores);
  }
}

// The rows of each prompt. raters [B, R], visual [B, N]: contiguous.
template <class T>
std::vector<RaterRows<T>> rows_of(const char* op, const RaterArgs& args, const Tensor& q,
                                  const Tensor& raters, const Tensor& visual) {
  const auto* places = static_cast<const int64_t*>(raters.const_data_ptr());
  const auto* columns = static_cast<const int64_t*>(visual.const_data_ptr());
  std::vector<RaterRows<T>> prompts;
  for (int64_t b = 0; b < args.prompts; ++b) {
    prompts.emplace_back(op, args, q.scalar_type(), b, places + b * args.raters,
                         columns + b * args.columns);
  }
  return prompts;
}

std::tuple<Tensor, Tensor, Tensor> rater_scores_cpu(const Tensor& q, const Tensor& k,
                                                    const Tensor& raters, const Tensor& visual,
                                                    const std::optional<Tensor>& mask,
                                                    const std::optional<Tensor>& head_weights,
                                                    bool causal, std::optional<double> scale) {
  const char* op = "rater_scores";
  const RaterArgs args = checked_rater_args(op, q, k, raters, visual, mask, causal, scale);
  check_head_weights(op, head_weights, q);
  const Tensor scores = new_empty(q, {args.prompts, args.columns}, score_dtype(q));
  const Tensor attention = new_empty(q, {args.prompts, args.raters, args.columns}, score_dtype(q));
  const Tensor head_mass = new_empty(q, {args.prompts, args.heads}, score_dtype(q));
  const Tensor positions = torch::stable::contiguous(raters);
  const Tensor columns = torch::stable::contiguous(visual);
  std::optional<Tensor> weights;
  if (head_weights) {
    weights = torch::stable::contiguous(*head_weights);
  }
  const auto run = [&](auto number) {
    using T = decltype(number);
    const auto prompts = rows_of<T>(op, args, q, positions, columns);
    const auto* of_heads = weights ? static_cast<const float*>(weights->const_data_ptr()) : nullptr;
    T* of_tokens = static_cast<T*>(scores.mutable_data_ptr());
    T* of_raters = static_cast<T*>(attention.mutable_data_ptr());
    T* masses = static_cast<T*>(head_mass.mutable_data_ptr());
    std::fill_n(of_tokens, args.prompts * args.columns, T(0));
    std::fill_n(of_raters, args.prompts * args.raters * args.columns, T(0));
    std::fill_n(masses, args.prompts * args.heads, T(0));
    for_each_image(op, args.prompts, true, true, [&](int64_t b, Crew& crew) {
      score(args, prompts[b], crew, of_heads ? of_heads + b * args.heads : nullptr,
            of_tokens + b * args.columns, of_raters + b * args.raters * args.columns,
            masses + b * args.heads);
    });
  };
  score_dtype(q) == ScalarType::Double ? run(double{}) : run(float{});
  return {scores, attention, head_mass};
}

Tensor rater_scores_by_head_cpu(const Tensor& q, const Tensor& k, const Tensor& raters,
                                const Tensor& visual, const std::optional<Tensor>& mask,
                                const std::optional<Tensor>& divisor, bool causal,
                                std::optional<double> scale) {
  const char* op = "rater_scores_by_head";
  const RaterArgs args = checked_rater_args(op, q, k, raters, visual, mask, causal, scale);
  check_divisor(op, divisor, args, q);
  const Tensor scores = new_empty(q, {args.prompts, args.heads, args.columns}, score_dtype(q));
  const Tensor positions = torch::stable::contiguous(raters);
  const Tensor columns = torch::stable::contiguous(visual);
  std::optional<Tensor> divisors;
  if (divisor) {
    divisors = torch::stable::contiguous(*divisor);
  }
  const auto run = [&](auto number) {
    using T = decltype(number);
    const auto prompts = rows_of<T>(op, args, q, positions, columns);
    const T* by = divisors ? static_cast<const T*>(divisors->const_data_ptr()) : nullptr;
    const int64_t stride = divisors && divisors->size(0) > 1 ? args.raters * args.columns : 0;
    T* of_heads = static_cast<T*>(scores.mutable_data_ptr());
    std::fill_n(of_heads, args.prompts * args.heads * args.columns, T(0));
    for_each_image(op, args.prompts, true, true, [&](int64_t b, Crew& crew) {
      score_by_head(args, prompts[b], crew, by ? by + b * stride : nullptr,
                    of_heads + b * args.heads * args.columns);
    });
  };
  score_dtype(q) == ScalarType::Double ? run(double{}) : run(float{});
  return scores;
}

STABLE_TORCH_LIBRARY_IMPL(svdprune, CPU, m) {
  m.impl("rater_scores", TORCH_BOX(&rater_scores_cpu));
  m.impl("rater_scores_by_head", TORCH_BOX(&rater_scores_by_head_cpu));
}

}  // namespace

}  // namespace svdprune::cpu
