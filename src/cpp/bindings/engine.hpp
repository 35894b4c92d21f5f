// The Engine that Python sees: one dtype chosen, options read, the GIL released while the core works.
#pragma once

#include "cuda.hpp"
#include "python_loss.hpp"
#include "training.hpp"

#include <mutex>

namespace fastmlp {

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
    if (!cuda.is_none()) {
      engine = make_cuda_engine(network, dtype, cuda);
      device = cuda.cast<py::tuple>()[1].cast<int>();
    } else if (dtype == "float32")
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
      const Matrix<T> data = matrix<T>(X, network.n_inputs(), device);
      if (data.on_device && wanted == 0) return X.cast<const CudaArray&>().to_host(0, data.n_rows);
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
      Dataset<T> data = dataset<T>(network, X, y, sample_weight, device);
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

  // Says with which data `train` will be called again and again, until `release`. They must stay as they are.
  void hold(const py::object& X, const py::array& y, const py::object& sample_weight, const py::object& validation) {
    exclusively([&](auto& engine, auto zero) -> py::object {
      using T = decltype(zero);
      const Dataset<T> data = dataset<T>(network, X, y, sample_weight, device);
      Dataset<T> others;
      if (!validation.is_none()) others = validation_data<T>(validation, py::none(), data.labels != nullptr);
      {
        const py::gil_scoped_release release;
        engine.hold({&data, &others});
      }
      held = py::make_tuple(X, y, sample_weight, validation);
      return {};
    });
  }

  void release() {
    exclusively([&](auto& engine, auto) -> py::object {
      engine.hold({});
      held = py::none();
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
      TrainState state = train_state(settings);
      T* p = output<T>(parameters, "parameters", {network.n_parameters});
      const std::vector<T*> pointers = slot_pointers<T>(options.rule, slots, network.n_parameters);
      Dataset<T> data = dataset<T>(network, X, y, sample_weight, device);
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
        const HeldForNow<T> for_now(held.is_none() ? &engine : nullptr, {&data, &watched.data});
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
      return train_report(options, state, best);
    });
  }

private:
  template <class T> struct HeldForNow { // while one training runs, unless its data are held already
    HeldForNow(Engine<T>* engine, const std::vector<const Dataset<T>*>& data) : engine(engine) {
      if (engine) engine->hold(data);
    }
    ~HeldForNow() {
      if (engine) engine->hold({});
    }
    Engine<T>* engine;
  };

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
    const Dataset<T> data = dataset<T>(network, parts[0], array_argument(parts[1], "y"), parts[2], device);
    if (data.X.n_rows == 0) reject("there are no rows to validate on");
    if ((data.labels != nullptr) != labels) reject("the targets of training and validation must be of one kind");
    return data;
  }

  const Network network;
  const py::object loss; // of a batch, in place of the network's, or None
  AnyEngine engine;
  int device = no_device;
  py::object held = py::none(); // data that train is called with again and again
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
