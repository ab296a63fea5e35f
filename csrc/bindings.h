// What the files of the pybind11 module _native share.
#pragma once

#include "image.h"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

namespace py = pybind11;

using Matrix = py::array_t<float, py::array::c_style | py::array::forcecast>;
using Doubles = py::array_t<double, py::array::c_style | py::array::forcecast>;
using Vector = py::array_t<float, py::array::c_style | py::array::forcecast>;

// The features x [N, D].
inline svdprune::Image image_of(const Matrix& x) {
  if (x.ndim() != 2) {
    throw py::value_error("x must be [N, D]");
  }
  return {x.data(), svdprune::ScalarType::Float, x.shape(0), x.shape(1), x.shape(1), 1};
}

// Each adds its file's functions to the module.
void bind_solvers(py::module_& m);
void bind_selection(py::module_& m);
