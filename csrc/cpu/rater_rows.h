// Rows of softmax(scale q k^T) of one prompt: the raters', and of those the visual columns.
//
// Note [rows of raters]
// All heads that share a key head, and all raters, are rows of one matrix product with its keys, so keys are
// read once. The rows pass over the keys kKeys at a time: a block of products becomes exponentials over the block's own
// largest product, the sum of these is kept, and of the exponentials the visual columns. What the blocks are to each
// other is known at the end, when a row is normalised. No row is ever held over all keys.
#pragma once

#include "blas.h"
#include "softmax.h"
#include "vector.h"

#include "../rater_args.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace svdprune::cpu {

struct Rater {
  int64_t place;  // in `raters`
  int64_t query;
  int64_t keys;  // how many it may see, of those before its own and itself where causal
};

// A position in [0, limit), or -1 for padding.
inline int64_t checked_position(const char* op, const char* name, int64_t position, int64_t limit,
                                int64_t b) {
  if (position < -1 || position >= limit) {
    refuse(op, name, " must lie in [-1, ", limit, "), got ", position, " in prompt ", b);
  }
  return position;
}

// raters [R] of prompt b, without the padding.
inline std::vector<Rater> raters_of(const char* op, const RaterArgs& args, const int64_t* raters,
                                    int64_t b) {
  std::vector<Rater> result;
  for (int64_t place = 0; place < args.raters; ++place) {
    const int64_t query = checked_position(op, "raters", raters[place], args.queries, b);
    if (query >= 0) {
      const int64_t keys = args.causal ? query + args.keys - args.queries + 1 : args.keys;
      result.push_back({place, query, keys});
    }
  }
  return result;
}

// T: the working precision.
template <class T>
class RaterRows {
 public:
  static constexpr int64_t kKeys = 256;  // of a block

  // raters [R], visual [N].
  RaterRows(const char* op, const RaterArgs& args, ScalarType dtype, int64_t b,
            const int64_t* raters, const int64_t* visual)
      : args_(args), dtype_(dtype), b_(b), raters_(raters_of(op, args, raters, b)) {
    runs_.resize((args.keys + kKeys - 1) / kKeys);
    for (int64_t place = 0; place < args.columns; ++place) {
      const int64_t column = checked_position(op, "visual", visual[place], args.keys, b);
      if (column >= 0) {
        add_to_runs(place, column);
      }
    }
  }

  // Those that are no padding.
  const std::vector<Rater>& raters() const {
    return raters_;
  }

  // Calls take(head, r, row) for each of the heads, which share a key head, and the `count` raters from `first` on,
  // counted from there: row [N] is the rater's attention to the visual columns, 0 at padding.
  template <class Take>
  void attention(int64_t key_head, const std::vector<int64_t>& heads, int64_t first, int64_t count,
                 const Take& take) const {
    const int64_t rows = static_cast<int64_t>(heads.size()) * count, columns = args_.columns;
    int64_t keys = 0;
    for (int64_t r = first; r < first + count; ++r) {
      keys = std::max(keys, raters_[r].keys);
    }
    const std::vector<T> queries = scaled_queries(heads, first, count);
    const int64_t blocks = (keys + kKeys - 1) / kKeys;
    std::vector<T> panel, products(rows * std::min(kKeys, keys)), paid(rows * columns);
    std::vector<SoftmaxPart<T>> parts(rows * blocks);
    for (int64_t block = 0; block < blocks; ++block) {
      const int64_t j = block * kKeys, some = std::min(kKeys, keys - j);
      multiply(queries, rows, key_head, j, some, panel, products.data());
      for (int64_t i = 0; i < rows; ++i) {
        parts[i * blocks + block] = weigh(heads[i / count], raters_[first + i % count], block, some,
                                          products.data() + i * some, paid.data() + i * columns);
      }
    }
    for (int64_t i = 0; i < rows; ++i) {
      const int64_t r = i % count;
      T* row = paid.data() + i * columns;
      normalise(parts.data() + i * blocks, blocks, raters_[first + r], row);
      take(heads[i / count], r, static_cast<const T*>(row));
    }
  }

 private:
  // Neighbours among the keys of a block that are neighbours in `visual`.
  struct Run {
    int64_t place, column, count;
  };

  void add_to_runs(int64_t place, int64_t column) {
    std::vector<Run>& runs = runs_[column / kKeys];
    if (!runs.empty() && runs.back().place + runs.back().count == place &&
        runs.back().column + runs.back().count == column) {
      ++runs.back().count;
    } else {
      runs.push_back({place, column, 1});
    }
  }

  // [heads * raters, d]
  std::vector<T> scaled_queries(const std::vector<int64_t>& heads, int64_t first,
                                int64_t count) const {
    const int64_t d = args_.features;
    std::vector<T> queries(static_cast<int64_t>(heads.size()) * count * d);
    T* query = queries.data();
    for (const int64_t h : heads) {
      for (int64_t r = first; r < first + count; ++r, query += d) {
        read_row(token(args_.q, h, raters_[r].query), dtype_, args_.q.feature_stride, d, query);
      }
    }
    scale(static_cast<T>(args_.scale), static_cast<int64_t>(queries.size()), queries.data());
    return queries;
  }

  // products [rows, some] of the queries with keys j .. j + some; panel: room for a copy of these.
  void multiply(const std::vector<T>& queries, int64_t rows, int64_t key_head, int64_t j,
                int64_t some, std::vector<T>& panel, T* products) const {
    const int64_t d = args_.features;
    const T* keys = static_cast<const T*>(token(args_.k, key_head, j));
    int64_t stride = args_.k.token_stride;
    if (!readable()) {
      panel.resize(kKeys * d);
      for (int64_t i = 0; i < some; ++i) {
        read_row(token(args_.k, key_head, j + i), dtype_, args_.k.feature_stride, d,
                 panel.data() + i * d);
      }
      keys = panel.data();
      stride = d;
    }
    gemm<T>('T', 'N', some, rows, d, keys, stride, queries.data(), d, 0, products, some);
  }

  // Products [some] of a rater with a block of keys become exponentials over the largest of them; those of the visual
  // columns go to their places in row [N].
  SoftmaxPart<T> weigh(int64_t head, const Rater& rater, int64_t block, int64_t some, T* products,
                       T* row) const {
    const int64_t j = block * kKeys, seen = std::clamp(rater.keys - j, int64_t{0}, some);
    hide(head, rater, j, seen, products);
    const SoftmaxPart<T> part = exponentials(products, seen);
    for (const Run& run : runs_[block]) {
      const int64_t visible = std::min(run.count, j + seen - run.column);
      std::copy_n(products + run.column - j, std::max(visible, int64_t{0}), row + run.place);
    }
    return part;
  }

  // -infinity at those of keys j .. j + seen that the mask hides from the rater; row [seen].
  void hide(int64_t head, const Rater& rater, int64_t j, int64_t seen, T* row) const {
    const RaterMask& mask = args_.mask;
    if (!mask.data) {
      return;
    }
    const bool* shown = mask.data + b_ * mask.batch_stride + head * mask.head_stride +
                        rater.query * mask.query_stride + j * mask.key_stride;
    for (int64_t i = 0; i < seen; ++i) {
      row[i] = shown[i * mask.key_stride] ? row[i] : -std::numeric_limits<T>::infinity();
    }
  }

  // row [N]: from exponentials over each block's largest product to shares of them all.
  void normalise(const SoftmaxPart<T>* parts, int64_t blocks, const Rater& rater, T* row) const {
    T largest = -std::numeric_limits<T>::infinity();
    for (int64_t block = 0; block < blocks; ++block) {
      largest = std::max(largest, parts[block].largest);
    }
    const T base = largest == -std::numeric_limits<T>::infinity() ? 0 : largest;
    T total = 0;
    for (int64_t block = 0; block < blocks; ++block) {
      total += parts[block].sum * std::exp(parts[block].largest - base);
    }
    for (int64_t block = 0; block < blocks; ++block) {
      const T factor = total == 0 ? 0 : std::exp(parts[block].largest - base) / total;
      for (const Run& run : runs_[block]) {
        scale(factor, std::min(run.count, rater.keys - run.column), row + run.place);
      }
    }
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
  const std::vector<Rater> raters_;
  std::vector<std::vector<Run>> runs_;  // of each block of keys
};

}  // namespace svdprune::cpu
