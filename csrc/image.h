// One image's vision tokens, and the options of the method: what the CPU stages work on.
// Framework-free but for torch's header-only number types.
#pragma once

#include <torch/headeronly/core/ScalarType.h>

#include <cstdint>
#include <optional>
#include <string>

namespace svdprune {

using torch::headeronly::ScalarType;

struct Image {
  const void* data;  // [tokens, features]
  ScalarType dtype;
  int64_t tokens;          // N
  int64_t features;        // D
  int64_t token_stride;    // in elements
  int64_t feature_stride;  // in elements
};

// Bytes of one number.
inline int64_t width_of(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Double:
      return 8;
    case ScalarType::Float:
      return 4;
    default:
      return 2;
  }
}

enum class Solver { kAuto, kEigh, kTridiag, kPurify };

// The rule of the select stage: highest leverage, or greedily with deflation.
enum class Select { kTopk, kPivoted };

struct Options {
  double variance = 0.9;
  std::optional<int64_t> rank;  // overrides variance
  bool center = false;
  Solver solver = Solver::kAuto;
};

}  // namespace svdprune
