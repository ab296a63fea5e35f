// Calls the operator from C++, without Python: loads the library, prunes one image of 576 tokens by
// 1024 features, and prints which tokens were kept.
//
//   prune_image path/to/_C.so [keep [topk|pivoted]]
//
// Needs torch's stable headers to build, and libtorch_cpu to run.
#include <dlfcn.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <array>
#include <charconv>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#ifndef STABLE_TORCH_ERROR_CODE_CHECK  // from torch 2.13 on, it passes on what the operator says
#define STABLE_TORCH_ERROR_CODE_CHECK TORCH_ERROR_CODE_CHECK
#endif

namespace {

using torch::stable::Tensor;
using torch::stable::detail::from;
using torch::stable::detail::to;

constexpr int64_t kTokens = 576, kFeatures = 1024;

struct Pruned {
  Tensor tokens;   // [keep, D]
  Tensor indices;  // [keep], int64, ascending
  Tensor scores;   // [N]
  Tensor rank;     // [], int32
};

// svdprune::prune(Tensor x, SymInt keep, *, float variance, SymInt? rank, bool center, str solver,
// str select) -> (Tensor, Tensor, Tensor, Tensor). All arguments, in the schema's order; the
// results take their place.
Pruned prune(const Tensor& x, int64_t keep, const std::string& select) {
  std::array<StableIValue, 7> stack{from(x),
                                    from(keep),
                                    from(/*variance=*/0.9),
                                    from(/*rank=*/std::optional<int64_t>()),
                                    from(/*center=*/false),
                                    from(std::string("auto")),
                                    from(select)};
  STABLE_TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher("svdprune::prune", "", stack.data(), TORCH_ABI_VERSION));
  return {to<Tensor>(stack[0]), to<Tensor>(stack[1]), to<Tensor>(stack[2]), to<Tensor>(stack[3])};
}

// Noise that anyone can compute again to the bit, with a spectrum that falls.
std::vector<float> features() {
  std::vector<float> values(kTokens * kFeatures);
  for (uint32_t i = 0; i < values.size(); ++i) {
    uint32_t hash = i * 2654435761u;
    hash = (hash ^ (hash >> 15)) * 2246822519u;
    values[i] = (static_cast<float>(hash >> 8) / 16777216.0f - 0.5f) / (1 + i % kFeatures);
  }
  return values;
}

// A whole number of 1 or more; 0 for any other text.
int64_t positive(std::string_view text) {
  int64_t value = 0;
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, value);
  return error == std::errc() && rest == end && value > 0 ? value : 0;
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc < 2) {
    std::fprintf(stderr, "usage: prune_image path/to/_C.so [keep [topk|pivoted]]\n");
    return 2;
  }
  const int64_t keep = argc > 2 ? positive(argv[2]) : 32;
  if (keep == 0) {
    std::fprintf(stderr, "prune_image: keep must be a number of at least 1, got %s\n", argv[2]);
    return 2;
  }
  if (!dlopen(argv[1], RTLD_NOW)) {  // registers the operators with torch
    std::fprintf(stderr, "prune_image: %s\n", dlerror());
    return 2;
  }
  std::vector<float> values = features();
  const std::array<int64_t, 2> sizes{kTokens, kFeatures}, strides{kFeatures, 1};
  const Tensor x =
      torch::stable::from_blob(values.data(), {sizes.data(), 2}, {strides.data(), 2},
                               torch::stable::Device(torch::headeronly::DeviceType::CPU),
                               torch::headeronly::ScalarType::Float);
  const Pruned pruned = prune(x, keep, argc > 3 ? argv[3] : "topk");

  std::printf("rank %d\nkept", *static_cast<const int32_t*>(pruned.rank.data_ptr()));
  const auto* indices = static_cast<const int64_t*>(pruned.indices.data_ptr());
  for (int64_t i = 0; i < pruned.indices.numel(); ++i) {
    std::printf(" %lld", static_cast<long long>(indices[i]));
  }
  std::printf("\n");
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "prune_image: %s\n", error.what());
  return 1;
}
