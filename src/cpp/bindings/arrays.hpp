// numpy arrays to the core's views. Shapes, dtypes and index ranges are checked here, so that no call can make the core
// read or write outside its arrays. Only this folder knows Python.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "../engine.hpp"
#include "cuda_array.hpp"

#include <initializer_list>
#include <numeric>
#include <string>

namespace py = pybind11;

namespace fastmlp {

[[noreturn]] inline void reject(const std::string& what) { throw py::value_error(what); }

inline std::string number(double x) { return py::str(py::float_(x)); } // all its digits, as Python prints it

// Counters go up to where a double still tells neighbours apart, so that counting on cannot overflow.
inline std::int64_t counter(std::int64_t x, const char* name, std::int64_t lowest) {
  constexpr std::int64_t highest = std::int64_t(1) << 53;
  if (x < lowest || x > highest)
    reject(std::string(name) + " must be between " + std::to_string(lowest) + " and 2**53, got " + std::to_string(x));
  return x;
}

// An array as it is: a list would be converted to an array that nobody keeps alive.
inline py::array array_argument(const py::handle& object, const char* name) {
  if (!py::isinstance<py::array>(object))
    throw py::type_error(std::string(name) + " must be an array, got " +
                         py::repr(py::type::handle_of(object)).cast<std::string>());
  return py::reinterpret_borrow<py::array>(object);
}

inline std::string shape_of(const py::array& a) { return py::str(a.attr("shape")); }

template <class T> void require_dtype(const py::array& a, const char* name) {
  if (!py::isinstance<py::array_t<T>>(a))
    throw py::type_error(std::string(name) + " must have dtype " + py::str(py::dtype::of<T>()).cast<std::string>() +
                         ", got " + py::str(a.dtype()).cast<std::string>());
  if (!(a.flags() & py::detail::npy_api::NPY_ARRAY_ALIGNED_)) reject(std::string(name) + " must be aligned in memory");
}

// Pointer to a C-contiguous array of the given shape; -1 leaves a length open.
template <class T> const T* input(const py::array& a, const char* name, std::initializer_list<py::ssize_t> shape) {
  require_dtype<T>(a, name);
  bool fits = a.ndim() == py::ssize_t(shape.size());
  std::string wanted;
  for (py::ssize_t i = 0; i < py::ssize_t(shape.size()); ++i) {
    const py::ssize_t length = shape.begin()[i];
    wanted += (i ? ", " : "") + (length < 0 ? std::string("n") : std::to_string(length));
    fits = fits && (length < 0 || a.shape(i) == length);
  }
  if (!fits) reject(std::string(name) + " must have shape (" + wanted + "), got " + shape_of(a));
  if (!(a.flags() & py::array::c_style)) reject(std::string(name) + " must be C-contiguous");
  return static_cast<const T*>(a.data());
}

template <class T> T* output(py::array& a, const char* name, std::initializer_list<py::ssize_t> shape) {
  input<T>(a, name, shape);
  if (!a.writeable()) reject(std::string(name) + " must be writeable");
  return static_cast<T*>(a.mutable_data());
}

template <class T> Matrix<T> dense_matrix(const py::array& a, int n_columns) {
  require_dtype<T>(a, "X");
  if (a.ndim() != 2 || (n_columns >= 0 && a.shape(1) != n_columns))
    reject("X must have shape (n, " + std::to_string(n_columns) + "), got " + shape_of(a));
  const py::ssize_t item = sizeof(T);
  if (a.size() > 0 && ((a.shape(1) > 1 && a.strides(1) != item) || (a.shape(0) > 1 && a.strides(0) % item != 0)))
    reject("the rows of X must be contiguous");
  return {a.shape(0), int(a.shape(1)), static_cast<const T*>(a.data()), a.shape(0) > 1 ? a.strides(0) / item : 0,
          nullptr,    nullptr};
}

template <class T> Matrix<T> sparse_matrix(const py::tuple& csr, int n_columns) {
  if (csr.size() != 4) reject("a sparse X must be a tuple (data, indices, indptr, n_columns)");
  const py::array data = array_argument(csr[0], "data of X"), indices = array_argument(csr[1], "indices of X"),
                  indptr = array_argument(csr[2], "indptr of X");
  if (!py::isinstance<py::int_>(csr[3]) || !csr[3].attr("__eq__")(n_columns).cast<bool>())
    reject("X must have " + std::to_string(n_columns) + " columns, got " + py::repr(csr[3]).cast<std::string>());
  Matrix<T> X;
  X.n_columns = n_columns;
  X.data = input<T>(data, "data of X", {-1});
  X.indices = input<std::int32_t>(indices, "indices of X", {data.shape(0)});
  X.indptr = input<std::int64_t>(indptr, "indptr of X", {-1});
  X.n_rows = indptr.shape(0) - 1;
  if (X.n_rows < 0 || X.indptr[0] != 0 || X.indptr[X.n_rows] > data.shape(0))
    reject("indptr of X must start at 0 and end at most at the number of stored values");
  for (std::int64_t i = 0; i < X.n_rows; ++i)
    if (X.indptr[i] > X.indptr[i + 1]) reject("indptr of X must not decrease");
  for (std::int64_t e = 0; e < X.indptr[X.n_rows]; ++e)
    if (X.indices[e] < 0 || X.indices[e] >= n_columns) reject("indices of X must be between 0 and its last column");
  return X;
}

template <class T> Matrix<T> device_matrix(const CudaArray& array, int n_columns, int device) {
  if (array.device_number() != device)
    reject(device < 0 ? std::string("X is on a GPU, and this is computed on the CPU: copy it to the host")
                      : "X is on GPU " + std::to_string(array.device_number()) + ", and the engine on GPU " +
                            std::to_string(device));
  const cuda::ArrayRows rows = array.features();
  if (rows.is_double != (sizeof(T) == 8) || rows.n_columns != n_columns)
    reject("X must have " + std::to_string(n_columns) + " columns and the dtype of the engine");
  Matrix<T> X{rows.n_rows, rows.n_columns, static_cast<const T*>(rows.data), rows.stride};
  X.on_device = true;
  return X;
}

constexpr int no_device = -1; // the host

// `device`: number of the GPU whose memory X may be in.
template <class T> Matrix<T> matrix(const py::object& X, int n_columns, int device = no_device) {
  if (py::isinstance<py::tuple>(X)) return sparse_matrix<T>(X, n_columns);
  if (py::isinstance<CudaArray>(X)) return device_matrix<T>(X.cast<const CudaArray&>(), n_columns, device);
  if (py::isinstance<py::array>(X)) return dense_matrix<T>(py::reinterpret_borrow<py::array>(X), n_columns);
  throw py::type_error("X must be an array, a CudaArray or a tuple (data, indices, indptr, n_columns)");
}

inline void require_class_numbers(int loss) {
  bool taken = false;
  std::string takers;
  Losses::visit(loss, [&](auto entry) { taken = entry.class_numbers; });
  Losses::for_each([&](auto entry) { takers += entry.class_numbers ? std::string(" '") + entry.name + "'" : ""; });
  if (!taken)
    reject("class numbers need one of the losses" + takers + ", got '" + Losses::names()[std::size_t(loss)] + "'");
}

template <class T>
Dataset<T> dataset(const Network& network, const py::object& X, const py::array& y, const py::object& sample_weight,
                   int device = no_device) {
  Dataset<T> data;
  data.X = matrix<T>(X, network.n_inputs(), device);
  const std::int64_t n = data.X.n_rows;
  const int m = network.n_targets();
  if (py::isinstance<py::array_t<std::int32_t>>(y)) {
    require_class_numbers(network.loss.number);
    data.labels = input<std::int32_t>(y, "y", {n});
    for (std::int64_t i = 0; i < n; ++i)
      if (data.labels[i] < 0 || data.labels[i] >= m)
        reject("class numbers in y must be between 0 and " + std::to_string(m - 1) + ", got " +
               std::to_string(data.labels[i]));
  } else {
    data.y = input<T>(y, "y", {n, m});
    Losses::visit(network.loss.number, [&](auto loss) {
      for (std::int64_t i = 0; i < n * m; ++i)
        if (!loss.valid(double(data.y[i]), network.loss.hyperparameters()))
          reject(std::string("targets of the loss '") + loss.name + "' must be " + loss.domain + ", got " +
                 number(double(data.y[i])));
    });
  }
  if (!sample_weight.is_none())
    data.sample_weight = input<T>(array_argument(sample_weight, "sample_weight"), "sample_weight", {n});
  return data;
}

inline std::vector<std::int64_t> row_numbers(const py::object& rows, const char* name, std::int64_t n,
                                             bool all_if_none) {
  std::vector<std::int64_t> numbers;
  if (rows.is_none()) {
    if (!all_if_none) return numbers;
    numbers.resize(std::size_t(n));
    std::iota(numbers.begin(), numbers.end(), 0);
    return numbers;
  }
  const py::array a = array_argument(rows, name);
  const std::int64_t* p = input<std::int64_t>(a, name, {-1});
  numbers.assign(p, p + a.shape(0));
  for (std::int64_t row : numbers)
    if (row < 0 || row >= n) reject(std::string(name) + " must be between 0 and " + std::to_string(n - 1));
  return numbers;
}

} // namespace fastmlp
