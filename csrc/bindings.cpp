// The pybind11 module _native: facts of the build, and CPU stages for unit tests on NumPy arrays.
// Nothing on the way of the ops passes through here.

#include "cpu/gather.h"
#include "cpu/gram.h"
#include "cpu/leverage.h"
#include "cpu/select.h"
#include "cpu/spectrum.h"

#include "build_info.h"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <chrono>
#include <vector>

namespace py = pybind11;

namespace {

using Matrix = py::array_t<float, py::array::c_style | py::array::forcecast>;
using Vector = py::array_t<float, py::array::c_style | py::array::forcecast>;

py::dict build_info() {
  py::dict info;
  info["version"] = SVDPRUNE_VERSION;
  info["git_revision"] = SVDPRUNE_GIT_REVISION;
  info["compiler"] = SVDPRUNE_COMPILER;
  info["build_type"] = SVDPRUNE_BUILD_TYPE;
  info["torch_built_with"] = SVDPRUNE_TORCH_VERSION;
  info["torch_target"] = SVDPRUNE_TORCH_TARGET;
  info["cuda"] = static_cast<bool>(SVDPRUNE_WITH_CUDA);
  info["cuda_architectures"] = SVDPRUNE_CUDA_ARCHITECTURES;
  return info;
}

svdprune::Image image_of(const Matrix& x) {
  if (x.ndim() != 2) {
    throw py::value_error("x must be [N, D]");
  }
  return {x.data(), svdprune::ScalarType::Float, x.shape(0), x.shape(1), x.shape(1), 1};
}

// The full symmetric Gram matrix of x [N, D], on the tokens' or the features' side.
Matrix gram(const Matrix& x, bool tokens_side, bool center) {
  const auto side = tokens_side ? svdprune::cpu::Side::kTokens : svdprune::cpu::Side::kFeatures;
  const auto result = svdprune::cpu::gram<float>(image_of(x), side, center);
  Matrix full({result.n, result.n});
  for (int64_t j = 0; j < result.n; ++j) {
    for (int64_t i = j; i < result.n; ++i) {
      full.mutable_at(i, j) = full.mutable_at(j, i) = result.values[i + j * result.n];
    }
  }
  return full;
}

// (eigenvalues [r] descending, basis [n, r]) of the Gram matrix of x, on its smaller side.
py::tuple spectrum(const Matrix& x, double variance) {
  const svdprune::Image image = image_of(x);
  svdprune::Options options;
  options.variance = variance;
  const auto result = svdprune::cpu::spectrum(
      svdprune::cpu::gram<float>(image, svdprune::cpu::smaller_side(image), false), options);
  Vector eigenvalues(result.rank);
  Matrix basis({result.n, result.rank});
  for (int64_t j = 0; j < result.rank; ++j) {
    eigenvalues.mutable_at(j) = result.eigenvalues[j];
    for (int64_t i = 0; i < result.n; ++i) {
      basis.mutable_at(i, j) = result.basis[i + j * result.n];
    }
  }
  return py::make_tuple(eigenvalues, basis);
}

int64_t rank_for_variance(const Vector& eigenvalues, double variance, double total) {
  return svdprune::cpu::rank_for_variance(eigenvalues.data(), eigenvalues.size(), variance, total);
}

py::array_t<int64_t> select_topk(const Vector& scores, int64_t keep) {
  if (keep < 0 || keep > scores.size()) {
    throw py::value_error("keep must be in [0, N]");
  }
  py::array_t<int64_t> indices(keep);
  svdprune::cpu::select_topk(scores.data(), scores.size(), keep, indices.mutable_data());
  return indices;
}

py::tuple select_coverage(const Vector& scores, int64_t max_keep, double coverage) {
  if (max_keep < 0 || max_keep > scores.size()) {
    throw py::value_error("max_keep must be in [0, N]");
  }
  py::array_t<int64_t> indices(max_keep);
  const int64_t count = svdprune::cpu::select_coverage(scores.data(), scores.size(), max_keep,
                                                       coverage, indices.mutable_data());
  return py::make_tuple(indices, count);
}

// {stage: seconds} of one pass over x [N, D].
py::dict stage_times(const Matrix& x, int64_t keep, double variance) {
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

  const auto start = Clock::now();
  auto gram = cpu::gram<float>(image, cpu::smaller_side(image), false);
  const auto after_gram = Clock::now();
  const auto spectrum = cpu::spectrum(std::move(gram), options);
  const auto after_spectrum = Clock::now();
  cpu::leverage(image, spectrum, scores.data());
  const auto after_leverage = Clock::now();
  cpu::select_topk(scores.data(), image.tokens, keep, indices.data());
  const auto after_select = Clock::now();
  cpu::gather(image, indices.data(), keep, tokens.data());
  const auto after_gather = Clock::now();

  const auto seconds = [](auto from, auto to) {
    return std::chrono::duration<double>(to - from).count();
  };
  py::dict times;
  times["gram"] = seconds(start, after_gram);
  times["spectrum"] = seconds(after_gram, after_spectrum);
  times["leverage"] = seconds(after_spectrum, after_leverage);
  times["select"] = seconds(after_leverage, after_select);
  times["gather"] = seconds(after_select, after_gather);
  return times;
}

}  // namespace

PYBIND11_MODULE(_native, m) {
  m.doc() = "Build facts of svdprune_ext, and its CPU stages for unit tests.";
  m.def("build_info", &build_info);
  m.def("gram", &gram, py::arg("x"), py::arg("tokens_side"), py::arg("center") = false);
  m.def("spectrum", &spectrum, py::arg("x"), py::arg("variance"));
  m.def("rank_for_variance", &rank_for_variance, py::arg("eigenvalues"), py::arg("variance"),
        py::arg("total"));
  m.def("select_topk", &select_topk, py::arg("scores"), py::arg("keep"));
  m.def("select_coverage", &select_coverage, py::arg("scores"), py::arg("max_keep"),
        py::arg("coverage"));
  m.def("stage_times", &stage_times, py::arg("x"), py::arg("keep"), py::arg("variance") = 0.9);
}
