// Stage 2, the spectrum, for unit tests.

#include "bindings.h"

#include "cpu/back_transform.h"
#include "cpu/gram.h"
#include "cpu/purification.h"
#include "cpu/spectrum.h"
#include "cpu/tridiagonal_eigenvalues.h"
#include "cpu/tridiagonal_eigenvectors.h"
#include "cpu/tridiagonalise.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <vector>

namespace {

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

// A copy of a symmetric matrix [n, n].
template <class T>
svdprune::cpu::SquareMatrix<T> square(
    const py::array_t<T, py::array::c_style | py::array::forcecast>& a) {
  if (a.ndim() != 2 || a.shape(0) != a.shape(1)) {
    throw py::value_error("the matrix must be [n, n]");
  }
  svdprune::cpu::SquareMatrix<T> copy(a.shape(0));
  for (int64_t j = 0; j < copy.n; ++j) {
    std::copy_n(a.data(j), copy.n, copy.column(j));
  }
  return copy;
}

// (diagonal [m], coupling [m], steps m) of symmetric a [n, n], stopped after at most `most` steps.
py::tuple tridiagonalise(const Matrix& a, int64_t most) {
  auto work = square<float>(a);
  svdprune::cpu::Crew crew;
  const auto result = svdprune::cpu::tridiagonalise<float>(
      crew, work, [most](const auto& reduced, const auto&) { return reduced.steps == most; });
  return py::make_tuple(Doubles(result.steps, result.diagonal.data()),
                        Doubles(result.steps, result.coupling.data()), result.steps);
}

// Q [n, n] of the full reduction of symmetric a [n, n] to Q^T a Q.
Matrix back_transform(const Matrix& a) {
  auto work = square<float>(a);
  const int64_t n = work.n;
  std::vector<float> basis(n * n, 0);
  for (int64_t i = 0; i < n; ++i) {
    basis[i * (n + 1)] = 1;
  }
  svdprune::cpu::Crew crew;
  const auto reduced = svdprune::cpu::tridiagonalise<float>(
      crew, work, [](const auto&, const auto&) { return false; });
  svdprune::cpu::BackTransform<float>(crew, work, n - 1, reduced.tau.data())
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
  auto work = square<float>(a);
  svdprune::cpu::Crew crew;
  svdprune::cpu::TrailingMatrix<float> trailing(crew, work);
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
  cpu::Gram<double> copy{cpu::Side::kTokens, square<double>(gram), gram.shape(0), 0, {}};
  const int64_t n = copy.matrix.n;
  for (int64_t i = 0; i < n; ++i) {
    copy.trace += copy.matrix.at(i, i);
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

}  // namespace

void bind_solvers(py::module_& m) {
  m.def("spectrum", &spectrum, py::arg("x"), py::arg("variance"));
  m.def("rank_for_variance", &rank_for_variance, py::arg("eigenvalues"), py::arg("variance"),
        py::arg("total"));
  m.def("tridiagonalise", &tridiagonalise, py::arg("a"), py::arg("most"));
  m.def("back_transform", &back_transform, py::arg("a"));
  m.def("lies_below", &lies_below, py::arg("a"), py::arg("limit"));
  m.def("tridiagonal_eigen", &tridiagonal_eigen, py::arg("diagonal"), py::arg("coupling"));
  m.def("purify", &purify, py::arg("gram"), py::arg("variance") = 0.9, py::arg("rank") = py::none(),
        py::arg("most_products") = svdprune::cpu::kMostProducts);
}
