// All checks at the boundary, run once by either backend before any work. A refusal is a
// std::invalid_argument, ValueError in Python: "svdprune::op: argument must be ..., got ...".
#pragma once

#include "image.h"
#include "stable.h"

#include <algorithm>
#include <charconv>
#include <optional>
#include <stdexcept>
#include <string>
#include <type_traits>

namespace svdprune {

// The Gram matrix is indexed with 32-bit integers, and a larger one would not fit a real-time
// budget.
constexpr int64_t kMaxSide = 16384;         // min(N, D)
constexpr int64_t kMaxExtent = 2147483647;  // N, D

inline std::string text_of(const char* part) {
  return part;
}

inline std::string text_of(const std::string& part) {
  return part;
}

// Not by iostreams: libtorch exports pieces of its own copy of them, which do not always go together with the
// system's, and a number written to a stream then ends the process.
template <class Number>
std::string text_of(Number part) {
  if constexpr (std::is_floating_point_v<Number>) {
    char digits[32];  // as few as tell the number from others
    const auto end = std::to_chars(digits, digits + sizeof digits, static_cast<double>(part)).ptr;
    return std::string(digits, end);
  } else {
    return std::to_string(part);
  }
}

template <class... Parts>
[[noreturn]] void refuse(const char* op, const Parts&... parts) {
  std::string message = std::string("svdprune::") + op + ": ";
  ((message += text_of(parts)), ...);
  throw std::invalid_argument(message);
}

inline std::string shape_of(const Tensor& t) {
  std::string shape = "[";
  for (int64_t i = 0; i < t.dim(); ++i) {
    shape += (i ? ", " : "") + std::to_string(t.size(i));
  }
  return shape + "]";
}

// min_dim..max_dim dimensions, the last two being [N, D].
inline void check_features(const char* op, const Tensor& x, int64_t min_dim, int64_t max_dim,
                           const char* shapes) {
  const ScalarType dtype = x.scalar_type();
  if (dtype != ScalarType::Double && dtype != ScalarType::Float && dtype != ScalarType::Half &&
      dtype != ScalarType::BFloat16) {
    refuse(op, "x must be float64, float32, float16 or bfloat16, got ",
           torch::headeronly::toString(dtype));
  }
  if (x.dim() < min_dim || x.dim() > max_dim) {
    refuse(op, "x must be ", shapes, ", got shape ", shape_of(x));
  }
  const int64_t n = x.size(x.dim() - 2);
  const int64_t d = x.size(x.dim() - 1);
  if (n > kMaxExtent || d > kMaxExtent) {
    refuse(op, "x must have N and D below 2^31, got shape ", shape_of(x));
  }
}

inline void check_side(const char* op, int64_t n, int64_t d) {
  if (std::min(n, d) > kMaxSide) {
    refuse(op, "x must have min(N, D) <= ", kMaxSide, ", got N = ", n, ", D = ", d);
  }
}

inline Solver parse_solver(const char* op, const std::string& solver) {
  if (solver == "auto") {
    return Solver::kAuto;
  }
  if (solver == "tridiag") {
    return Solver::kTridiag;
  }
  if (solver == "eigh") {
    return Solver::kEigh;
  }
  if (solver == "purify") {
    return Solver::kPurify;
  }
  refuse(op, "solver must be \"auto\", \"tridiag\", \"eigh\" or \"purify\", got \"", solver, "\"");
}

inline Select parse_select(const char* op, const std::string& select) {
  if (select == "topk") {
    return Select::kTopk;
  }
  if (select == "pivoted") {
    return Select::kPivoted;
  }
  refuse(op, "select must be \"topk\" or \"pivoted\", got \"", select, "\"");
}

// "pivoted" has no rank to find, and no eigenvectors; its Gram matrix is N x N whatever D is.
inline void check_pivoted(const char* op, double variance, std::optional<int64_t> rank,
                          const std::string& solver, int64_t tokens) {
  const char* unused = " for select \"pivoted\", which needs no leading directions, got ";
  if (variance != Options{}.variance) {
    refuse(op, "variance must be left out", unused, variance);
  }
  if (rank) {
    refuse(op, "rank must be left out", unused, *rank);
  }
  if (solver != "auto") {
    refuse(op, "solver must be \"auto\"", unused, "\"", solver, "\"");
  }
  if (tokens > kMaxSide) {
    refuse(op, "x must have N <= ", kMaxSide, " for select \"pivoted\", got N = ", tokens);
  }
}

// All that concerns select.
inline Select check_select(const char* op, const std::string& select, double variance,
                           std::optional<int64_t> rank, const std::string& solver, int64_t tokens) {
  const Select rule = parse_select(op, select);
  if (rule == Select::kPivoted) {
    check_pivoted(op, variance, rank, solver, tokens);
  }
  return rule;
}

// rank_limit: min(N, D), or for packed images, whose own limit clips it, D.
inline Options check_options(const char* op, double variance, std::optional<int64_t> rank,
                             bool center, const std::string& solver, int64_t rank_limit,
                             const char* limit_name) {
  if (!(variance > 0 && variance <= 1)) {
    refuse(op, "variance must be in (0, 1], got ", variance);
  }
  if (rank && (*rank < 1 || *rank > rank_limit)) {
    refuse(op, "rank must be in [1, ", limit_name, "] = [1, ", rank_limit, "], got ", *rank);
  }
  return Options{variance, rank, center, parse_solver(op, solver)};
}

inline void check_keep(const char* op, const char* name, int64_t keep, int64_t n) {
  if (keep < 0 || keep > n) {
    refuse(op, name, " must be in [0, N] = [0, ", n, "], got ", keep);
  }
}

inline void check_coverage(const char* op, double coverage) {
  if (!(coverage > 0 && coverage <= 1)) {
    refuse(op, "coverage must be in (0, 1], got ", coverage);
  }
}

inline std::string device_of(const Tensor& t) {
  return t.is_cpu() ? "the CPU" : "cuda:" + std::to_string(t.get_device_index());
}

inline void check_device(const char* op, const char* name, const Tensor& t, const char* of,
                         const Tensor& other) {
  if (t.is_cpu() != other.is_cpu() || t.get_device_index() != other.get_device_index()) {
    refuse(op, name, " must be on the device of ", of, ", ", device_of(other), ", got ",
           device_of(t));
  }
}

// [B + 1] integers on x's device; the values are read by the backend.
inline void check_offsets_tensor(const char* op, const char* name, const Tensor& offsets,
                                 const Tensor& x) {
  const ScalarType dtype = offsets.scalar_type();
  if (dtype != ScalarType::Int && dtype != ScalarType::Long) {
    refuse(op, name, " must be int32 or int64, got ", torch::headeronly::toString(dtype));
  }
  if (offsets.dim() != 1 || offsets.size(0) < 1) {
    refuse(op, name, " must be [B + 1], got shape ", shape_of(offsets));
  }
  check_device(op, name, offsets, "x", x);
}

// Packed images, as far as shapes tell.
inline void check_packed(const char* op, const Tensor& x, const Tensor& cu_seqlens,
                         const Tensor& cu_keep, int64_t total_keep, int64_t max_seqlen) {
  check_features(op, x, 2, 2, "packed [T, D]");
  check_offsets_tensor(op, "cu_seqlens", cu_seqlens, x);
  check_offsets_tensor(op, "cu_keep", cu_keep, x);
  if (cu_keep.size(0) != cu_seqlens.size(0)) {
    refuse(op, "cu_keep must have cu_seqlens' length ", cu_seqlens.size(0), ", got ",
           cu_keep.size(0));
  }
  if (total_keep < 0 || total_keep > x.size(0)) {
    refuse(op, "total_keep must be in [0, T] = [0, ", x.size(0), "], got ", total_keep);
  }
  if (max_seqlen < 0) {
    refuse(op, "max_seqlen must be >= 0, got ", max_seqlen);
  }
  check_side(op, max_seqlen, x.size(1));
}

// The values of cu_seqlens [B + 1] and cu_keep [B + 1], once they are at hand on the host.
inline void check_offsets(const char* op, const int64_t* cu_seqlens, const int64_t* cu_keep,
                          int64_t images, int64_t tokens, int64_t total_keep, int64_t max_seqlen) {
  if (cu_seqlens[0] != 0 || cu_seqlens[images] != tokens) {
    refuse(op, "cu_seqlens must run from 0 to the ", tokens, " rows of x, got ", cu_seqlens[0],
           " to ", cu_seqlens[images]);
  }
  if (cu_keep[0] != 0 || cu_keep[images] != total_keep) {
    refuse(op, "cu_keep must run from 0 to total_keep = ", total_keep, ", got ", cu_keep[0], " to ",
           cu_keep[images]);
  }
  for (int64_t b = 0; b < images; ++b) {  // so that no difference overflows
    if (cu_seqlens[b] < 0 || cu_seqlens[b] > tokens) {
      refuse(op, "cu_seqlens must lie in [0, ", tokens, "], got ", cu_seqlens[b], " at place ", b);
    }
    if (cu_keep[b] < 0 || cu_keep[b] > total_keep) {
      refuse(op, "cu_keep must lie in [0, ", total_keep, "], got ", cu_keep[b], " at place ", b);
    }
  }
  for (int64_t b = 0; b < images; ++b) {
    const int64_t length = cu_seqlens[b + 1] - cu_seqlens[b];
    const int64_t keep = cu_keep[b + 1] - cu_keep[b];
    if (length < 0 || length > max_seqlen) {
      refuse(op, "cu_seqlens must rise by 0 to max_seqlen = ", max_seqlen, " an image, got ",
             length, " for image ", b);
    }
    if (keep < 0 || keep > length) {
      refuse(op, "cu_keep must rise by 0 to the image's length = ", length, ", got ", keep,
             " for image ", b);
    }
  }
}

}  // namespace svdprune
