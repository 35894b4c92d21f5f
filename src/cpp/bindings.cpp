// numpy <-> core, and nothing else; the only file that knows Python. Shapes, dtypes and index ranges are checked here
// so that no call can make the core read or write outside its arrays; signatures and docstrings live in _core.pyi.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "cpu/blas.hpp"
#include "cpu/kernels.hpp"
#include "cpu/threads.hpp"
#include "trainer.hpp"

#include <chrono>
#include <mutex>
#include <variant>

namespace py = pybind11;

namespace fastmlp {
namespace {

// --- arrays ---------------------------------------------------------------------------------------------------------

[[noreturn]] void reject(const std::string& what) { throw py::value_error(what); }

std::string shape_of(const py::array& a) { return py::str(a.attr("shape")); }

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
  if ((a.shape(1) > 1 && a.strides(1) != item) || (a.shape(0) > 1 && a.strides(0) % item != 0))
    reject("the rows of X must be contiguous");
  return {a.shape(0), int(a.shape(1)), static_cast<const T*>(a.data()), a.shape(0) > 1 ? a.strides(0) / item : 0,
          nullptr, nullptr};
}

template <class T> Matrix<T> sparse_matrix(const py::tuple& csr, int n_columns) {
  if (csr.size() != 4) reject("a sparse X must be a tuple (data, indices, indptr, n_columns)");
  const py::array data = csr[0], indices = csr[1], indptr = csr[2];
  const std::int64_t columns = csr[3].cast<std::int64_t>();
  if (columns != n_columns)
    reject("X must have " + std::to_string(n_columns) + " columns, got " + std::to_string(columns));
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

template <class T> Matrix<T> matrix(const py::object& X, int n_columns) {
  if (py::isinstance<py::tuple>(X)) return sparse_matrix<T>(X, n_columns);
  if (py::isinstance<py::array>(X)) return dense_matrix<T>(X, n_columns);
  throw py::type_error("X must be an array or a tuple (data, indices, indptr, n_columns)");
}

template <class T>
Dataset<T> dataset(const Network& network, const py::object& X, const py::array& y, const py::object& sample_weight) {
  Dataset<T> data;
  data.X = matrix<T>(X, network.n_inputs());
  const std::int64_t n = data.X.n_rows;
  const int m = network.n_outputs();
  if (py::isinstance<py::array_t<std::int32_t>>(y)) {
    if (network.loss != Losses::find("log_loss", "loss")) reject("class numbers need the loss 'log_loss'");
    data.labels = input<std::int32_t>(y, "y", {n});
    for (std::int64_t i = 0; i < n; ++i)
      if (data.labels[i] < 0 || data.labels[i] >= m)
        reject("class numbers in y must be between 0 and " + std::to_string(m - 1) + ", got " +
               std::to_string(data.labels[i]));
  } else {
    data.y = input<T>(y, "y", {n, m});
    Losses::visit(network.loss, [&](auto loss) {
      for (std::int64_t i = 0; i < n * m; ++i)
        if (!loss.valid(double(data.y[i])))
          reject(std::string("targets of the loss '") + loss.name + "' must be " + loss.domain + ", got " +
                 py::str(py::float_(double(data.y[i]))).cast<std::string>());
    });
  }
  if (!sample_weight.is_none()) data.sample_weight = input<T>(sample_weight.cast<py::array>(), "sample_weight", {n});
  return data;
}

std::vector<std::int64_t> row_numbers(const py::object& rows, const char* name, std::int64_t n, bool all_if_none) {
  std::vector<std::int64_t> numbers;
  if (rows.is_none()) {
    if (!all_if_none) return numbers;
    numbers.resize(std::size_t(n));
    std::iota(numbers.begin(), numbers.end(), 0);
    return numbers;
  }
  const py::array a = rows.cast<py::array>();
  const std::int64_t* p = input<std::int64_t>(a, name, {-1});
  numbers.assign(p, p + a.shape(0));
  for (std::int64_t row : numbers)
    if (row < 0 || row >= n) reject(std::string(name) + " must be between 0 and " + std::to_string(n - 1));
  return numbers;
}

// --- optimizers --------------------------------------------------------------------------------------------------------

Rule make_rule(const std::string& optimizer, const std::map<std::string, double>& given, double learning_rate,
               long long t) {
  if (!(learning_rate >= 0) || std::isinf(learning_rate)) reject("learning_rate must be finite and not negative");
  if (t < 0) reject("the step number t must not be negative");
  Rule rule;
  rule.optimizer = Optimizers::find(optimizer, "optimizer");
  rule.learning_rate = learning_rate;
  rule.t = t;
  Optimizers::visit(rule.optimizer, [&](auto entry) {
    std::map<std::string, double> left(given);
    std::string names;
    for (const Hyperparameter& h : entry.hyperparameters) {
      double value = h.default_value;
      if (const auto at = left.find(h.name); at != left.end()) {
        value = at->second;
        left.erase(at);
      }
      if (!(value >= h.low && value <= h.high))
        reject(std::string(h.name) + " of '" + entry.name + "' must be between " + std::to_string(h.low) + " and " +
               std::to_string(h.high) + ", got " + std::to_string(value));
      rule.hyperparameters.push_back(value);
      names += std::string(" '") + h.name + "'";
    }
    if (!left.empty())
      reject("unknown hyper-parameter '" + left.begin()->first + "' of '" + entry.name + "'; valid names:" + names);
  });
  return rule;
}

template <class T> std::vector<T*> slot_pointers(const Rule& rule, std::vector<py::array>& slots, py::ssize_t n) {
  std::size_t needed = 0;
  const char* name = "";
  Optimizers::visit(rule.optimizer, [&](auto entry) {
    needed = std::size(entry.slots);
    name = entry.name;
  });
  if (slots.size() != needed)
    reject("'" + std::string(name) + "' needs " + std::to_string(needed) + " slots, got " +
           std::to_string(slots.size()));
  std::vector<T*> pointers;
  for (py::array& slot : slots) pointers.push_back(output<T>(slot, "slot", {n}));
  return pointers;
}

// --- the engine ----------------------------------------------------------------------------------------------------------

// Wants Ctrl-C and errors of callbacks to stop training without losing what was learned: they are kept and raised after
// the parameters have been written back.
class PythonHooks {
public:
  explicit PythonHooks(const py::object& on_epoch) {
    hooks.poll = [this] {
      const py::gil_scoped_acquire gil;
      if (PyErr_CheckSignals() == 0) return false;
      keep(py::error_already_set());
      return true;
    };
    hooks.rate_changed = [this](std::int64_t n_iter, double rate) { rate_drops.emplace_back(n_iter, rate); };
    if (on_epoch.is_none()) return;
    hooks.after_epoch = [this, on_epoch](std::int64_t n_iter, double loss, double score) {
      const py::gil_scoped_acquire gil;
      try {
        on_epoch(n_iter, loss, score);
        return false;
      } catch (py::error_already_set& error) {
        keep(std::move(error));
        return true;
      }
    };
  }

  // Ctrl-C ends training quietly; any other error is raised.
  void raise() {
    if (!error || error->matches(PyExc_KeyboardInterrupt)) return;
    error->restore();
    throw py::error_already_set();
  }

  Hooks hooks;
  std::vector<std::pair<std::int64_t, double>> rate_drops;

private:
  void keep(py::error_already_set&& e) { error = std::make_unique<py::error_already_set>(std::move(e)); }
  std::unique_ptr<py::error_already_set> error;
};

template <class V> V option(const py::dict& options, const char* name) {
  if (!options.contains(name)) reject(std::string("the option '") + name + "' is missing");
  try {
    return options[name].cast<V>();
  } catch (const py::cast_error&) {
    throw py::type_error(std::string("the option '") + name + "' has a wrong type: " +
                         py::repr(options[name]).cast<std::string>());
  }
}

template <class V> V choice(const py::dict& options, const char* name, std::initializer_list<const char*> names) {
  const auto given = option<std::string>(options, name);
  int number = 0;
  std::string valid;
  for (const char* known : names) {
    if (given == known) return V(number);
    ++number;
    valid += std::string(" '") + known + "'";
  }
  reject(std::string("unknown ") + name + " '" + given + "'; valid names:" + valid);
}

TrainOptions train_options(const py::dict& d) {
  TrainOptions o;
  o.rule = make_rule(option<std::string>(d, "optimizer"), option<std::map<std::string, double>>(d, "hyperparameters"),
                     option<double>(d, "learning_rate"), option<long long>(d, "t"));
  o.learning_rate_init = option<double>(d, "learning_rate_init");
  o.schedule = choice<Schedule>(d, "schedule", {"constant", "invscaling", "adaptive"});
  o.power_t = option<double>(d, "power_t");
  o.alpha = option<double>(d, "alpha");
  o.batch_size = option<std::int64_t>(d, "batch_size");
  o.max_iter = option<std::int64_t>(d, "max_iter");
  o.shuffle = option<bool>(d, "shuffle");
  o.tol = option<double>(d, "tol");
  o.n_iter_no_change = option<double>(d, "n_iter_no_change");
  o.score = choice<Score>(d, "score", {"accuracy", "r2"});
  if (o.batch_size < 1 || o.max_iter < 0) reject("batch_size must be at least 1 and max_iter at least 0");
  if (std::isnan(o.tol) || std::isnan(o.n_iter_no_change) || !(o.alpha >= 0))
    reject("tol and n_iter_no_change must be numbers, alpha must not be negative");
  return o;
}

class PyEngine {
public:
  PyEngine(const Network& network, const std::string& dtype, int n_threads) : network(network) {
    if (n_threads < 0) reject("n_threads must be 0 (automatic) or positive, got " + std::to_string(n_threads));
    if (dtype == "float32")
      engine = make_cpu_engine<float>(network, n_threads);
    else if (dtype == "float64")
      engine = make_cpu_engine<double>(network, n_threads);
    else
      reject("unknown dtype '" + dtype + "'; valid names: 'float32' 'float64'");
  }

  py::object predict(const py::array& parameters, const py::object& X, int layer) {
    return exclusively([&](auto& engine, auto zero) -> py::object {
      using T = decltype(zero);
      const int last = network.n_layers(), wanted = layer == -1 ? last : layer;
      if (wanted < 0 || wanted > last)
        reject("layer must be between 0 and " + std::to_string(last) + " (or -1), got " + std::to_string(layer));
      const T* p = input<T>(parameters, "parameters", {network.n_parameters});
      const Matrix<T> data = matrix<T>(X, network.n_inputs());
      py::array_t<T> out({py::ssize_t(data.n_rows), py::ssize_t(network.sizes[wanted])});
      T* result = out.mutable_data();
      if (data.n_rows == 0) return std::move(out);
      const py::gil_scoped_release release;
      engine.predict(p, data, nullptr, data.n_rows, wanted, result);
      return std::move(out);
    });
  }

  py::object loss_and_gradient(const py::array& parameters, const py::object& X, const py::array& y,
                               const py::object& sample_weight, double alpha) {
    return exclusively([&](auto& engine, auto zero) -> py::object {
      using T = decltype(zero);
      const T* p = input<T>(parameters, "parameters", {network.n_parameters});
      const Dataset<T> data = dataset<T>(network, X, y, sample_weight);
      if (data.X.n_rows == 0) reject("X has no rows");
      py::array_t<T> gradient(network.n_parameters);
      T* g = gradient.mutable_data();
      double loss = 0, penalty = 0;
      {
        const py::gil_scoped_release release;
        engine.set_parameters(p);
        loss = engine.loss_and_gradient(data, nullptr, data.X.n_rows, alpha, penalty, g);
      }
      return py::make_tuple(loss, penalty, gradient);
    });
  }

  void apply(py::array& parameters, const py::array& gradient, const std::string& optimizer,
             const std::map<std::string, double>& hyperparameters, double learning_rate, long long t,
             std::vector<py::array> slots) {
    exclusively([&](auto& engine, auto zero) -> py::object {
      using T = decltype(zero);
      if (t < 1) reject("t counts steps from 1, got " + std::to_string(t));
      Rule rule = make_rule(optimizer, hyperparameters, learning_rate, t - 1);
      T* p = output<T>(parameters, "parameters", {network.n_parameters});
      const T* g = input<T>(gradient, "gradient", {network.n_parameters});
      const std::vector<T*> state = slot_pointers<T>(rule, slots, network.n_parameters);
      const py::gil_scoped_release release;
      engine.set_parameters(p);
      engine.set_slots({state.begin(), state.end()});
      engine.apply(g, rule);
      engine.get_parameters(p);
      engine.get_slots(state);
      return {};
    });
  }

  py::object train(py::array& parameters, std::vector<py::array> slots, const py::object& X, const py::array& y,
                   const py::object& sample_weight, const py::object& rows, const py::object& validation_rows,
                   MT19937& random, const py::dict& settings, const py::object& on_epoch) {
    return exclusively([&](auto& engine, auto zero) -> py::object {
      using T = decltype(zero);
      TrainOptions options = train_options(settings);
      TrainState state;
      state.n_samples_seen = option<long long>(settings, "n_samples_seen");
      state.no_improvement_count = option<std::int64_t>(settings, "no_improvement_count");
      state.best_loss = option<double>(settings, "best_loss");
      state.best_validation_score = option<double>(settings, "best_validation_score");
      T* p = output<T>(parameters, "parameters", {network.n_parameters});
      const std::vector<T*> pointers = slot_pointers<T>(options.rule, slots, network.n_parameters);
      const Dataset<T> data = dataset<T>(network, X, y, sample_weight);
      if (options.score == Score::r2 && !data.y) reject("the score 'r2' needs targets, not class numbers");
      const Split split{row_numbers(rows, "rows", data.X.n_rows, true),
                        row_numbers(validation_rows, "validation_rows", data.X.n_rows, false)};
      if (split.train.empty()) reject("there are no rows to train on");
      std::vector<T> best;
      PythonHooks python(on_epoch);
      {
        const py::gil_scoped_release release;
        engine.set_parameters(p);
        engine.set_slots({pointers.begin(), pointers.end()});
        Trainer<T>(engine, network, data, split, random, python.hooks).run(options, state, best);
        engine.get_parameters(p);
        engine.get_slots(pointers);
      }
      python.raise();
      return report(options, state, best, python.rate_drops);
    });
  }

private:
  // The engine's buffers serve one call at a time; another thread gets an error instead of wrong numbers.
  template <class F> py::object exclusively(F&& call) {
    const std::unique_lock<std::mutex> lock(busy, std::try_to_lock);
    if (!lock) throw std::runtime_error("this Engine is in use by another thread; make one Engine per thread");
    return std::visit(
        [&](auto& e) -> py::object {
          if constexpr (std::is_same_v<std::decay_t<decltype(*e)>, Engine<float>>)
            return call(*e, float());
          else
            return call(*e, double());
        },
        engine);
  }

  template <class T>
  static py::dict report(const TrainOptions& options, const TrainState& state, const std::vector<T>& best,
                         const std::vector<std::pair<std::int64_t, double>>& rate_drops) {
    static const char* const reasons[] = {"max_iter", "no_improvement", "learning_rate", "interrupted", "not_finite"};
    py::dict d;
    d["loss_curve"] = state.loss_curve;
    d["validation_scores"] = state.validation_scores;
    d["n_iter"] = state.n_iter;
    d["t"] = options.rule.t;
    d["n_samples_seen"] = state.n_samples_seen;
    d["learning_rate"] = options.rule.learning_rate;
    d["no_improvement_count"] = state.no_improvement_count;
    d["best_loss"] = state.best_loss;
    d["best_validation_score"] = state.best_validation_score;
    d["best_parameters"] = best.empty() ? py::object(py::none())
                                        : py::object(py::array_t<T>(py::ssize_t(best.size()), best.data()));
    d["stopped"] = reasons[int(state.stopped)];
    d["rate_drops"] = rate_drops;
    d["failed_epoch"] = state.failed_epoch;
    d["failed_batch"] = state.failed_batch;
    return d;
  }

  const Network network;
  std::variant<std::unique_ptr<Engine<float>>, std::unique_ptr<Engine<double>>> engine;
  std::mutex busy;
};

// --- catalogues ------------------------------------------------------------------------------------------------------------

py::dict activation_catalog() {
  py::dict d;
  Activations::for_each([&](auto a) { d[a.name] = py::dict(py::arg("formula") = a.formula); });
  return d;
}

py::dict loss_catalog() {
  py::dict d;
  Losses::for_each([&](auto l) {
    d[l.name] = py::dict(py::arg("formula") = l.formula, py::arg("link") = l.link_name, py::arg("domain") = l.domain);
  });
  return d;
}

py::dict optimizer_catalog() {
  py::dict d;
  Optimizers::for_each([&](auto o) {
    py::dict hyperparameters;
    for (const Hyperparameter& h : o.hyperparameters) hyperparameters[h.name] = h.default_value;
    py::list slots;
    for (const char* slot : o.slots) slots.append(slot);
    d[o.name] = py::dict(py::arg("formula") = o.formula, py::arg("hyperparameters") = hyperparameters,
                         py::arg("slots") = slots);
  });
  return d;
}

// Calls f(T()) for the dtype of `a`.
template <class F> py::object with_dtype(const py::array& a, const char* name, F&& f) {
  if (py::isinstance<py::array_t<float>>(a)) return f(float());
  if (py::isinstance<py::array_t<double>>(a)) return f(double());
  throw py::type_error(std::string(name) + " must have dtype float32 or float64, got " +
                       py::str(a.dtype()).cast<std::string>());
}

py::object apply_activation(const std::string& name, const py::array& z) {
  const int number = Activations::find(name, "activation");
  return with_dtype(z, "z", [&](auto zero) -> py::object {
    using T = decltype(zero);
    const T* in = input<T>(z, "z", {-1});
    py::array_t<T> value(z.shape(0)), slope(z.shape(0));
    kernels<T>().apply_activation(number, in, z.shape(0), value.mutable_data(), slope.mutable_data());
    return py::make_tuple(value, slope);
  });
}

py::object apply_loss(const std::string& name, const py::array& z, const py::array& y) {
  const int number = Losses::find(name, "loss");
  return with_dtype(z, "z", [&](auto zero) -> py::object {
    using T = decltype(zero);
    const T* in = input<T>(z, "z", {-1, -1});
    const py::ssize_t n = z.shape(0), m = z.shape(1);
    const T* targets = input<T>(y, "y", {n, m});
    if (m < 1 || m > (1 << 30)) reject("z needs at least one column");
    py::array_t<T> prediction({n, m}), gradient({n, m}), row_loss(n);
    kernels<T>().apply_loss(number, in, targets, n, int(m), prediction.mutable_data(), row_loss.mutable_data(),
                            gradient.mutable_data());
    return py::make_tuple(prediction, row_loss, gradient);
  });
}

void apply_optimizer(const std::string& name, const std::map<std::string, double>& hyperparameters,
                     double learning_rate, long long t, py::array& parameters, const py::array& gradient,
                     std::vector<py::array> slots) {
  with_dtype(parameters, "parameters", [&](auto zero) -> py::object {
    using T = decltype(zero);
    if (t < 1) reject("t counts steps from 1, got " + std::to_string(t));
    const Rule rule = make_rule(name, hyperparameters, learning_rate, t);
    const py::ssize_t n = parameters.ndim() == 1 ? parameters.shape(0) : -1;
    T* p = output<T>(parameters, "parameters", {-1});
    const T* g = input<T>(gradient, "gradient", {n});
    std::vector<T> copy(g, g + n); // the kernel may change the gradient it is given
    update_array(rule, t, T(0), T(1), p, copy.data(), slot_pointers<T>(rule, slots, n), n);
    return {};
  });
}

// --- the machine ---------------------------------------------------------------------------------------------------------

double fma_peak(const std::string& dtype, int n_threads, double seconds) {
  if (dtype != "float32" && dtype != "float64") reject("unknown dtype '" + dtype + "'; valid: 'float32' 'float64'");
  if (!(seconds > 0 && seconds <= 10)) reject("seconds must be above 0 and at most 10");
  const auto run = dtype == "float32" ? kernels<float>().multiply_adds : kernels<double>().multiply_adds;
  const int threads = choose_threads(n_threads, 1e12);
  const py::gil_scoped_release release;
  double best = 0;
  const auto now = [] { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()); };
  for (const auto begin = now(); (now() - begin).count() < seconds;) {
    std::vector<double> operations(std::size_t(threads), 0.0);
    const auto start = now();
    parallel(threads, [&](int thread, int) { operations[std::size_t(thread)] = run(1000000); });
    const double rate = std::accumulate(operations.begin(), operations.end(), 0.0) / (now() - start).count();
    best = std::max(best, rate);
  }
  return best;
}

py::dict config() {
  py::dict d;
  d["version"] = FASTMLP_VERSION;
  d["compiler"] = FASTMLP_COMPILER;
  d["build_type"] = FASTMLP_BUILD_TYPE;
  d["instruction_sets"] = instruction_sets();
  d["instruction_set"] = kernels<float>().name;
  d["panel_rows"] = py::dict(py::arg("float32") = kernels<float>().rows, py::arg("float64") = kernels<double>().rows);
#ifdef _OPENMP
  d["openmp"] = _OPENMP;
#else
  d["openmp"] = py::none();
#endif
  d["threads"] = available_threads();
  d["blas"] = blas_mode();
  d["cuda"] = false;
  return d;
}

} // namespace
} // namespace fastmlp

PYBIND11_MODULE(_core, m) {
  using namespace fastmlp;
  using namespace pybind11::literals;
  m.attr("__version__") = FASTMLP_VERSION;

  m.def("activations", activation_catalog);
  m.def("losses", loss_catalog);
  m.def("optimizers", optimizer_catalog);
  m.def("config", config);
  m.def("set_blas", [](const std::string& mode, const py::object& sgemm, const py::object& dgemm) {
    const auto pointer = [](const py::object& o) -> void* {
      if (o.is_none()) return nullptr;
      return o.cast<py::capsule>().get_pointer();
    };
    set_blas(mode, pointer(sgemm), pointer(dgemm));
  }, "mode"_a, "sgemm"_a, "dgemm"_a);
  m.def("set_instruction_set", set_instruction_set, "name"_a);
  m.def("fma_peak", fma_peak, "dtype"_a, "n_threads"_a = 1, "seconds"_a = 0.05);
  m.def("apply_activation", apply_activation, "name"_a, "z"_a);
  m.def("apply_loss", apply_loss, "name"_a, "z"_a, "y"_a);
  m.def("apply_optimizer", apply_optimizer, "name"_a, "hyperparameters"_a, "learning_rate"_a, "t"_a, "parameters"_a,
        "gradient"_a, "slots"_a);

  py::class_<MT19937>(m, "MT19937")
      .def(py::init([](const py::array& key, int pos) {
             const std::uint32_t* words = input<std::uint32_t>(key, "key", {MT19937::size});
             if (pos < 0 || pos > MT19937::size) reject("pos must be between 0 and 624, got " + std::to_string(pos));
             auto generator = std::make_unique<MT19937>();
             std::copy_n(words, MT19937::size, generator->key);
             generator->position = pos;
             return generator;
           }),
           "key"_a, "pos"_a)
      .def("shuffle",
           [](MT19937& self, py::array& x) {
             std::int64_t* p = output<std::int64_t>(x, "x", {-1});
             self.shuffle(p, x.shape(0));
           },
           "x"_a)
      .def_property_readonly("state", [](const MT19937& self) {
        return py::make_tuple(py::array_t<std::uint32_t>(MT19937::size, self.key), self.position);
      });

  py::class_<Network>(m, "Network")
      .def(py::init<const std::vector<std::int64_t>&, const std::vector<std::string>&, const std::string&>(),
           "layer_sizes"_a, "activations"_a, "loss"_a)
      .def_readonly("layer_sizes", &Network::sizes)
      .def_property_readonly("activations",
                             [](const Network& self) {
                               std::vector<std::string> names;
                               for (int number : self.activations) names.push_back(Activations::names()[number]);
                               return names;
                             })
      .def_property_readonly("loss", [](const Network& self) { return Losses::names()[self.loss]; })
      .def_readonly("n_parameters", &Network::n_parameters)
      .def_readonly("coef_offsets", &Network::coefs)
      .def_readonly("intercept_offsets", &Network::biases);

  py::class_<PyEngine>(m, "Engine")
      .def(py::init<const Network&, const std::string&, int>(), "network"_a, "dtype"_a, "n_threads"_a = 0)
      .def("predict", &PyEngine::predict, "parameters"_a, "X"_a, "layer"_a = -1)
      .def("loss_and_gradient", &PyEngine::loss_and_gradient, "parameters"_a, "X"_a, "y"_a, "sample_weight"_a,
           "alpha"_a)
      .def("apply", &PyEngine::apply, "parameters"_a, "gradient"_a, "optimizer"_a, "hyperparameters"_a,
           "learning_rate"_a, "t"_a, "slots"_a)
      .def("train", &PyEngine::train, "parameters"_a, "slots"_a, "X"_a, "y"_a, "sample_weight"_a, "rows"_a,
           "validation_rows"_a, "random"_a, "options"_a, "on_epoch"_a);
}
