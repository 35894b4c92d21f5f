// What a training is told from Python: its options, and functions that are asked on the way.
#pragma once

#include "../trainer.hpp"
#include "arrays.hpp"
#include "hyperparameters.hpp"

#include <map>

namespace fastmlp {

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

} // namespace fastmlp
