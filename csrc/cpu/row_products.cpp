// Note [columns together]
// A column costs N D multiply-adds, and waits for X to come from a cache that is far: X is read once for kTogether
// columns at the same price. Those of the tokens of which most is left now are wanted soon: on photograph-like and
// flat features of 576 tokens, 32 picks read X 9 to 13 times in place of 32, for 36 to 52 columns. What is there of a
// column never depends on its company, so neither does any result.

#include "row_products.h"

#include "clones.h"
#include "gram.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <numeric>

namespace svdprune::cpu {

namespace {

constexpr int64_t kTogether = 4;
constexpr int64_t kRowsTogether = 3;  // 3 x 4 sums, 3 rows and a column: 16 registers
constexpr int64_t kLanes = 8;
constexpr int64_t kFlush = 256;      // features whose products are summed in float32
constexpr int64_t kRowsAnItem = 32;  // of a crew's phase

using Vector [[gnu::vector_size(kLanes * sizeof(float))]] = float;
using Wide [[gnu::vector_size(kLanes * sizeof(double))]] = double;

// products [kRows, kColumns]: of rows, `stride` apart, with those in the panel [features / 8, kColumns, 8], behind
// which follow their last features % 8 features, [kColumns, features % 8].
template <int64_t kRows, int64_t kColumns>
[[gnu::always_inline]] inline void multiply(const float* rows, int64_t stride, const float* panel,
                                            int64_t features, double (*products)[kColumns]) {
  Wide total[kRows][kColumns] = {};
  const int64_t whole = features / kLanes * kLanes;
  for (int64_t begin = 0; begin < whole; begin += kFlush) {
    const int64_t end = std::min(whole, begin + kFlush);
    Vector sum[kRows][kColumns] = {};
    for (int64_t j = begin; j < end; j += kLanes) {
      Vector own[kRows];
#pragma GCC unroll 4
      for (int64_t r = 0; r < kRows; ++r) {
        std::memcpy(&own[r], rows + r * stride + j, sizeof(Vector));
      }
#pragma GCC unroll 8
      for (int64_t c = 0; c < kColumns; ++c) {
        Vector other;
        std::memcpy(&other, panel + j * kColumns + c * kLanes, sizeof(Vector));
#pragma GCC unroll 4
        for (int64_t r = 0; r < kRows; ++r) {
          sum[r][c] += own[r] * other;
        }
      }
    }
#pragma GCC unroll 4
    for (int64_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
      for (int64_t c = 0; c < kColumns; ++c) {
        total[r][c] += __builtin_convertvector(sum[r][c], Wide);
      }
    }
  }
  for (int64_t r = 0; r < kRows; ++r) {
    for (int64_t c = 0; c < kColumns; ++c) {
      double product = 0;
      for (int64_t lane = 0; lane < kLanes; ++lane) {
        product += total[r][c][lane];
      }
      for (int64_t j = whole; j < features; ++j) {
        const float other = panel[whole * kColumns + c * (features - whole) + j - whole];
        product += static_cast<double>(rows[r * stride + j]) * other;
      }
      products[r][c] = product;
    }
  }
}

// products [kTogether][count]: of `count` rows with those of a panel.
SVDPRUNE_CLONES void multiply_by_panel(const float* rows, int64_t stride, int64_t count,
                                       int64_t features, const float* panel,
                                       double* const* products) {
  double block[kRowsTogether][kTogether];
  const auto store = [&](int64_t first, int64_t some) {
    for (int64_t r = 0; r < some; ++r) {
      for (int64_t c = 0; c < kTogether; ++c) {
        products[c][first + r] = block[r][c];
      }
    }
  };
  int64_t i = 0;
  for (; i + kRowsTogether <= count; i += kRowsTogether) {
    multiply<kRowsTogether, kTogether>(rows + i * stride, stride, panel, features, block);
    store(i, kRowsTogether);
  }
  for (; i < count; ++i) {
    multiply<1, kTogether>(rows + i * stride, stride, panel, features, block);
    store(i, 1);
  }
}

// squares [count]: of each row with itself.
SVDPRUNE_CLONES void square_rows(const float* rows, int64_t stride, int64_t count, int64_t features,
                                 double* squares) {
  for (int64_t i = 0; i < count; ++i) {
    const float* row = rows + i * stride;
    double product[1][1];
    multiply<1, 1>(row, stride, row, features, product);  // a row is its own panel
    squares[i] = product[0][0];
  }
}

// Calls work(first, count) for runs of rows, on any of the crew's threads.
template <class F>
void for_each_run(Crew& crew, int64_t rows, const F& work) {
  crew.for_each((rows + kRowsAnItem - 1) / kRowsAnItem, [&](int64_t item) {
    const int64_t first = item * kRowsAnItem;
    work(first, std::min(kRowsAnItem, rows - first));
  });
}

}  // namespace

RowProducts::RowProducts(Crew& crew, const Image& image, Transform transform)
    : crew_(crew),
      tokens_(image.tokens),
      features_(image.features),
      squares_(image.tokens),
      made_(image.tokens) {
  read(image, transform);
  const double trace = std::accumulate(squares_.begin(), squares_.end(), 0.0);
  transform.scale = scale_for_squares<float>(image, transform, trace);
  if (transform.scale != 1) {
    read(image, transform);
  }
}

// Sets the rows and their squares.
void RowProducts::read(const Image& image, const Transform& transform) {
  rows_ = direct<float>(image, transform);
  stride_ = image.token_stride;
  if (!rows_) {
    packed_.resize(tokens_ * features_);
    rows_ = packed_.data();
    stride_ = features_;
  }
  for_each_run(crew_, tokens_, [&](int64_t first, int64_t count) {
    if (rows_ == packed_.data()) {
      pack(image, transform, first, count, 0, features_, packed_.data() + first * features_,
           features_);
    }
    square_rows(row(first), stride_, count, features_, squares_.data() + first);
  });
}

void RowProducts::column(int64_t token, const double* worth, double* products) {
  if (made_[token].empty()) {
    make(token, worth);
  }
  std::copy(made_[token].begin(), made_[token].end(), products);
}

void RowProducts::make(int64_t token, const double* worth) {
  std::array<int64_t, kTogether> chosen;
  chosen.fill(token);  // as often as there are too few others
  for (int64_t i = 0; i < tokens_; ++i) {
    if (i == token || !made_[i].empty() || worth[i] <= 0) {
      continue;
    }
    const auto worth_less = [&](int64_t other) {
      return other == token || worth[other] < worth[i];
    };
    if (worth_less(chosen.back())) {
      const auto place = std::find_if(chosen.begin() + 1, chosen.end(), worth_less);
      std::copy_backward(place, chosen.end() - 1, chosen.end());
      *place = i;
    }
  }
  const int64_t whole = features_ / kLanes * kLanes;
  std::vector<float> panel(features_ * kTogether);
  std::array<double*, kTogether> products;
  for (int64_t c = 0; c < kTogether; ++c) {
    made_[chosen[c]].resize(tokens_);
    products[c] = made_[chosen[c]].data();
    const float* other = row(chosen[c]);
    for (int64_t j = 0; j < whole; j += kLanes) {
      std::copy_n(other + j, kLanes, panel.data() + j * kTogether + c * kLanes);
    }
    const int64_t rest = features_ - whole;
    std::copy_n(other + whole, rest, panel.data() + whole * kTogether + c * rest);
  }
  for_each_run(crew_, tokens_, [&](int64_t first, int64_t count) {
    std::array<double*, kTogether> at;
    std::transform(products.begin(), products.end(), at.begin(),
                   [&](double* column) { return column + first; });
    multiply_by_panel(row(first), stride_, count, features_, panel.data(), at.data());
  });
}

}  // namespace svdprune::cpu
