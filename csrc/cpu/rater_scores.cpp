// rater_scores on the CPU: for each prompt, the raters' rows of softmax(scale q k^T), their visual columns, and
// means over heads and raters.
//
// Note [rows of raters]
// All heads that share a key head, and all raters, are rows of one matrix product with its keys, so keys are
// read once. Up to kRows such rows are held at a time, over all keys, and become exponentials in place; a
// normalised row goes into the sum over heads at once. Heads are dealt to up to kParts parts with a sum each, which
// are added up in order: no result depends on the number of threads.

#include "blas.h"
#include "for_each_image.h"
#include "softmax.h"

#include "../rater_args.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <tuple>
#include <vector>

namespace svdprune::cpu {

namespace {

constexpr int64_t kRows = 64;
constexpr int64_t kParts = 8;
constexpr int64_t kKeys = 256;  // that are converted to the working precision at a time

struct Rater {
  int64_t place;  // in `raters`
  int64_t query;
  int64_t keys;  // how many it may see, of those before its own and itself where causal
};

// Neighbours among the keys that are neighbours in `visual`.
struct Run {
  int64_t place, column, count;
};

// A position in [0, limit), or -1 for padding.
int64_t checked_position(const char* name, int64_t position, int64_t limit, int64_t b) {
  if (position < -1 || position >= limit) {
    refuse("rater_scores", name, " must lie in [-1, ", limit, "), got ", position, " in prompt ",
           b);
  }
  return position;
}

// raters [R] of prompt b, without the padding.
std::vector<Rater> raters_of(const RaterArgs& args, const int64_t* raters, int64_t b) {
  std::vector<Rater> result;
  for (int64_t place = 0; place < args.raters; ++place) {
    const int64_t query = checked_position("raters", raters[place], args.queries, b);
    if (query >= 0) {
      const int64_t keys = args.causal ? query + args.keys - args.queries + 1 : args.keys;
      result.push_back({place, query, keys});
    }
  }
  return result;
}

// visual [N] of prompt b, without the padding.
std::vector<Run> runs_of(const RaterArgs& args, const int64_t* visual, int64_t b) {
  std::vector<Run> result;
  for (int64_t place = 0; place < args.columns; ++place) {
    const int64_t column = checked_position("visual", visual[place], args.keys, b);
    if (column < 0) {
      continue;
    }
    if (!result.empty() && result.back().place + result.back().count == place &&
        result.back().column + result.back().count == column) {
      ++result.back().count;
    } else {
      result.push_back({place, column, 1});
    }
  }
  return result;
}

// One prompt's part of the work. T: the working precision.
template <class T>
class Prompt {
 public:
  Prompt(const RaterArgs& args, ScalarType dtype, int64_t b, const float* head_weights,
         std::vector<Rater> raters, std::vector<Run> runs)
      : args_(args),
        dtype_(dtype),
        b_(b),
        head_weights_(head_weights),
        raters_(std::move(raters)),
        runs_(std::move(runs)),
        group_(args.heads / args.key_heads) {}

  // scores [N], attention [R, N], head_mass [H], all of them zeros before.
  void score(Crew& crew, T* scores, T* attention, T* head_mass) const {
    const int64_t all = static_cast<int64_t>(raters_.size()), columns = args_.columns;
    const int64_t most = std::max<int64_t>(1, kRows / group_);
    const int64_t parts = std::min(kParts, args_.key_heads);
    std::vector<T> sums(parts * std::min(most, all) * columns);
    for (int64_t first = 0; first < all; first += most) {
      const int64_t count = std::min(most, all - first);
      std::fill(sums.begin(), sums.end(), T(0));
      crew.phase(static_cast<int>(parts), [&](int part) {
        for (int64_t key_head = part; key_head < args_.key_heads; key_head += parts) {
          add_key_head(key_head, first, count, sums.data() + part * count * columns, head_mass);
        }
      });
      crew.for_each(count, [&](int64_t r) {
        T* row = attention + raters_[first + r].place * columns;
        for (int64_t part = 0; part < parts; ++part) {
          add_scaled(sums.data() + (part * count + r) * columns, columns, T(1), row);
        }
      });
    }
    for (const Rater& rater : raters_) {
      add_scaled(attention + rater.place * columns, columns, 1 / static_cast<T>(all), scores);
    }
  }

 private:
  // Adds what raters first .. first + count pay through the heads of one key head to sums [count, N] and
  // head_mass [H].
  void add_key_head(int64_t key_head, int64_t first, int64_t count, T* sums, T* head_mass) const {
    std::vector<int64_t> heads;
    for (int64_t h = key_head * group_; h < (key_head + 1) * group_; ++h) {
      if (weight(h) != 0) {
        heads.push_back(h);
      }
    }
    int64_t keys = 0;
    for (int64_t r = first; r < first + count; ++r) {
      keys = std::max(keys, raters_[r].keys);
    }
    const int64_t rows = static_cast<int64_t>(heads.size()) * count;
    if (rows == 0 || keys == 0) {
      return;
    }
    std::vector<T> values(rows * keys);
    products(heads, key_head, first, count, keys, values.data());
    T* row = values.data();
    for (const int64_t h : heads) {
      for (int64_t r = 0; r < count; ++r, row += keys) {
        head_mass[h] += add_row(h, raters_[first + r], row, sums + r * args_.columns) /
                        static_cast<T>(raters_.size());
      }
    }
  }

  // values [heads * raters, keys] = scale q k^T.
  void products(const std::vector<int64_t>& heads, int64_t key_head, int64_t first, int64_t count,
                int64_t keys, T* values) const {
    const int64_t d = args_.features, rows = static_cast<int64_t>(heads.size()) * count;
    std::vector<T> queries(rows * d);
    T* query = queries.data();
    for (const int64_t h : heads) {
      for (int64_t r = first; r < first + count; ++r, query += d) {
        read_row(token(args_.q, h, raters_[r].query), dtype_, args_.q.feature_stride, d, query);
      }
    }
    for (T& value : queries) {
      value *= static_cast<T>(args_.scale);
    }
    if (readable()) {
      gemm<T>('T', 'N', keys, rows, d, static_cast<const T*>(token(args_.k, key_head, 0)),
              args_.k.token_stride, queries.data(), d, 0, values, keys);
      return;
    }
    std::vector<T> panel(std::min(kKeys, keys) * d);
    for (int64_t j = 0; j < keys; j += kKeys) {
      const int64_t some = std::min(kKeys, keys - j);
      for (int64_t i = 0; i < some; ++i) {
        read_row(token(args_.k, key_head, j + i), dtype_, args_.k.feature_stride, d,
                 panel.data() + i * d);
      }
      gemm<T>('T', 'N', some, rows, d, panel.data(), d, queries.data(), d, 0, values + j, keys);
    }
  }

  // Adds a rater's attention, weighted, to sum [N], from its row of products with the keys, which it overwrites.
  // Returns how much of it goes to the visual columns.
  T add_row(int64_t head, const Rater& rater, T* row, T* sum) const {
    hide(head, rater, row);
    const T total = exponentials(row, rater.keys);
    const T normaliser = total == 0 ? T(0) : 1 / total;
    const T factor = normaliser * static_cast<T>(weight(head));
    T mass = 0;
    for (const Run& run : runs_) {
      const int64_t count = std::min(run.count, rater.keys - run.column);
      mass += add_scaled(row + run.column, count, factor, sum + run.place);
    }
    return mass * normaliser;
  }

  // -infinity at keys that the mask hides from the rater.
  void hide(int64_t head, const Rater& rater, T* row) const {
    const RaterMask& mask = args_.mask;
    if (!mask.data) {
      return;
    }
    const bool* seen = mask.data + b_ * mask.batch_stride + head * mask.head_stride +
                       rater.query * mask.query_stride;
    for (int64_t j = 0; j < rater.keys; ++j) {
      row[j] = seen[j * mask.key_stride] ? row[j] : -std::numeric_limits<T>::infinity();
    }
  }

  double weight(int64_t head) const {
    return head_weights_ ? head_weights_[head] : 1 / static_cast<double>(args_.heads);
  }

  const void* token(const Heads& of, int64_t head, int64_t token) const {
    const int64_t offset = b_ * of.batch_stride + head * of.head_stride + token * of.token_stride;
    return static_cast<const char*>(of.data) + offset * width_of(dtype_);
  }

  // Whether BLAS can read the keys as they lie.
  bool readable() const {
    return width_of(dtype_) == sizeof(T) && args_.k.feature_stride == 1 &&
           args_.k.token_stride >= args_.features &&
           args_.k.token_stride <= std::numeric_limits<int>::max();
  }

  const RaterArgs& args_;
  const ScalarType dtype_;
  const int64_t b_;
  const float* head_weights_;  // [H], or null
  const std::vector<Rater> raters_;
  const std::vector<Run> runs_;
  const int64_t group_;  // heads that share a key head
};

template <class T>
void score_prompts(const RaterArgs& args, ScalarType dtype, const int64_t* raters,
                   const int64_t* visual, const float* head_weights, T* scores, T* attention,
                   T* head_mass) {
  std::vector<Prompt<T>> prompts;
  for (int64_t b = 0; b < args.prompts; ++b) {
    prompts.emplace_back(args, dtype, b, head_weights ? head_weights + b * args.heads : nullptr,
                         raters_of(args, raters + b * args.raters, b),
                         runs_of(args, visual + b * args.columns, b));
  }
  std::fill_n(scores, args.prompts * args.columns, T(0));
  std::fill_n(attention, args.prompts * args.raters * args.columns, T(0));
  std::fill_n(head_mass, args.prompts * args.heads, T(0));
  for_each_image("rater_scores", args.prompts, true, true, [&](int64_t b, Crew& crew) {
    prompts[b].score(crew, scores + b * args.columns, attention + b * args.raters * args.columns,
                     head_mass + b * args.heads);
  });
}

std::tuple<Tensor, Tensor, Tensor> rater_scores_cpu(const Tensor& q, const Tensor& k,
                                                    const Tensor& raters, const Tensor& visual,
                                                    const std::optional<Tensor>& mask,
                                                    const std::optional<Tensor>& head_weights,
                                                    bool causal, std::optional<double> scale) {
  const char* op = "rater_scores";
  const RaterArgs args =
      checked_rater_args(op, q, k, raters, visual, mask, head_weights, causal, scale);
  const Tensor scores = new_empty(q, {args.prompts, args.columns}, score_dtype(q));
  const Tensor attention = new_empty(q, {args.prompts, args.raters, args.columns}, score_dtype(q));
  const Tensor head_mass = new_empty(q, {args.prompts, args.heads}, score_dtype(q));
  const Tensor rows = torch::stable::contiguous(raters);
  const Tensor columns = torch::stable::contiguous(visual);
  std::optional<Tensor> weights;
  if (head_weights) {
    weights = torch::stable::contiguous(*head_weights);
  }
  const auto run = [&](auto number) {
    using T = decltype(number);
    score_prompts<T>(args, q.scalar_type(), static_cast<const int64_t*>(rows.const_data_ptr()),
                     static_cast<const int64_t*>(columns.const_data_ptr()),
                     weights ? static_cast<const float*>(weights->const_data_ptr()) : nullptr,
                     static_cast<T*>(scores.mutable_data_ptr()),
                     static_cast<T*>(attention.mutable_data_ptr()),
                     static_cast<T*>(head_mass.mutable_data_ptr()));
  };
  score_dtype(q) == ScalarType::Double ? run(double{}) : run(float{});
  return {scores, attention, head_mass};
}

STABLE_TORCH_LIBRARY_IMPL(svdprune, CPU, m) {
  m.impl("rater_scores", TORCH_BOX(&rater_scores_cpu));
}

}  // namespace

}  // namespace svdprune::cpu
