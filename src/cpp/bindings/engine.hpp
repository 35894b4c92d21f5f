// The Engine that Python sees: one dtype chosen, options read, the GIL released while the core works.
#pragma once

#include "../trainer.hpp"
#include "cuda.hpp"
#include "hyperparameters.hpp"
#include "python_loss.hpp"

#include <map>
#include <mutex>

namespace fastmlp {

// --- optimizers
// --------------------------------------------------------------------------------------------------------

inline Rule make_rule(const std::string& optimizer, const std::map<std::string, double>& given, double learning_rate,
                      long long t) {
  if (!(learning_rate >= 0) || std::isinf(learning_rate)) reject("learning_rate must be finite and not negative");
  Rule rule;
  rule.optimizer = Optimizers::find(optimizer, "optimizer");
  rule.learning_rate = learning_rate;
  rule.t = counter(t, "t", 0);
  Optimizers::visit(rule.optimizer, [&](auto entry) {
    rule.hyperparameters = read_hyperparameters(entry, {given.begin(), given.end()});
  });
  return rule;
}

template <class T> std::vector<T*> slot_pointers(const Rule& rule, std::vector<py::array>& slots, py::ssize_t n) {
  std::size_t needed = rule.ema_decay > 0;
  std::string name;
  Optimizers::visit(rule.optimizer, [&](auto entry) {
    needed += std::size(entry.slots);
    name = entry.name;
  });
  if (slots.size() != needed)
    reject("'" + name + (rule.ema_decay > 0 ? "' and an average need " : "' needs ") + std::to_string(needed) +
           " slots, got " + std::to_string(slots.size()));
  std::vector<T*> pointers;
  for (py::array& slot : slots) pointers.push_back(output<T>(slot, "slot", {n}));
  return pointers;
}

// --- the engine
// ----------------------------------------------------------------------------------------------------------

// Wants Ctrl-C and errors of callbacks to stop training without losing what was learned: they are kept and raised after
// the parameters have been written back.
class PythonHooks {
public:
  PythonHooks(const py::object& on_epoch, const py::object& rates, const py::object& score) {
    hooks.poll = [this] {
      return failed([] {
        if (PyErr_CheckSignals() != 0) throw py::error_already_set();
      });
    };
    if (!on_epoch.is_none())
      hooks.after_epoch = [this, on_epoch](std::int64_t n_iter, double loss, double score, double learning_rate) {
        return failed([&] { on_epoch(n_iter, loss, score, learning_rate); });
      };
    if (!score.is_none())
      hooks.score = [this, score](double loss) -> std::optional<double> {
        double answer = 0;
        return failed([&] { answer = score(loss).cast<double>(); }) ? std::nullopt : std::optional(answer);
      };
    if (!rates.is_none())
      hooks.rates = [this, rates](long long t, std::int64_t n_steps, std::int64_t no_improvement_count) {
        std::vector<double> numbers;
        failed([&] {
          const py::array answer = array_argument(rates(t, n_steps, no_improvement_count), "rates");
          const double* p = input<double>(answer, "rates", {n_steps});
          for (std::int64_t i = 0; i < n_steps; ++i)
            if (!(p[i] >= 0 && p[i] < infinity))
              reject("the learning rate of step " + std::to_string(t + i + 1) +
                     " must be finite and not negative, got " + number(p[i]));
          numbers.assign(p, p + n_steps);
        });
        return numbers;
      };
  }

  // Ctrl-C ends training quietly; any other error is raised.
  void raise() const {
    if (!error) return;
    try {
      std::rethrow_exception(error);
    } catch (const py::error_already_set& e) {
      if (!e.matches(PyExc_KeyboardInterrupt)) throw;
    }
  }

  Hooks hooks;

private:
  // Calls with the GIL; whether it threw.
  template <class F> bool failed(F&& call) {
    const py::gil_scoped_acquire gil;
    try {
      call();
      return false;
    } catch (...) {
      error = std::current_exception();
      return true;
    }
  }

  std::exception_ptr error;
};

template <class V> V option(const py::dict& options, const char* name) {
  if (!options.contains(name)) reject(std::string("the option '") + name + "' is missing");
  try {
    return options[name].cast<V>();
  } catch (const py::cast_error&) {
    throw py::type_error(std::string("the option '") + name +
                         "' has a wrong type: " + py::repr(options[name]).cast<std::string>());
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

inline TrainOptions train_options(const py::dict& d) {
  TrainOptions o;
  o.rule = make_rule(option<std::string>(d, "optimizer"), option<std::map<std::string, double>>(d, "hyperparameters"),
                     option<double>(d, "learning_rate"), option<long long>(d, "t"));
  o.rule.seed = option<std::uint64_t>(d, "dropout_seed");
  o.rule.clip_norm = option<double>(d, "clip_norm");
  o.rule.clip_value = option<double>(d, "clip_value");
  o.rule.ema_decay = option<double>(d, "ema_decay");
  o.report_batch_losses = option<bool>(d, "report_batch_losses");
  o.learning_rate_init = option<double>(d, "learning_rate_init");
  o.schedule = choice<Schedule>(d, "schedule", {"constant", "invscaling", "adaptive"});
  o.power_t = option<double>(d, "power_t");
  o.alpha = option<double>(d, "alpha");
  o.batch_size = option<std::int64_t>(d, "batch_size");
  o.max_iter = option<std::int64_t>(d, "max_iter");
  o.shuffle = option<bool>(d, "shuffle");
  o.tol = option<double>(d, "tol");
  o.n_iter_no_change = option<double>(d, "n_iter_no_change");
  o.score = choice<Score>(d, "score", {"accuracy", "r2", "loss", "given"});
  o.early_stopping = option<bool>(d, "early_stopping");
  o.max_seconds = option<double>(d, "max_seconds");
  if (!(o.rule.clip_norm > 0 && o.rule.clip_value > 0)) reject("clip_norm and clip_value must be positive");
  if (!(o.rule.ema_decay >= 0 && o.rule.ema_decay < 1))
    reject("ema_decay must be at least 0 and below 1, got " + number(o.rule.ema_decay));
  if (o.batch_size < 1 || o.max_iter < 0) reject("batch_size must be at least 1 and max_iter at least 0");
  for (const auto& [name, value] :
       {std::pair("tol", o.tol), std::pair("n_iter_no_change", o.n_iter_no_change), std::pair("power_t", o.power_t),
        std::pair("alpha", o.alpha), std::pair("learning_rate_init", o.learning_rate_init),
        std::pair("max_seconds", o.max_seconds)})
    if (!(value >= 0)) reject(std::string(name) + " must not be negative, got " + number(value));
  return o;
}

class PyEngine {
public:
  // `cuda` is None, or the path of the GPU engine, the number of a device whose status is ok, and a precision.
  PyEngine(const Network& network, const std::string& dtype, int n_threads, const py::object& loss,
           const py::object& cuda)
      : network(network), loss(loss) {
    if (!loss.is_none() && !PyCallable_Check(loss.ptr()))
      throw py::type_error("loss must be callable or None, got " + py::repr(loss).cast<std::string>());
    if (n_threads < 0) reject("n_threads must be 0 (automatic) or positive, got " + std::to_string(n_threads));
    if (dtype != "float32" && dtype != "float64")
      reject("unknown dtype '" + dtype + "'; valid names: 'float32' 'float64'");
    if (!cuda.is_none())
      engine = make_cuda_engine(network, dtype, cuda);
    else if (dtype == "float32")
      engine = make_cpu_engine<float>(network, n_threads);
    else
      engine = make_cpu_engine<double>(network, n_threads);
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

  py::object input_gradient(const py::array& parameters, const py::object& X, const py::array& vectors) {
    return exclusively([&](auto& engine, auto zero) -> py::object {
      using T = decltype(zero);
      const T* p = input<T>(parameters, "parameters", {network.n_parameters});
      const Matrix<T> data = matrix<T>(X, network.n_inputs());
      const T* v = input<T>(vectors, "vectors", {data.n_rows, -1, network.n_outputs()});
      const py::ssize_t n_vectors = vectors.shape(1);
      if (n_vectors > (1 << 30)) reject("there must be at most 2**30 vectors a row, got " + std::to_string(n_vectors));
      py::array_t<T> out({py::ssize_t(data.n_rows), n_vectors, py::ssize_t(network.n_inputs())});
      T* result = out.mutable_data();
      if (out.size() == 0) return std::move(out);
      const py::gil_scoped_release release;
      engine.input_gradient(p, data, v, int(n_vectors), result);
      return std::move(out);
    });
  }

  py::object loss_and_gradient(const py::array& parameters, const py::object& X, const py::array& y,
                               const py::object& sample_weight, double alpha, std::uint64_t dropout_seed) {
    Rule rule;
    rule.seed = dropout_seed;
    const RandomKey dropout = rule.dropout_key(1);
    return exclusively([&](auto& engine, auto zero) -> py::object {
      using T = decltype(zero);
      const T* p = input<T>(parameters, "parameters", {network.n_parameters});
      Dataset<T> data = dataset<T>(network, X, y, sample_weight);
      if (data.X.n_rows == 0) reject("X has no rows");
      PythonLoss<T> own_loss(this->loss, network, data);
      py::array_t<T> gradient(network.n_parameters);
      T* g = gradient.mutable_data();
      double loss = 0, penalty = 0;
      {
        const py::gil_scoped_release release;
        engine.set_parameters(p);
        loss = engine.loss_and_gradient(data, nullptr, data.X.n_rows, alpha, dropout, penalty, g);
      }
      own_loss.raise(false);
      return py::make_tuple(loss, penalty, gradient);
    });
  }

  void apply(py::array& parameters, const py::array& gradient, const std::string& optimizer,
             const std::map<std::string, double>& hyperparameters, double learning_rate, long long t,
             std::vector<py::array> slots) {
    exclusively([&](auto& engine, auto zero) -> py::object {
      using T = decltype(zero);
      Rule rule = make_rule(optimizer, hyperparameters, learning_rate, counter(t, "t", 1) - 1);
      T* p = output<T>(parameters, "parameters", {network.n_parameters});
      const T* g = input<T>(gradient, "gradient", {network.n_parameters});
      const std::vector<T*> state = slot_pointers<T>(rule, slots, network.n_parameters);
      const py::gil_scoped_release release;
      engine.set_parameters(p);
      engine.set_slots(state);
      engine.apply(g, rule);
      engine.get_parameters(p);
      engine.get_slots();
      return {};
    });
  }

  py::object train(py::array& parameters, std::vector<py::array> slots, const py::object& X, const py::array& y,
                   const py::object& sample_weight, const py::object& rows, const py::object& validation_rows,
                   MT19937& random, const py::dict& settings, const py::object& on_epoch, const py::object& rates,
                   const py::object& validation, const py::object& score) {
    return exclusively([&](auto& engine, auto zero) -> py::object {
      using T = decltype(zero);
      TrainOptions options = train_options(settings);
      TrainState state;
      state.n_samples_seen = counter(option<std::int64_t>(settings, "n_samples_seen"), "n_samples_seen", 0);
      state.no_improvement_count =
          counter(option<std::int64_t>(settings, "no_improvement_count"), "no_improvement_count", 0);
      state.best_loss = option<double>(settings, "best_loss");
      state.best_validation_score = option<double>(settings, "best_validation_score");
      constexpr int n_options = 25; // every one was found: any more are unknown
      if (settings.size() != n_options)
        reject("training knows " + std::to_string(n_options) + " options, got " + std::to_string(settings.size()));
      T* p = output<T>(parameters, "parameters", {network.n_parameters});
      const std::vector<T*> pointers = slot_pointers<T>(options.rule, slots, network.n_parameters);
      Dataset<T> data = dataset<T>(network, X, y, sample_weight);
      PythonLoss<T> own_loss(loss, network, data);
      if (options.score == Score::r2 && !data.y) reject("the score 'r2' needs targets, not class numbers");
      if ((options.score == Score::given) == score.is_none()) reject("the score 'given' needs a function, others none");
      std::vector<std::int64_t> order = row_numbers(rows, "rows", data.X.n_rows, true);
      if (order.empty()) reject("there are no rows to train on");
      Dataset<T> others;
      if (!validation.is_none()) others = validation_data<T>(validation, validation_rows, data.labels != nullptr);
      PythonLoss<T> others_loss(validation.is_none() ? py::object(py::none()) : loss, network, others);
      const Validation<T> watched =
          validation.is_none()
              ? Validation<T>{data, row_numbers(validation_rows, "validation_rows", data.X.n_rows, false)}
              : Validation<T>{others, row_numbers(py::none(), "rows", others.X.n_rows, true)};
      std::vector<T> best;
      PythonHooks python(on_epoch, rates, score);
      if (python.hooks.score)
        python.hooks.score = [&engine, p, ask = python.hooks.score](double loss) {
          engine.get_parameters(p); // what is asked looks at them
          return ask(loss);
        };
      MT19937 stream = random; // a copy: the caller's may be in use by another thread meanwhile
      {
        const py::gil_scoped_release release;
        engine.set_parameters(p);
        engine.set_slots(pointers);
        Trainer<T>(engine, network, data, order, watched, stream, python.hooks).run(options, state, best);
        engine.get_parameters(p);
        engine.get_slots();
      }
      random = stream;
      if (!rows.is_none()) {
        auto given = py::reinterpret_borrow<py::array>(rows);
        if (given.writeable()) std::copy(order.begin(), order.end(), static_cast<std::int64_t*>(given.mutable_data()));
      }
      python.raise();
      own_loss.raise(true);
      others_loss.raise(true);
      return report(options, state, best);
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
  Dataset<T> validation_data(const py::object& validation, const py::object& validation_rows, bool labels) const {
    if (!validation_rows.is_none()) reject("validation_rows are rows of X: they exclude other data for validation");
    if (!py::isinstance<py::tuple>(validation) || py::len(validation) != 3)
      throw py::type_error("validation must be a tuple of X, y and sample_weight");
    const auto parts = validation.cast<py::tuple>();
    const Dataset<T> data = dataset<T>(network, parts[0], array_argument(parts[1], "y"), parts[2]);
    if (data.X.n_rows == 0) reject("there are no rows to validate on");
    if ((data.labels != nullptr) != labels) reject("the targets of training and validation must be of one kind");
    return data;
  }

  template <class T>
  static py::dict report(const TrainOptions& options, const TrainState& state, const std::vector<T>& best) {
    static const char* const reasons[] = {"max_iter",    "no_improvement", "learning_rate",
                                          "interrupted", "not_finite",     "max_time"};
    py::dict d;
    d["loss_curve"] = state.loss_curve;
    d["learning_rates"] = state.learning_rates;
    d["validation_losses"] = state.validation_losses;
    d["validation_scores"] = state.validation_scores;
    d["batch_losses"] = state.batch_losses;
    d["n_iter"] = state.n_iter;
    d["t"] = options.rule.t;
    d["n_samples_seen"] = state.n_samples_seen;
    d["learning_rate"] = options.rule.learning_rate;
    d["no_improvement_count"] = state.no_improvement_count;
    d["best_loss"] = state.best_loss;
    d["best_validation_score"] = state.best_validation_score;
    d["best_parameters"] =
        best.empty() ? py::object(py::none()) : py::object(py::array_t<T>(py::ssize_t(best.size()), best.data()));
    d["stopped"] = reasons[int(state.stopped)];
    d["failed_epoch"] = state.failed_epoch;
    d["failed_batch"] = state.failed_batch;
    return d;
  }

  const Network network;
  const py::object loss; // of a batch, in place of the network's, or None
  AnyEngine engine;
  std::mutex busy;
};

inline py::object hessian_vector_product(const Network& network, const py::array& parameters, const py::object& X,
                                         const py::array& y, const py::object& sample_weight, double alpha,
                                         const py::array& vector, int n_threads) {
  const double* p = input<double>(parameters, "parameters", {network.n_parameters});
  const double* v = input<double>(vector, "vector", {network.n_parameters});
  const Dataset<double> data = dataset<double>(network, X, y, sample_weight);
  if (data.X.n_rows == 0) reject("X has no rows");
  if (data.X.n_rows > (1 << 30)) reject("X must have at most 2**30 rows, got " + std::to_string(data.X.n_rows));
  if (n_threads < 0) reject("n_threads must be 0 (automatic) or positive, got " + std::to_string(n_threads));
  py::array_t<double> out(network.n_parameters);
  double* result = out.mutable_data();
  const py::gil_scoped_release release;
  cpu_hessian_vector_product(network, p, data, alpha, v, n_threads, result);
  return std::move(out);
}

} // namespace fastmlp
