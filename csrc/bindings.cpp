// The pybind11 module _native: facts of the build, and CPU stages for unit tests on NumPy arrays.
// Nothing on the way of the ops passes through here.

#include "bindings.h"

#include "cpu/for_each_image.h"
#include "cpu/gather.h"
#include "cpu/gram.h"
#include "cpu/interleave.h"
#include "cpu/leverage.h"
#include "cpu/pivot.h"
#include "cpu/rank_k.h"
#include "cpu/refine.h"
#include "cpu/select.h"
#include "cpu/spectrum.h"
#include "cpu/symmetric_product.h"
#include "cpu/whiten.h"

#include "build_info.h"

#include <algorithm>
#include <chrono>
#include <vector>

namespace {

constexpr const char* kInstructionSets[] = {"baseline", "avx2", "avx512"};

py::dict build_info() {
  py::dict info;
  info["version"] = SVDPRUNE_VERSION;
  info["git_revision"] = SVDPRUNE_GIT_REVISION;
  info["compiler"] = SVDPRUNE_COMPILER;
  info["build_type"] = SVDPRUNE_BUILD_TYPE;
  info["torch_built_with"] = SVDPRUNE_TORCH_VERSION;
  info["torch_target"] = SVDPRUNE_TORCH_TARGET;
  info["instruction_set"] =
      kInstructionSets[static_cast<int>(svdprune::cpu::best_instruction_set())];
  info["cuda"] = static_cast<bool>(SVDPRUNE_WITH_CUDA);
  info["cuda_architectures"] = SVDPRUNE_CUDA_ARCHITECTURES;
  return info;
}

// The full symmetric Gram matrix of x [N, D], on the tokens' or the features' side.
Matrix gram(const Matrix& x, bool tokens_side, bool center) {
  const auto side = tokens_side ? svdprune::cpu::Side::kTokens : svdprune::cpu::Side::kFeatures;
  svdprune::cpu::Crew crew;
  const auto result = svdprune::cpu::gram<float>(crew, image_of(x), side, center);
  const int64_t n = result.matrix.n;
  Matrix full({n, n});
  for (int64_t j = 0; j < n; ++j) {
    for (int64_t i = j; i < n; ++i) {
      full.mutable_at(i, j) = full.mutable_at(j, i) = result.matrix.at(i, j);
    }
  }
  return full;
}

svdprune::cpu::InstructionSet instruction_set_of(const std::string& name) {
  const auto found = std::find(std::begin(kInstructionSets), std::end(kInstructionSets), name);
  const auto set = static_cast<svdprune::cpu::InstructionSet>(found - std::begin(kInstructionSets));
  if (set > svdprune::cpu::best_instruction_set()) {
    throw py::value_error("set must be one that this processor has");
  }
  return set;
}

// Lower triangle of x x^T, x [n, k], by the kernel for an instruction set.
Matrix rank_k(const Matrix& x, const std::string& set) {
  namespace cpu = svdprune::cpu;
  const cpu::InstructionSet choice = instruction_set_of(set);
  const int64_t n = x.shape(0), depth = x.shape(1);
  cpu::SquareMatrix<float> product(n);
  cpu::Crew crew;
  const auto fill = [&](const cpu::PanelBlock& block, float* panel) {
    cpu::interleave(x.data() + block.first * depth + block.k, block.count, depth, block.depth,
                    panel, block.width);
  };
  cpu::rank_k_product<float>(crew, depth, fill, product, choice);
  Matrix lower({n, n});
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      lower.mutable_at(i, j) = j <= i ? product.at(i, j) : 0;
    }
  }
  return lower;
}

// a x of symmetric a [n, n], likewise, as the reduction's two parts give it.
Vector symmetric_product(const Matrix& a, const Vector& x, const std::string& set) {
  namespace cpu = svdprune::cpu;
  const int64_t n = x.size();
  if (a.ndim() != 2 || a.shape(0) != n || a.shape(1) != n) {
    throw py::value_error("a must be [n, n], x [n]");
  }
  const int64_t half = n / 2 / cpu::kDiagonalBlock * cpu::kDiagonalBlock;
  Vector y(n);
  std::fill_n(y.mutable_data(), n, 0.0f);
  const auto add_product = cpu::symmetric_product<float>(instruction_set_of(set));
  add_product(n, 0, half, a.data(), n, x.data(), y.mutable_data());
  add_product(n, half, n, a.data(), n, x.data(), y.mutable_data());
  return y;
}

// {stage: seconds} of one pass over x [N, D]; "pivoted" has no stage but select and gather.
py::dict stage_times(const Matrix& x, int64_t keep, double variance, bool pivoted) {
  namespace cpu = svdprune::cpu;
  using Clock = std::chrono::steady_clock;
  const svdprune::Image image = image_of(x);
  if (keep < 0 || keep > image.tokens) {
    throw py::value_error("keep must be in [0, N]");
  }
  svdprune::Options options;
  options.variance = variance;
  std::vector<float> scores(image.tokens);
  std::vector<int64_t> indices(keep);
  std::vector<float> tokens(keep * image.features);

  const char* names[] = {"gram", "spectrum", "leverage", "select", "gather"};
  Clock::time_point ends[6];
  cpu::for_each_image("stage_times", 1, false, true, [&](int64_t, cpu::Crew& crew) {
    auto* end = ends;
    *end++ = Clock::now();
    if (pivoted) {
      end = std::fill_n(end, 3, ends[0]);
      cpu::select_pivoted(crew, image, false, keep, 0, scores.data(), indices.data());
    } else {
      auto gram = cpu::gram<float>(crew, image, cpu::smaller_side(image), false);
      *end++ = Clock::now();
      auto spectrum = cpu::spectrum(crew, std::move(gram), options);
      cpu::needs_float64(crew, image, spectrum);  // the stages are float32's, whatever it says
      cpu::whiten(crew, image, spectrum);
      *end++ = Clock::now();
      cpu::leverage(crew, image, spectrum, scores.data());
      *end++ = Clock::now();
      cpu::select_topk(scores.data(), image.tokens, keep, indices.data());
    }
    *end++ = Clock::now();
    cpu::gather(image, indices.data(), keep, tokens.data());
    *end++ = Clock::now();
  });
  py::dict times;
  for (int stage = 0; stage < 5; ++stage) {
    times[names[stage]] = std::chrono::duration<double>(ends[stage + 1] - ends[stage]).count();
  }
  return times;
}

}  // namespace

PYBIND11_MODULE(_native, m) {
  m.doc() = "Build facts of svdprune_ext, and its CPU stages for unit tests.";
  m.def("build_info", &build_info);
  m.def("gram", &gram, py::arg("x"), py::arg("tokens_side"), py::arg("center") = false);
  m.def("rank_k", &rank_k, py::arg("x"), py::arg("set"));
  m.def("symmetric_product", &symmetric_product, py::arg("a"), py::arg("x"), py::arg("set"));
  bind_solvers(m);
  bind_selection(m);
  m.def("stage_times", &stage_times, py::arg("x"), py::arg("keep"), py::arg("variance") = 0.9,
        py::arg("pivoted") = false);
}
