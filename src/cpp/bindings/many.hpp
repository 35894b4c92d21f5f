// Many trainings at once as Python asks for them.
#pragma once

#include "../many_trainer.hpp"
#include "engine.hpp"

#include <deque>

namespace fastmlp {

// What the device computes for one network only.
inline void refuse_for_many(const TrainOptions& options) {
  if (options.early_stopping) reject("many fits at once have no early_stopping");
  if (options.max_seconds < infinity) reject("many fits at once have no max_seconds");
  if (options.report_batch_losses) reject("many fits at once do not report_batch_losses");
}

// One of the trainings from a tuple: number of the data, rows, parameters, slots, random, options, rates, one_by_one.
// Pointers are to arrays that the tuple keeps.
inline ManyFit many_fit(const Network& network, const py::tuple& given, const std::vector<Dataset<float>>& data) {
  if (given.size() != 8) throw py::type_error("each fit must be a tuple of 8, got " + std::to_string(given.size()));
  const auto settings = given[5].cast<py::dict>();
  ManyFit fit;
  fit.options = train_options(settings);
  refuse_for_many(fit.options);
  fit.state = train_state(settings);
  fit.data = given[0].cast<int>();
  if (fit.data < 0 || std::size_t(fit.data) >= data.size())
    reject("the number of a fit's data must be between 0 and " + std::to_string(data.size() - 1) + ", got " +
           std::to_string(fit.data));
  fit.rows = row_numbers(given[1], "rows", data[0].X.n_rows, true);
  constexpr std::size_t most_rows = std::size_t(1) << 30;
  if (fit.rows.empty() || fit.rows.size() > most_rows)
    reject("a fit must have between 1 and 2**30 rows, got " + std::to_string(fit.rows.size()));
  fit.options.batch_size = std::min(fit.options.batch_size, fit.n_rows());
  py::array parameters = array_argument(given[2], "parameters");
  fit.parameters = output<float>(parameters, "parameters", {network.n_parameters});
  auto slots = given[3].cast<std::vector<py::array>>();
  fit.slots = slot_pointers<float>(fit.options.rule, slots, network.n_parameters);
  fit.random = given[4].cast<MT19937&>();
  fit.one_by_one = given[7].cast<bool>();
  return fit;
}

// Trains in float32, and returns the outcome of each as Engine.train does.
inline py::list fit_many(const Network& network, const py::object& where, const py::array& X, const py::list& targets,
                         const py::list& given, int n_threads) {
  const CudaPlace place = cuda_place(where);
  if (n_threads < 0) reject("n_threads must be 0 (automatic) or positive, got " + std::to_string(n_threads));
  if (given.empty() || targets.empty()) reject("there must be data and fits");
  input<float>(X, "X", {-1, network.n_inputs()});
  std::vector<Dataset<float>> data;
  for (const py::handle& pair : targets) {
    const auto [y, weights] = pair.cast<std::pair<py::object, py::object>>();
    data.push_back(dataset<float>(network, X, array_argument(y, "y"), weights));
  }
  std::vector<ManyFit> fits;
  std::deque<PythonHooks> hooks; // they stay where they are
  for (const py::handle& one : given) {
    const auto tuple = one.cast<py::tuple>();
    fits.push_back(many_fit(network, tuple, data));
    hooks.emplace_back(py::none(), tuple[6], py::none());
    fits.back().hooks.rates = hooks.back().hooks.rates;
    const Rule &first = fits[0].options.rule, &rule = fits.back().options.rule;
    if (rule.optimizer != first.optimizer || (rule.ema_decay > 0) != (first.ema_decay > 0))
      reject("many fits at once need one optimizer, and averages in all of them or none");
  }
  {
    const py::gil_scoped_release release;
    ManyTrainer trainer(fits, n_threads);
    const std::unique_ptr<ManyEngine> engine(
        cuda::open_library(place.library)
            .make_many_engine(network, place.device, place.precision, data, trainer.models()));
    trainer.run(*engine, hooks[0].hooks.poll);
  }
  for (const PythonHooks& each : hooks) each.raise();
  py::list outcomes;
  for (std::size_t i = 0; i < fits.size(); ++i) {
    given[i].cast<py::tuple>()[4].cast<MT19937&>() = fits[i].random;
    outcomes.append(train_report<float>(fits[i].options, fits[i].state, {}));
  }
  return outcomes;
}

} // namespace fastmlp
