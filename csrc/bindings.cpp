// The pybind11 module _native: facts of the build, and CPU stages for unit tests on NumPy arrays.
// Nothing on the way of the ops passes through here.

#include "cpu/back_transform.h"
#include "cpu/for_each_image.h"
#include "cpu/gather.h"
#include "cpu/gram.h"
#include "cpu/interleave.h"
#include "cpu/leverage.h"
#include "cpu/pivot.h"
#include "cpu/purification.h"
#include "cpu/rank_k.h"
#include "cpu/select.h"
#include "cpu/spectrum.h"
#include "cpu/tridiagonal_eigenvalues.h"
#include "cpu/tridiagonal_eigenvectors.h"
#include "cpu/tridiagonalise.h"

#include "build_info.h"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <optional>
#include <vector>

namespace py = pybind11;

namespace {

using Matrix = py::array_t<float, py::array::c_style | py::array::forcecast>;
using Doubles = py::array_t<double, py::array::c_style | py::array::forcecast>;
using Vector = py::array_t<float, py::array::c_style | py::array::forcecast>;

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

svdprune::Image image_of(const Matrix& x) {
  if (x.ndim() != 2) {
    throw py::value_error("x must be [N, D]");
  }
  return {x.data(), svdprune::ScalarType::Float, x.shape(0), x.shape(1), x.shape(1), 1};
}

// The full symmetric Gram matrix of x [N, D], on the tokens' or the features' side.
Matrix gram(const Matrix& x, bool tokens_side, bool center) {
  const auto side = tokens_side ? svdprune::cpu::Side::kTokens : svdprune::cpu::Side::kFeatures;
  svdprune::cpu::Crew crew;
  const auto result = svdprune::cpu::gram<float>(crew, image_of(x), side, center);
  Matrix full({result.n, result.n});
  for (int64_t j = 0; j < result.n; ++j) {
    for (int64_t i = j; i < result.n; ++i) {
      full.mutable_at(i, j) = full.mutable_at(j, i) = result.values[i + j * result.n];
    }
  }
  return full;
}

// Lower triangle of x x^T, x [n, k], by the kernel for an instruction set.
Matrix rank_k(const Matrix& x, const std::string& set) {
  namespace cpu = svdprune::cpu;
  const auto found = std::find(std::begin(kInstructionSets), std::end(kInstructionSets), set);
  const auto choice = static_cast<cpu::InstructionSet>(found - std::begin(kInstructionSets));
  if (choice > cpu::best_instruction_set()) {
    throw py::value_error("set must be one that this processor has");
  }
  const int64_t n = x.shape(0), depth = x.shape(1);
  std::vector<float> product(n * n);
  cpu::Crew crew;
  const auto fill = [&](const cpu::PanelBlock& block, float* panel) {
    cpu::interleave(x.data() + block.first * depth + block.k, block.count, depth, block.depth,
                    panel, block.width);
  };
  cpu::rank_k_product<float>(crew, n, depth, fill, product.data(), choice);
  Matrix lower({n, n});
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      lower.mutable_at(i, j) = j <= i ? product[i + j * n] : 0;
    }
  }
  return lower;
}

// (eigenvalues [r] descending, basis [n, r]) of the Gram matrix of x, on its smaller side, by
// "eigh".
py::tuple spectrum(const Matrix& x, double variance) {
  const svdprune::Image image = image_of(x);
  svdprune::Options options;
  options.variance = variance;
  options.solver = svdprune::Solver::kEigh;
  svdprune::cpu::Crew crew;
  const auto result = svdprune::cpu::spectrum(
      crew, svdprune::cpu::gram<float>(crew, image, svdprune::cpu::smaller_side(image), false),
      options);
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

// (diagonal [m], coupling [m], steps m) of symmetric a [n, n], stopped after at most `most` steps.
py::tuple tridiagonalise(const Matrix& a, int64_t most) {
  if (a.ndim() != 2 || a.shape(0) != a.shape(1)) {
    throw py::value_error("a must be [n, n]");
  }
  std::vector<float> work(a.data(), a.data() + a.size());
  svdprune::cpu::Crew crew;
  const auto result = svdprune::cpu::tridiagonalise<float>(
      crew, a.shape(0), work.data(), {most}, [](const auto&, const auto&) { return true; });
  return py::make_tuple(Doubles(result.steps, result.diagonal.data()),
                        Doubles(result.steps, result.coupling.data()), result.steps);
}

// Q [n, n] of the full reduction of symmetric a [n, n] to Q^T a Q.
Matrix back_transform(const Matrix& a) {
  if (a.ndim() != 2 || a.shape(0) != a.shape(1)) {
    throw py::value_error("a must be [n, n]");
  }
  const int64_t n = a.shape(0);
  std::vector<float> work(a.data(), a.data() + a.size()), basis(n * n, 0);
  for (int64_t i = 0; i < n; ++i) {
    basis[i * (n + 1)] = 1;
  }
  svdprune::cpu::Crew crew;
  const auto reduced = svdprune::cpu::tridiagonalise<float>(
      crew, n, work.data(), {}, [](const auto&, const auto&) { return false; });
  svdprune::cpu::BackTransform<float>(crew, n, n - 1, work.data(), reduced.tau.data())
      .apply(crew, n, basis.data());
  Matrix q({n, n});
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      q.mutable_at(i, j) = basis[i + j * n];
    }
  }
  return q;
}

// Whether symmetric a [n, n] is found to have no eigenvalue above `limit`.
bool lies_below(const Matrix& a, double limit) {
  if (a.ndim() != 2 || a.shape(0) != a.shape(1)) {
    throw py::value_error("a must be [n, n]");
  }
  const int64_t n = a.shape(0);
  std::vector<float> work(a.data(), a.data() + a.size());
  svdprune::cpu::Crew crew;
  svdprune::cpu::TrailingMatrix<float> trailing(crew, n, work.data());
  return svdprune::cpu::Remainder<float>(trailing).lies_below(limit);
}

// Eigenvalues [n], descending, and eigenvectors [n, n] of a symmetric tridiagonal matrix.
py::tuple tridiagonal_eigen(const Doubles& diagonal, const Doubles& coupling) {
  const int64_t n = diagonal.size();
  if (coupling.size() != n) {
    throw py::value_error("coupling must have the length of diagonal; its last entry is not used");
  }
  const std::vector<double> d(diagonal.data(), diagonal.data() + n);
  const std::vector<double> c(coupling.data(), coupling.data() + n);
  svdprune::cpu::Crew crew;
  const std::vector<double> values = svdprune::cpu::tridiagonal_eigenvalues(crew, d, c);
  constexpr int64_t kLanes = svdprune::cpu::kLanes;
  Doubles vectors({n, n});
  std::vector<double> lanes(n * kLanes);
  for (int64_t j = 0; j < static_cast<int64_t>(values.size()); ++j) {
    if (j % kLanes == 0) {
      svdprune::cpu::tridiagonal_eigenvectors(d, c, values.data() + j, std::min(kLanes, n - j),
                                              lanes.data());
    }
    for (int64_t i = 0; i < n; ++i) {
      vectors.mutable_at(i, j) = lanes[i * kLanes + j % kLanes];
    }
  }
  return py::make_tuple(Doubles(values.size(), values.data()), vectors);
}

// (basis [n, r], matrix products) of a Gram matrix [n, n] by "purify"; without a rank, by variance.
py::tuple purify(const Doubles& gram, double variance, std::optional<int64_t> rank,
                 int64_t most_products) {
  namespace cpu = svdprune::cpu;
  if (gram.ndim() != 2 || gram.shape(0) != gram.shape(1)) {
    throw py::value_error("gram must be [n, n]");
  }
  const int64_t n = gram.shape(0);
  cpu::Gram<double> copy{cpu::Side::kTokens, n, std::make_unique<double[]>(n * n), 0, {}};
  std::copy_n(gram.data(), n * n, copy.values.get());
  for (int64_t i = 0; i < n; ++i) {
    copy.trace += copy.values[i * (n + 1)];
  }
  const auto result = cpu::solve_purify(
      std::move(copy), {variance, rank, false, svdprune::Solver::kPurify}, most_products);
  Doubles basis({n, result.rank});
  for (int64_t j = 0; j < result.rank; ++j) {
    for (int64_t i = 0; i < n; ++i) {
      basis.mutable_at(i, j) = result.basis[i + j * n];
    }
  }
  return py::make_tuple(basis, result.steps);
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

// (order [most], shares [N], rank) of the tokens of x [N, D] that "pivoted" picks.
py::tuple pick(const Matrix& x, int64_t most, double coverage) {
  if (most < 0 || most > x.shape(0)) {
    throw py::value_error("most must be in [0, N]");
  }
  namespace cpu = svdprune::cpu;
  cpu::Crew crew;
  const auto gram = cpu::gram<float>(crew, image_of(x), cpu::Side::kTokens, false);
  py::array_t<int64_t> order(most);
  Vector shares(gram.n);
  const auto picked = cpu::pick(gram, most, coverage, order.mutable_data(), shares.mutable_data());
  return py::make_tuple(order, shares, picked.rank);
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
      const auto spectrum = cpu::spectrum(crew, std::move(gram), options);
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
  m.def("spectrum", &spectrum, py::arg("x"), py::arg("variance"));
  m.def("rank_for_variance", &rank_for_variance, py::arg("eigenvalues"), py::arg("variance"),
        py::arg("total"));
  m.def("tridiagonalise", &tridiagonalise, py::arg("a"), py::arg("most"));
  m.def("back_transform", &back_transform, py::arg("a"));
  m.def("lies_below", &lies_below, py::arg("a"), py::arg("limit"));
  m.def("tridiagonal_eigen", &tridiagonal_eigen, py::arg("diagonal"), py::arg("coupling"));
  m.def("purify", &purify, py::arg("gram"), py::arg("variance") = 0.9, py::arg("rank") = py::none(),
        py::arg("most_products") = svdprune::cpu::kMostProducts);
  m.def("select_topk", &select_topk, py::arg("scores"), py::arg("keep"));
  m.def("select_coverage", &select_coverage, py::arg("scores"), py::arg("max_keep"),
        py::arg("coverage"));
  m.def("pick", &pick, py::arg("x"), py::arg("most"), py::arg("coverage") = 0.0);
  m.def("stage_times", &stage_times, py::arg("x"), py::arg("keep"), py::arg("variance") = 0.9,
        py::arg("pivoted") = false);
}
