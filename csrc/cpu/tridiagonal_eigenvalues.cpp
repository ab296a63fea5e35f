// Note [Sturm]
// p_i(x) = det(T_i - x I), T_i the leading i x i block, follows p_i+1 = (d_i - x) p_i - c_i-1^2 p_i-1, and the sign
// changes in p_0, p_1, ..., p_n count the eigenvalues below x (Givens 1954). Carried without divisions a step
// is one fused multiply-add deep; numbers of the order of 1 are kept by powers of two. The count tells
// which eigenvalue lies where; once a bracket holds a single one, the value p_n at its ends leads
// to it faster than halving (false position with the Illinois rule, Dowell and Jarratt 1971).

#include "tridiagonal_eigenvalues.h"

#include "clones.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

namespace svdprune::cpu {

namespace {

constexpr int64_t kPoints = 16;  // evaluated together, one a lane of kPoints / kLanes vectors
constexpr int64_t kLanes = 4;
using Lanes [[gnu::vector_size(kLanes * sizeof(double))]] = double;
using Bits [[gnu::vector_size(kLanes * sizeof(uint64_t))]] = uint64_t;
constexpr int64_t kParts = 12;             // of the eigenvalues, that threads take
constexpr int64_t kRescale = 8;            // rows between rescalings: p shrinks by 2^-480 at most
constexpr double kLeastSquare = 0x1p-120;  // stands for a coupling of zero, in units of the matrix
constexpr double kWidth = 1e-15;           // of a final bracket, likewise
constexpr int kFreeSteps = 12;  // of false position; from then on every other step halves

// T scaled by a power of two such that its eigenvalues lie in [-1, 1], and filled up to whole rescalings with
// rows that stand alone, their eigenvalue 2.
struct Scaled {
  double scale;
  std::vector<double> diagonal, square;  // square[i] = c_i-1^2
};

// p_n = mantissa 2^exponent at a point, and how many eigenvalues lie below it.
struct Value {
  double mantissa;
  int64_t exponent, count;
};

Scaled scaled(const std::vector<double>& diagonal, const std::vector<double>& coupling) {
  const size_t n = diagonal.size();
  double bound = 0;
  for (size_t i = 0; i < n; ++i) {
    const double before = i > 0 ? std::fabs(coupling[i - 1]) : 0;
    const double after = i + 1 < n ? std::fabs(coupling[i]) : 0;
    bound = std::max(bound, std::fabs(diagonal[i]) + before + after);
  }
  int exponent = 0;
  std::frexp(bound, &exponent);
  const size_t padded = (n + kRescale - 1) / kRescale * kRescale;
  Scaled t{std::ldexp(1.0, exponent), std::vector<double>(padded, 2),
           std::vector<double>(padded, 0)};
  for (size_t i = 0; i < n; ++i) {
    t.diagonal[i] = diagonal[i] / t.scale;
    if (i > 0) {
      t.square[i] = std::max(std::pow(coupling[i - 1] / t.scale, 2), kLeastSquare);
    }
  }
  return t;
}

// values[lane] at x[lane] of a matrix of n rows, a multiple of kRescale; without the count unless kCount.
template <bool kCount>
[[gnu::always_inline]] inline void evaluate_body(int64_t n, const double* diagonal,
                                                 const double* square, const double* x,
                                                 Value* values) {
  constexpr int kVectors = kPoints / kLanes;
  Lanes point[kVectors], p[kVectors], before[kVectors] = {};
  Bits exponents[kVectors] = {}, changes[kVectors] = {};
  std::memcpy(point, x, sizeof(point));
  for (Lanes& one : p) {
    one = Lanes{} + 1;
  }
  for (int64_t begin = 0; begin < n; begin += kRescale) {
#pragma GCC unroll 8
    for (int64_t i = begin; i < begin + kRescale; ++i) {
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        const Lanes next = (diagonal[i] - point[v]) * p[v] - square[i] * before[v];
        if constexpr (kCount) {
          changes[v] += ((Bits)next ^ (Bits)p[v]) >> 63;
        }
        before[v] = p[v];
        p[v] = next;
      }
    }
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      const Bits size = (Bits)p[v] << 1, other = (Bits)before[v] << 1;
      const Bits exponent = (size > other ? size : other) >> 53;  // biased
      const Lanes factor = (Lanes)((2046 - exponent) << 52);
      p[v] *= factor;
      before[v] *= factor;
      exponents[v] += exponent - 1023;
    }
  }
  for (int64_t lane = 0; lane < kPoints; ++lane) {
    values[lane] = {p[lane / kLanes][lane % kLanes],
                    static_cast<int64_t>(exponents[lane / kLanes][lane % kLanes]),
                    static_cast<int64_t>(changes[lane / kLanes][lane % kLanes])};
  }
}

SVDPRUNE_CLONES void evaluate(int64_t n, const double* diagonal, const double* square,
                              const double* x, Value* values) {
  evaluate_body<true>(n, diagonal, square, x, values);
}

SVDPRUNE_CLONES void evaluate_uncounted(int64_t n, const double* diagonal, const double* square,
                                        const double* x, Value* values) {
  evaluate_body<false>(n, diagonal, square, x, values);
}

// An interval that holds eigenvalue `index` (ascending, from 0), on its way to a point.
struct Bracket {
  double low, high;
  Value at_low, at_high;
  int64_t index;
  int steps = 0;
  int last_side = 0;

  bool single() const {
    return at_low.count == index && at_high.count == index + 1;
  }

  bool done() const {
    return high - low <= kWidth;
  }

  // The next point to look at: well inside, so that a root next to an end is closed in at once.
  double point() {
    ++steps;
    const double middle = low + (high - low) / 2;
    if (!single() || (steps > kFreeSteps && steps % 2 == 0)) {
      return middle;
    }
    const int64_t exponent = std::clamp<int64_t>(at_high.exponent - at_low.exponent, -900, 900);
    const double power = std::bit_cast<double>(static_cast<uint64_t>(1023 + exponent) << 52);
    const double ratio = at_high.mantissa / at_low.mantissa * power;
    const double x = low + (high - low) / (1 - ratio);
    return ratio < 0 ? std::clamp(x, low + kWidth / 2, high - kWidth / 2) : middle;
  }

  void narrow(double x, const Value& value) {
    const int side = value.count <= index ? -1 : 1;
    (side < 0 ? low : high) = x;
    (side < 0 ? at_low : at_high) = value;
    if (side == last_side) {
      --(side < 0 ? at_high : at_low).exponent;
    }
    last_side = side;
  }
};

// Takes each bracket that is `open` on, a point after the other, until it is not. A lane that has one done goes on with
// the next, so that nobody waits for the slowest.
template <bool kCount, class Open>
void narrow_all(const Scaled& t, Bracket* brackets, int64_t count, const Open& open) {
  Bracket* lanes[kPoints] = {};
  double x[kPoints] = {};
  Value values[kPoints];
  int64_t next = 0;
  while (true) {
    for (int64_t lane = 0; lane < kPoints; ++lane) {
      if (lanes[lane] && !open(*lanes[lane])) {
        lanes[lane] = nullptr;
      }
      while (!lanes[lane] && next < count) {
        Bracket& bracket = brackets[next++];
        lanes[lane] = open(bracket) ? &bracket : nullptr;
      }
      x[lane] = lanes[lane] ? lanes[lane]->point() : 0;
    }
    if (std::all_of(lanes, lanes + kPoints, [](const Bracket* b) { return !b; })) {
      return;
    }
    (kCount ? evaluate : evaluate_uncounted)(t.diagonal.size(), t.diagonal.data(), t.square.data(),
                                             x, values);
    for (int64_t lane = 0; lane < kPoints; ++lane) {
      Bracket* bracket = lanes[lane];
      if (!bracket) {
        continue;
      }
      if (!kCount) {
        // Between two neighbouring eigenvalues the sign of p_n says as much as the count.
        const bool below =
            std::signbit(values[lane].mantissa) == std::signbit(bracket->at_low.mantissa);
        values[lane].count = bracket->index + (below ? 0 : 1);
      }
      bracket->narrow(x[lane], values[lane]);
    }
  }
}

// Brings brackets to their ends: first until they hold a single eigenvalue, or can be no narrower.
void converge(const Scaled& t, Bracket* brackets, int64_t count) {
  narrow_all<true>(t, brackets, count, [](const Bracket& b) { return !b.done() && !b.single(); });
  narrow_all<false>(t, brackets, count, [](const Bracket& b) { return !b.done(); });
}

}  // namespace

std::vector<double> tridiagonal_eigenvalues(Crew& crew, const std::vector<double>& diagonal,
                                            const std::vector<double>& coupling) {
  const Scaled t = scaled(diagonal, coupling);
  const int64_t n = diagonal.size();
  // A grid first, which all brackets start from: about one point an eigenvalue.
  const int64_t points = (n + 2 + kPoints - 1) / kPoints * kPoints;
  std::vector<double> grid(points);
  std::vector<Value> at_grid(points);
  for (int64_t i = 0; i < points; ++i) {
    grid[i] = -1 + 2 * static_cast<double>(i) / static_cast<double>(points - 1);
  }
  crew.for_each(points / kPoints, [&](int64_t group) {
    const int64_t first = group * kPoints;
    evaluate(t.diagonal.size(), t.diagonal.data(), t.square.data(), grid.data() + first,
             at_grid.data() + first);
  });

  std::vector<double> eigenvalues(n);
  const int64_t own = std::max(kPoints, (n + kParts - 1) / kParts);
  crew.for_each((n + own - 1) / own, [&](int64_t part) {
    const int64_t first = part * own, count = std::min(own, n - first);
    std::vector<Bracket> brackets;
    for (int64_t index = first; index < first + count; ++index) {
      const auto above = std::partition_point(at_grid.begin() + 1, at_grid.end() - 1,
                                              [=](const Value& v) { return v.count <= index; });
      const int64_t high = above - at_grid.begin();
      brackets.push_back({grid[high - 1], grid[high], at_grid[high - 1], at_grid[high], index});
    }
    converge(t, brackets.data(), count);
    for (int64_t i = 0; i < count; ++i) {
      eigenvalues[n - 1 - first - i] = t.scale * ((brackets[i].low + brackets[i].high) / 2);
    }
  });
  std::sort(eigenvalues.begin(), eigenvalues.end(), std::greater<>());
  return eigenvalues;
}

}  // namespace svdprune::cpu
