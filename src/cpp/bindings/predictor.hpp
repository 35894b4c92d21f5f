// Predictions that take arrays which need no conversion without delay, and leave all others: the Predictor that Python
// sees, and the outputs of a network whose parameters may change from call to call.
#pragma once

#include "arrays.hpp"

#include <variant>

namespace fastmlp {

// An aligned, C-contiguous array of T in native byte order, or null.
template <class T> const py::detail::PyArray_Proxy* plain(const py::handle& object) {
  if (!py::isinstance<py::array>(object)) return nullptr;
  const auto* array = py::detail::array_proxy(object.ptr());
  const auto* type = py::detail::array_descriptor_proxy(array->descr);
  using api = py::detail::npy_api;
  const int wanted = sizeof(T) == 4 ? api::NPY_FLOAT_ : api::NPY_DOUBLE_;
  const int flags = api::NPY_ARRAY_C_CONTIGUOUS_ | api::NPY_ARRAY_ALIGNED_;
  const bool fits = type->type_num == wanted && type->byteorder == '=' && (array->flags & flags) == flags;
  return fits ? array : nullptr;
}

// Few operations are done sooner than the global lock is handed over and taken back.
template <class F> bool without_lock(double operations, F&& work) {
  constexpr double worth_a_release = 1e6;
  if (operations < worth_a_release) return work();
  const py::gil_scoped_release release;
  return work();
}

inline void reject_negative(int n_threads) {
  if (n_threads < 0) reject("n_threads must not be negative, got " + std::to_string(n_threads));
}

class PyPredictor {
public:
  // `two_columns`: the probability of both classes for the one output; `flat`: no axis for the one output.
  PyPredictor(const Network& network, const py::array& parameters, int n_threads, bool two_columns, bool flat,
              bool assume_finite)
      : network(network), two_columns(two_columns), flat(flat), assume_finite(assume_finite) {
    reject_negative(n_threads);
    if ((two_columns || flat) && network.n_outputs() != 1)
      reject("two_columns and flat need one output, got " + std::to_string(network.n_outputs()));
    if (py::isinstance<py::array_t<float>>(parameters))
      make<float>(parameters, n_threads);
    else
      make<double>(parameters, n_threads);
  }

  // The answer, in `out` unless it is None; None if X or out is not what can be used as it is.
  py::object call(const py::handle& X, const py::handle& out) const {
    return std::visit([&](const auto& predictor) { return answer(*predictor, X, out); }, predictor);
  }

private:
  template <class T> void make(const py::array& parameters, int n_threads) {
    const T* p = input<T>(parameters, "parameters", {network.n_parameters});
    const py::gil_scoped_release release;
    predictor = make_cpu_predictor<T>(network, p, n_threads);
  }

  template <class T>
  py::object answer(const Predictor<T>& predictor, const py::handle& X, const py::handle& out) const {
    const auto* rows = plain<T>(X);
    if (!rows || rows->nd < 1 || rows->nd > 2 || rows->dimensions[rows->nd - 1] != network.sizes[0]) return py::none();
    const bool single = rows->nd == 1;
    const py::ssize_t n = single ? 1 : rows->dimensions[0];
    const T* x = reinterpret_cast<const T*>(rows->data);
    py::ssize_t shape[2], n_axes = 0;
    if (!single) shape[n_axes++] = n;
    if (!flat) shape[n_axes++] = two_columns ? 2 : network.n_outputs();
    py::object result = py::reinterpret_borrow<py::object>(out);
    if (out.is_none())
      result = py::array_t<T>(std::vector<py::ssize_t>(shape, shape + n_axes));
    else if (!accepts<T>(out, shape, n_axes, x, n))
      return py::none();
    T* y = reinterpret_cast<T*>(py::detail::array_proxy(result.ptr())->data);
    if (!run(predictor, x, n, y)) return py::none();
    return n_axes == 0 && out.is_none() ? result[py::tuple()] : result;
  }

  // Whether `out` has this shape, may be written to, and shares no memory with the rows.
  template <class T>
  bool accepts(const py::handle& out, const py::ssize_t* shape, py::ssize_t n_axes, const T* x, py::ssize_t n) const {
    const auto* array = plain<T>(out);
    if (!array || array->nd != n_axes || !(array->flags & py::detail::npy_api::NPY_ARRAY_WRITEABLE_)) return false;
    py::ssize_t size = 1;
    for (py::ssize_t i = 0; i < n_axes; ++i) {
      if (array->dimensions[i] != shape[i]) return false;
      size *= shape[i];
    }
    const T* y = reinterpret_cast<const T*>(array->data);
    return y + size <= x || x + n * network.sizes[0] <= y;
  }

  template <class T> bool run(const Predictor<T>& predictor, const T* x, py::ssize_t n, T* y) const {
    return without_lock(2.0 * double(network.n_parameters) * double(n), [&] {
      const Matrix<T> X{n, network.sizes[0], x, network.sizes[0], nullptr, nullptr};
      if (!predictor.predict(X, assume_finite, y)) return false;
      if (two_columns)
        for (py::ssize_t i = n; i-- > 0;) { // from the end, as both lie in the same place
          const T p = y[i];
          y[2 * i] = 1 - p;
          y[2 * i + 1] = p;
        }
      return true;
    });
  }

  const Network network;
  const bool two_columns, flat, assume_finite;
  std::variant<std::unique_ptr<Predictor<float>>, std::unique_ptr<Predictor<double>>> predictor;
};

// Output layer for the rows X with the parameters as they are now; None if X is no plain array, of finite numbers
// unless `assume_finite`, in the dtype of the parameters.
inline py::object predict(const Network& network, const py::handle& parameters, const py::handle& X, int n_threads,
                          bool assume_finite) {
  reject_negative(n_threads);
  const auto with = [&](auto zero) -> py::object {
    using T = decltype(zero);
    const auto *flat = plain<T>(parameters), *rows = plain<T>(X);
    if (!flat || flat->nd != 1 || flat->dimensions[0] != network.n_parameters) return py::none();
    if (!rows || rows->nd != 2 || rows->dimensions[0] < 1 || rows->dimensions[1] != network.n_inputs())
      return py::none();
    const py::ssize_t n = rows->dimensions[0];
    const T* p = reinterpret_cast<const T*>(flat->data);
    const Matrix<T> matrix{
        n, network.n_inputs(), reinterpret_cast<const T*>(rows->data), network.n_inputs(), nullptr, nullptr};
    py::array_t<T> out({n, py::ssize_t(network.n_outputs())});
    T* y = out.mutable_data();
    const bool finite = without_lock(2.0 * double(network.n_parameters) * double(n),
                                     [&] { return cpu_predict<T>(network, p, matrix, n_threads, assume_finite, y); });
    if (!finite) return py::none();
    return std::move(out);
  };
  if (Py_TYPE(X.ptr()) != py::detail::npy_api::get().PyArray_Type_) return py::none(); // a subclass has its own meaning
  return plain<float>(X) ? with(float()) : with(double());
}

inline bool all_finite(const py::array& array, int n_threads) {
  reject_negative(n_threads);
  const auto look = [&](auto zero) {
    using T = decltype(zero);
    require_dtype<T>(array, "array");
    if (!(array.flags() & py::array::c_style)) reject("array must be C-contiguous");
    const T* x = static_cast<const T*>(array.data());
    const std::int64_t n = array.size();
    return without_lock(double(n), [&] { return cpu_all_finite(x, n, n_threads); });
  };
  return py::isinstance<py::array_t<float>>(array) ? look(float()) : look(double());
}

} // namespace fastmlp
