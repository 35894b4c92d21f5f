// Trainings as Python describes them: the rule of the steps, options in a dict, and what is reported in another.
#pragma once

#include "../trainer.hpp"
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

inline TrainState train_state(const py::dict& settings) {
  TrainState state;
  state.n_samples_seen = counter(option<std::int64_t>(settings, "n_samples_seen"), "n_samples_seen", 0);
  state.no_improvement_count =
      counter(option<std::int64_t>(settings, "no_improvement_count"), "no_improvement_count", 0);
  state.best_loss = option<double>(settings, "best_loss");
  state.best_validation_score = option<double>(settings, "best_validation_score");
  constexpr int n_options = 25; // every one was found: any more are unknown
  if (settings.size() != n_options)
    reject("training knows " + std::to_string(n_options) + " options, got " + std::to_string(settings.size()));
  return state;
}

template <class T>
py::dict train_report(const TrainOptions& options, const TrainState& state, const std::vector<T>& best) {
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

} // namespace fastmlp
