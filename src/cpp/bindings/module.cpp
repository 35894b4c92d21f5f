// The module: names, and the small functions that need no engine. Signatures and docstrings live in _core.pyi.
#include "../cpu/blas.hpp"
#include "../cpu/kernels.hpp"
#include "../cpu/threads.hpp"
#include "arrays.hpp"
#include "cuda.hpp"
#include "engine.hpp"
#include "many.hpp"
#include "predictor.hpp"

#include <chrono>

namespace fastmlp {
namespace {

// --- catalogues
// ------------------------------------------------------------------------------------------------------------

template <class Entries> py::dict activation_catalog() {
  py::dict d;
  Entries::for_each([&](auto a) { d[a.name] = py::dict(py::arg("formula") = a.formula); });
  return d;
}

py::dict normalization_catalog() {
  py::dict d;
  Normalizations::for_each([&](auto n) {
    d[n.name] = py::dict(py::arg("formula") = n.formula, py::arg("has_scale") = n.statistics != Statistics::none,
                         py::arg("has_offset") = n.centred, py::arg("averages") = n.statistics == Statistics::of_units);
  });
  return d;
}

py::dict loss_catalog() {
  py::dict d;
  Losses::for_each([&](auto l) {
    py::dict hyperparameters;
    for (const Hyperparameter& h : l.hyperparameters) hyperparameters[h.name] = h.default_value;
    py::list outputs;
    for (const char* output : l.outputs) outputs.append(output);
    d[l.name] =
        py::dict(py::arg("formula") = l.formula, py::arg("link") = l.link_name, py::arg("domain") = l.domain,
                 py::arg("mean_over_outputs") = l.mean_over_outputs, py::arg("hyperparameters") = hyperparameters,
                 py::arg("outputs") = outputs, py::arg("class_numbers") = l.class_numbers);
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

py::object apply_loss(const std::string& name, const py::array& z, const py::array& y, const GivenNumbers& given) {
  const LossChoice loss(name, loss_values(name, given));
  return with_dtype(z, "z", [&](auto zero) -> py::object {
    using T = decltype(zero);
    const T* in = input<T>(z, "z", {-1, -1});
    const py::ssize_t n = z.shape(0), m = z.shape(1);
    const int q = loss.outputs_per_target;
    if (m < 1 || m > (1 << 30) || m % q) reject("z needs a multiple of " + std::to_string(q) + " columns");
    const T* targets = input<T>(y, "y", {n, m / q});
    py::array_t<T> prediction({n, m}), gradient({n, m}), row_loss(n);
    kernels<T>().apply_loss({loss.number, loss.hyperparameters(), int(m) / q, int(m)}, in, targets, n,
                            prediction.mutable_data(), row_loss.mutable_data(), gradient.mutable_data());
    return py::make_tuple(prediction, row_loss, gradient);
  });
}

void apply_optimizer(const std::string& name, const std::map<std::string, double>& hyperparameters,
                     double learning_rate, long long t, py::array& parameters, const py::array& gradient,
                     std::vector<py::array> slots) {
  with_dtype(parameters, "parameters", [&](auto zero) -> py::object {
    using T = decltype(zero);
    const Rule rule = make_rule(name, hyperparameters, learning_rate, counter(t, "t", 1));
    const py::ssize_t n = parameters.ndim() == 1 ? parameters.shape(0) : -1;
    T* p = output<T>(parameters, "parameters", {-1});
    const T* g = input<T>(gradient, "gradient", {n});
    update_array(rule, t, p, g, slot_pointers<T>(rule, slots, n), n, n);
    return {};
  });
}

// --- the machine
// ---------------------------------------------------------------------------------------------------------

double fma_peak(const std::string& dtype, int n_threads, double seconds) {
  if (dtype != "float32" && dtype != "float64") reject("unknown dtype '" + dtype + "'; valid: 'float32' 'float64'");
  if (!(seconds > 0 && seconds <= 10)) reject("seconds must be above 0 and at most 10");
  const auto run = dtype == "float32" ? kernels<float>().multiply_adds : kernels<double>().multiply_adds;
  const int threads = choose_threads(n_threads, 1e12);
  const py::gil_scoped_release release;
  const bool steady = set_steady_threads(true); // all of them are meant, busy machine or not
  double best = 0;
  const auto now = [] { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()); };
  for (const auto begin = now(); (now() - begin).count() < seconds;) {
    std::vector<double> operations(std::size_t(threads), 0.0);
    const auto start = now();
    parallel(threads, [&](const Team& team) { operations[std::size_t(team.thread)] = run(1000000); });
    const double rate = std::accumulate(operations.begin(), operations.end(), 0.0) / (now() - start).count();
    best = std::max(best, rate);
  }
  set_steady_threads(steady);
  return best;
}

py::dict config() {
  py::dict d;
  d["version"] = FASTMLP_VERSION;
  d["compiler"] = FASTMLP_COMPILER;
  d["build_type"] = FASTMLP_BUILD_TYPE;
  d["instruction_sets"] = instruction_sets();
  d["instruction_set"] = kernels<float>().name;
  d["few_parameters"] =
      py::dict(py::arg("most") = few_parameters, py::arg("instruction_set") = kernels_for<float>(few_parameters).name);
  d["panel_rows"] = py::dict(py::arg("float32") = kernels<float>().rows, py::arg("float64") = kernels<double>().rows);
#ifdef _OPENMP
  d["openmp"] = _OPENMP;
#else
  d["openmp"] = py::none();
#endif
  d["threads"] = available_threads();
  d["blas"] = blas_mode();
  return d;
}

} // namespace
} // namespace fastmlp

// Without the global lock: what the module shares between threads is atomic or locked, an engine serves one at a time.
PYBIND11_MODULE(_core, m, pybind11::mod_gil_not_used()) {
  using namespace fastmlp;
  using namespace pybind11::literals;
  m.attr("__version__") = FASTMLP_VERSION;

  m.def("activations", activation_catalog<HiddenActivations>);
  m.def("output_activations", activation_catalog<Activations>);
  m.def("normalizations", normalization_catalog);
  m.def("losses", loss_catalog);
  m.def("optimizers", optimizer_catalog);
  m.def("config", config);
  m.def(
      "set_blas",
      [](const std::string& mode, const py::object& sgemm, const py::object& dgemm) {
        const auto pointer = [](const py::object& o) -> void* {
          if (o.is_none()) return nullptr;
          return o.cast<py::capsule>().get_pointer();
        };
        set_blas(mode, pointer(sgemm), pointer(dgemm));
      },
      "mode"_a, "sgemm"_a, "dgemm"_a);
  m.def("set_instruction_set", set_instruction_set, "name"_a);
  m.def("set_steady_threads", set_steady_threads, "on"_a);
  m.def("processor_quota", processor_quota, "root"_a = "");
  m.def("fma_peak", fma_peak, "dtype"_a, "n_threads"_a = 1, "seconds"_a = 0.05);
  m.def("apply_activation", apply_activation, "name"_a, "z"_a);
  m.def("apply_loss", apply_loss, "name"_a, "z"_a, "y"_a, "loss_parameters"_a = GivenNumbers());
  m.def(
      "loss_outputs",
      [](const std::string& name, const GivenNumbers& given) {
        const LossChoice loss(name, loss_values(name, given));
        return py::make_tuple(loss.outputs_per_target, loss.central);
      },
      "name"_a, "loss_parameters"_a = GivenNumbers());
  m.def("apply_optimizer", apply_optimizer, "name"_a, "hyperparameters"_a, "learning_rate"_a, "t"_a, "parameters"_a,
        "gradient"_a, "slots"_a);

  const auto set_state = [](MT19937& self, const py::array& key, int pos) {
    const std::uint32_t* words = input<std::uint32_t>(key, "key", {MT19937::size});
    if (pos < 0 || pos > MT19937::size) reject("pos must be between 0 and 624, got " + std::to_string(pos));
    std::copy_n(words, MT19937::size, self.key);
    self.position = pos;
  };
  py::class_<MT19937>(m, "MT19937")
      .def(py::init([](std::int64_t seed) {
             if (seed < 0 || seed > 0xffffffff)
               reject("Seed must be between 0 and 2**32 - 1, got " + std::to_string(seed));
             return MT19937(std::uint32_t(seed));
           }),
           "seed"_a)
      .def(py::init([set_state](const py::array& key, int pos) {
             auto generator = std::make_unique<MT19937>();
             set_state(*generator, key, pos);
             return generator;
           }),
           "key"_a, "pos"_a)
      .def("set_state", set_state, "key"_a, "pos"_a)
      .def(
          "shuffle",
          [](MT19937& self, py::array& x) {
            std::int64_t* p = output<std::int64_t>(x, "x", {-1});
            MT19937 stream = self;
            stream.shuffle(p, x.shape(0));
            self = stream;
          },
          "x"_a)
      .def_property_readonly("state", [](const MT19937& self) {
        return py::make_tuple(py::array_t<std::uint32_t>(MT19937::size, self.key), self.position);
      });

  py::class_<Network>(m, "Network")
      .def(py::init([](const std::vector<std::int64_t>& sizes, const std::vector<std::string>& activations,
                       const std::string& loss, const GivenNumbers& loss_parameters,
                       const std::vector<std::string>& normalizations, const std::vector<double>& dropout,
                       bool residual, const std::string& output_activation) {
             return Network(sizes, activations, loss, loss_values(loss, loss_parameters),
                            {normalizations, dropout, residual}, output_activation);
           }),
           "layer_sizes"_a, "activations"_a, "loss"_a, "loss_parameters"_a = GivenNumbers(),
           "normalizations"_a = py::tuple(), "dropout"_a = py::tuple(), "residual"_a = false,
           "output_activation"_a = "identity")
      .def_readonly("layer_sizes", &Network::sizes)
      .def_property_readonly("activations",
                             [](const Network& self) {
                               std::vector<std::string> names;
                               for (int number : self.activations) names.push_back(Activations::names()[number]);
                               return names;
                             })
      .def_property_readonly("output_activation",
                             [](const Network& self) {
                               const int number = self.output_activation;
                               return number < 0 ? std::string("identity") : Activations::names()[std::size_t(number)];
                             })
      .def_property_readonly("loss", [](const Network& self) { return Losses::names()[self.loss.number]; })
      .def_property_readonly("loss_parameters", [](const Network& self) { return named_values(self.loss); })
      .def_readonly("n_parameters", &Network::n_parameters)
      .def_property_readonly("normalizations",
                             [](const Network& self) {
                               std::vector<std::string> names;
                               for (int number : self.normalizations) names.push_back(Normalizations::names()[number]);
                               return names;
                             })
      .def_readonly("dropout", &Network::dropout)
      .def_readonly("residual", &Network::residual)
      .def_property_readonly("is_plain", &Network::is_plain)
      .def_readonly("n_trainable", &Network::n_trainable)
      .def_property_readonly("offsets", [](const Network& self) {
        py::dict d; // in the order of the flat buffer
        d["coefs"] = self.coefs;
        d["intercepts"] = self.biases;
        d["scales"] = self.scales;
        d["offsets"] = self.offsets;
        d["projections"] = self.projections;
        d["running_means"] = self.means;
        d["running_variances"] = self.variances;
        return d;
      });

  m.def("predict", predict, "network"_a, "parameters"_a, "X"_a, "n_threads"_a = 0, "assume_finite"_a = false);

  m.def("all_finite", all_finite, "array"_a, "n_threads"_a = 0);

  m.def("cuda_status", cuda_status, "library"_a, "device"_a, "cublas"_a);

  py::class_<CudaArray>(m, "CudaArray")
      .def(py::init<const py::object&, const std::string&, const std::string&>(), "array"_a, "library"_a,
           "name"_a = "X")
      .def_property_readonly("shape", &CudaArray::shape_tuple)
      .def_property_readonly("dtype", &CudaArray::number_type)
      .def_property_readonly("device", &CudaArray::device_number)
      .def("__len__", &CudaArray::length)
      .def(
          "to_host",
          [](const CudaArray& self, std::int64_t first, std::optional<std::int64_t> n) {
            return self.to_host(first, n.value_or(self.length() - first));
          },
          "first"_a = 0, "n"_a = py::none())
      .def("find_not_finite", &CudaArray::find_not_finite)
      .def("converted", &CudaArray::converted);

  m.def("hessian_vector_product", hessian_vector_product, "network"_a, "parameters"_a, "X"_a, "y"_a, "sample_weight"_a,
        "alpha"_a, "vector"_a, "n_threads"_a = 0);

  m.def("fit_many", fit_many, "network"_a, "cuda"_a, "X"_a, "data"_a, "fits"_a, "n_threads"_a = 0);

  py::class_<PyPredictor>(m, "Predictor")
      .def(py::init<const Network&, const py::array&, int, bool, bool, bool>(), "network"_a, "parameters"_a,
           "n_threads"_a = 0, "two_columns"_a = false, "flat"_a = false, "assume_finite"_a = false)
      .def("__call__", &PyPredictor::call, "X"_a, "out"_a = py::none());

  py::class_<PyEngine>(m, "Engine")
      .def(py::init<const Network&, const std::string&, int, const py::object&, const py::object&>(), "network"_a,
           "dtype"_a, "n_threads"_a = 0, "loss"_a = py::none(), "cuda"_a = py::none())
      .def("predict", &PyEngine::predict, "parameters"_a, "X"_a, "layer"_a = -1)
      .def("input_gradient", &PyEngine::input_gradient, "parameters"_a, "X"_a, "vectors"_a)
      .def("loss_and_gradient", &PyEngine::loss_and_gradient, "parameters"_a, "X"_a, "y"_a, "sample_weight"_a,
           "alpha"_a, "dropout_seed"_a = 0)
      .def("apply", &PyEngine::apply, "parameters"_a, "gradient"_a, "optimizer"_a, "hyperparameters"_a,
           "learning_rate"_a, "t"_a, "slots"_a)
      .def("hold", &PyEngine::hold, "X"_a, "y"_a, "sample_weight"_a, "validation"_a = py::none())
      .def("release", &PyEngine::release)
      .def("train", &PyEngine::train, "parameters"_a, "slots"_a, "X"_a, "y"_a, "sample_weight"_a, "rows"_a,
           "validation_rows"_a, "random"_a, "options"_a, "on_epoch"_a, "rates"_a = py::none(),
           "validation"_a = py::none(), "score"_a = py::none());
}
