// A Python callable as the loss of a batch: (y, outputs, sample_weight) in, the mean loss and its gradient out.
#pragma once

#include "arrays.hpp"

#include <exception>

namespace fastmlp {

template <class T> class PythonLoss final : public BatchLoss<T> {
public:
  // Becomes the loss of `data` unless `callable` is None.
  PythonLoss(const py::object& callable, const Network& network, Dataset<T>& data)
      : callable(callable), network(network), data(data) {
    if (!callable.is_none()) data.loss = this;
  }
  PythonLoss(const PythonLoss&) = delete;

  double evaluate(const std::int64_t* rows, std::int64_t n, const T* outputs, T* gradient) override {
    const py::gil_scoped_acquire gil;
    try {
      const py::ssize_t m = network.n_outputs();
      py::array_t<T> z({py::ssize_t(n), m}); // arrays of its own: it may change and keep them
      std::copy_n(outputs, n * m, z.mutable_data());
      const py::object answer = callable(targets(rows, n), z, weights(rows, n));
      if (!py::isinstance<py::tuple>(answer) || py::len(answer) != 2)
        throw py::type_error("the loss must return a tuple (loss, gradient), got " +
                             py::repr(answer).cast<std::string>());
      const auto pair = py::reinterpret_borrow<py::tuple>(answer);
      if (!py::isinstance<py::float_>(pair[0]))
        throw py::type_error("the loss must be a float, got " + py::repr(pair[0]).cast<std::string>());
      const py::array numbers = array_argument(pair[1], "the gradient of the loss");
      std::copy_n(input<T>(numbers, "the gradient of the loss", {py::ssize_t(n), m}), n * m, gradient);
      return pair[0].template cast<double>();
    } catch (...) {
      error = std::current_exception();
      return infinity;
    }
  }

  bool failed() const override { return error != nullptr; }

  // What it failed with; Ctrl-C ends training `quietly`.
  void raise(bool quietly) const {
    if (!error) return;
    try {
      std::rethrow_exception(error);
    } catch (const py::error_already_set& e) {
      if (!quietly || !e.matches(PyExc_KeyboardInterrupt)) throw;
    }
  }

private:
  static std::int64_t row_of(const std::int64_t* rows, std::int64_t i) { return rows ? rows[i] : i; }

  py::array_t<T> targets(const std::int64_t* rows, std::int64_t n) const {
    const py::ssize_t m = network.n_targets();
    py::array_t<T> y({py::ssize_t(n), m});
    T* to = y.mutable_data();
    if (data.labels) std::fill_n(to, n * m, T(0));
    for (std::int64_t i = 0; i < n; ++i, to += m)
      if (data.labels)
        to[data.labels[row_of(rows, i)]] = T(1);
      else
        std::copy_n(data.y + row_of(rows, i) * m, m, to);
    return y;
  }

  py::object weights(const std::int64_t* rows, std::int64_t n) const {
    if (!data.sample_weight) return py::none();
    py::array_t<T> some(static_cast<py::ssize_t>(n));
    for (std::int64_t i = 0; i < n; ++i) some.mutable_data()[i] = data.sample_weight[row_of(rows, i)];
    return std::move(some);
  }

  const py::object callable;
  const Network& network;
  const Dataset<T>& data;
  std::exception_ptr error;
};

} // namespace fastmlp
