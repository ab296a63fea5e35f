// Stage 4, selection, for unit tests.

#include "bindings.h"

#include "cpu/gram.h"
#include "cpu/pivot.h"
#include "cpu/row_products.h"
#include "cpu/select.h"

namespace {

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
  Vector shares(gram.matrix.n);
  const auto picked = cpu::pick(gram, most, coverage, order.mutable_data(), shares.mutable_data());
  return py::make_tuple(order, shares, picked.rank);
}

// Column `token` of x x^T [N], x [N, D], made along with those of the tokens of highest worth [N].
Doubles gram_column(const Matrix& x, int64_t token, const Doubles& worth) {
  if (token < 0 || token >= x.shape(0) || worth.size() != x.shape(0)) {
    throw py::value_error("token must be in [0, N), and worth [N]");
  }
  namespace cpu = svdprune::cpu;
  cpu::Crew crew;
  const svdprune::Image image = image_of(x);
  cpu::RowProducts products(crew, image, cpu::Transform{});
  Doubles column(image.tokens);
  products.column(token, worth.data(), column.mutable_data());
  return column;
}

}  // namespace

void bind_selection(py::module_& m) {
  m.def("select_topk", &select_topk, py::arg("scores"), py::arg("keep"));
  m.def("select_coverage", &select_coverage, py::arg("scores"), py::arg("max_keep"),
        py::arg("coverage"));
  m.def("pick", &pick, py::arg("x"), py::arg("most"), py::arg("coverage") = 0.0);
  m.def("gram_column", &gram_column, py::arg("x"), py::arg("token"), py::arg("worth"));
}
