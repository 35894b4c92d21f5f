#include "many_engine.hpp"

#include "fit_many.hpp"
#include "memory.hpp"

namespace fastmlp::cuda {

namespace {

// Throws, saying which of the kernel's limits the network passes.
[[noreturn]] void refuse(const Network& network) {
  const std::string text = "many fits at once need networks of up to " + std::to_string(most_fused_layers) +
                           " layers of weights, " + std::to_string(most_fused_width) + " units a layer and " +
                           std::to_string(fused_warps * few_slots) +
                           " tiles of 16 x 16 weights, without "
                           "normalization and residual; got ";
  for (int l = 1; l < network.n_layers(); ++l) {
    if (network.has_skip(l)) throw std::invalid_argument(text + "residual=True");
    if (Network::statistics_of(network.normalizations[std::size_t(l - 1)]) != Statistics::none)
      throw std::invalid_argument(text + "normalization " +
                                  Normalizations::names()[std::size_t(network.normalizations[std::size_t(l - 1)])]);
  }
  std::string sizes;
  for (int size : network.sizes) sizes += (sizes.empty() ? "" : ", ") + std::to_string(size);
  throw std::invalid_argument(text + "layers of " + sizes + " units");
}

FitPlan plan_of(const Network& network, Precision precision, int n_slots, int most_shared_bytes) {
  const std::optional<FitPlan> plan = fit_plan(network, precision, n_slots, most_shared_bytes);
  if (!plan) refuse(network);
  return *plan;
}

// visit(in the flat buffer of parameters, in that of a slot), where the weights of a layer are (fan_out, fan_in).
template <class F> void each_of_slot(const Network& network, F&& visit) {
  for (int l = 0; l < network.n_layers(); ++l) {
    const std::ptrdiff_t start = network.coefs[std::size_t(l)];
    const int fan_in = network.sizes[std::size_t(l)], fan_out = network.sizes[std::size_t(l) + 1];
    for (int i = 0; i < fan_in; ++i)
      for (int j = 0; j < fan_out; ++j)
        visit(start + std::ptrdiff_t(i) * fan_out + j, start + std::ptrdiff_t(j) * fan_in + i);
  }
  for (std::ptrdiff_t i = network.biases[0]; i < network.n_trainable; ++i) visit(i, i);
}

class DeviceManyEngine final : public ManyEngine {
public:
  DeviceManyEngine(const Network& given, std::unique_ptr<Device> on, Precision precision,
                   const std::vector<Dataset<float>>& data, const std::vector<ManyModel>& models)
      : network(given), device(std::move(on)), models(models), precision(precision), n_slots(models[0].slots.size()),
        plan(plan_of(network, precision, int(n_slots), device->capabilities().shared_bytes)),
        length(ceil_div<std::size_t>(std::size_t(network.n_parameters), 32) * 32) {
    std::size_t n_orders = 0, n_steps = 0;
    for (const ManyModel& model : models) {
      const std::size_t most = std::size_t(model.most_epochs);
      orders_at.push_back(n_orders);
      n_orders += 2 * most * std::size_t(model.n_rows);
      n_steps += most * std::size_t(model.steps_of_epoch());
      n_losses += most;
    }
    reserve(data, {{&state, models.size() * (1 + n_slots) * length * sizeof(float)},
                   {&gradients, plan.state_at < 0 ? models.size() * length * sizeof(float) : 0},
                   {&orders, n_orders * sizeof(std::int64_t)},
                   {&tables, n_steps * sizeof(StepCoefficients<float>)},
                   {&losses, n_losses * sizeof(double)},
                   {&records, models.size() * sizeof(FitModel)},
                   {&loss_values, std::max<std::size_t>(network.loss.values.size(), 1) * sizeof(double)}});
    copy_data(data);
    device->upload(loss_values.get(), network.loss.values.data(), network.loss.values.size() * sizeof(double));
    for (std::size_t m = 0; m < models.size(); ++m) set_state(m);
    device->wait(); // orders will come beside what is under way
  }

  void give_orders(int model, int half, const std::int64_t* rows, std::int64_t n_epochs) override {
    device->upload_beside(orders_of(model, half), rows,
                          std::size_t(n_epochs * models[std::size_t(model)].n_rows) * sizeof(std::int64_t));
  }

  void launch(const std::vector<ManyEpochs>& epochs) override {
    launched.clear();
    n_losses = 0;
    std::vector<StepCoefficients<float>> table;
    for (const ManyEpochs& next : epochs) {
      launched.push_back(describe(next, n_losses, table.size()));
      n_losses += std::size_t(next.n_epochs);
      for (const Step<float>& step : next.steps) {
        StepCoefficients<float>& c = table.emplace_back();
        std::copy_n(step.weights, max_coefficients, c.weights);
        std::copy_n(step.others, max_coefficients, c.others);
        c.ema_decay = step.ema_decay;
      }
    }
    device->upload(tables.get(), table.data(), table.size() * sizeof table[0]);
    device->upload(records.get(), launched.data(), launched.size() * sizeof launched[0]);
    FitData data{};
    data.X = static_cast<const float*>(X.get());
    data.stride = network.n_inputs();
    data.loss = network.row_loss();
    data.loss.h.values = static_cast<const double*>(loss_values.get());
    data.loss_share = network.loss_share();
    data.optimizer = models[0].rule.optimizer;
    data.n_slots = int(n_slots);
    data.matrices_end = network.biases[0];
    data.models = static_cast<FitModel*>(records.get());
    data.gradients = static_cast<float*>(gradients.get());
    device->fit_many(precision, plan, data, int(launched.size()));
  }

  std::vector<ManyResult> wait() override {
    std::vector<double> found(n_losses);
    device->download(found.data(), losses.get(), found.size() * sizeof found[0]);
    std::vector<FitModel> ended(launched);
    device->download(ended.data(), records.get(), ended.size() * sizeof ended[0]);
    std::vector<ManyResult> results;
    auto next = found.begin();
    for (const FitModel& model : ended) {
      results.push_back({{next, next + model.n_iter}, model.state.t, model.state.failed});
      next += model.n_epochs;
    }
    return results;
  }

  void get() override {
    std::vector<float> all(models.size() * (1 + n_slots) * length);
    device->download(all.data(), state.get(), all.size() * sizeof(float));
    const float* here = all.data();
    for (const ManyModel& model : models)
      for (std::size_t a = 0; a <= n_slots; ++a, here += length)
        if (float* slot = slot_of(model, a))
          each_of_slot(network, [&](std::ptrdiff_t from, std::ptrdiff_t to) { slot[to] = here[from]; });
        else
          std::copy_n(here, network.n_trainable, model.parameters);
  }

private:
  // Which slot of a model the array `a` of its state is: first the weights that move, then the slots of the optimizer;
  // null: the model's parameters.
  float* slot_of(const ManyModel& model, std::size_t a) const {
    if (model.rule.ema_decay == 0) return a == 0 ? nullptr : model.slots[a - 1];
    return a == 0 ? model.slots.back() : a == n_slots ? nullptr : model.slots[a - 1];
  }
  float* state_of(std::size_t model) const { return static_cast<float*>(state.get()) + model * (1 + n_slots) * length; }
  std::int64_t* orders_of(int model, int half) const {
    const ManyModel& m = models[std::size_t(model)];
    return static_cast<std::int64_t*>(orders.get()) + orders_at[std::size_t(model)] +
           (half ? m.most_epochs * m.n_rows : 0);
  }

  // All or nothing of it, and of what is needed for the data.
  void reserve(const std::vector<Dataset<float>>& data, const std::vector<std::pair<Memory*, std::size_t>>& wanted) {
    const std::size_t n = std::size_t(data[0].X.n_rows);
    std::size_t all = n * std::size_t(network.n_inputs()) * sizeof(float);
    for (const Dataset<float>& d : data)
      all += n * ((d.y ? std::size_t(network.n_targets()) * sizeof(float) : sizeof(std::int32_t)) +
                  (d.sample_weight ? sizeof(float) : 0));
    for (const auto& [memory, bytes] : wanted) all += bytes;
    const std::size_t free = device->free_bytes();
    if (all > free)
      throw OutOfMemory("many fits at once, " + std::to_string(models.size()) + " with " + std::to_string(n) +
                        " rows and " + std::to_string(network.n_parameters) + " parameters, need " + gibibytes(all) +
                        " of the device's memory, of which " + gibibytes(free) + " are free");
    for (const auto& [memory, bytes] : wanted) {
      *memory = Memory(*device);
      memory->reserve(bytes);
    }
  }

  void copy_data(const std::vector<Dataset<float>>& data) {
    const std::size_t n = std::size_t(data[0].X.n_rows);
    X = copied(data[0].X.data, n * std::size_t(network.n_inputs()));
    for (const Dataset<float>& d : data) {
      const std::size_t of_row = std::size_t(network.n_targets());
      Memory y = copied(d.y, n * of_row), labels = copied(d.labels, n), weights = copied(d.sample_weight, n);
      targets.push_back({static_cast<const float*>(y.get()), static_cast<const std::int32_t*>(labels.get()),
                         static_cast<const float*>(weights.get())});
      for (Memory* memory : {&y, &labels, &weights}) held.push_back(std::move(*memory));
    }
  }
  template <class S> Memory copied(const S* from, std::size_t n) {
    Memory to(*device);
    if (!from) return to;
    to.reserve(n * sizeof(S));
    device->upload(to.get(), from, n * sizeof(S));
    return to;
  }

  void set_state(std::size_t m) {
    std::vector<float> all((1 + n_slots) * length, 0.0f);
    float* here = all.data();
    for (std::size_t a = 0; a <= n_slots; ++a, here += length)
      if (const float* slot = slot_of(models[m], a))
        each_of_slot(network, [&](std::ptrdiff_t to, std::ptrdiff_t from) { here[to] = slot[from]; });
      else
        std::copy_n(models[m].parameters, network.n_trainable, here);
    device->upload(state_of(m), all.data(), all.size() * sizeof(float));
  }

  FitModel describe(const ManyEpochs& next, std::size_t losses_at, std::size_t table_at) const {
    const ManyModel& model = models[std::size_t(next.model)];
    FitModel m{};
    m.order = orders_of(next.model, next.half) + next.first * model.n_rows;
    m.n_epochs = int(next.n_epochs);
    m.n_rows = int(model.n_rows);
    m.batch_size = int(model.batch_size);
    m.targets = targets[std::size_t(model.data)];
    m.w = state_of(std::size_t(next.model));
    for (std::size_t s = 0; s < n_slots; ++s) m.slots[s] = m.w + (1 + s) * length;
    m.table = static_cast<const StepCoefficients<float>*>(tables.get()) + table_at;
    m.alpha = float(model.alpha);
    m.clip_value = float(model.rule.clip_value);
    m.clip_norm = model.rule.clip_norm;
    m.tol = model.tol;
    m.n_iter_no_change = model.n_iter_no_change;
    m.losses = static_cast<double*>(losses.get()) + losses_at;
    m.state.t = m.state.table_after = next.t;
    if (model.rule.seed != 0) m.state.seed = {std::uint32_t(model.rule.seed), std::uint32_t(model.rule.seed >> 32)};
    m.best_loss = next.best_loss;
    m.no_improvement_count = next.no_improvement_count;
    return m;
  }

  const Network network;
  const std::unique_ptr<Device> device;
  const std::vector<ManyModel> models;
  const Precision precision;
  const std::size_t n_slots;
  const FitPlan plan;
  const std::size_t length; // of the parameters of a model and of each of its slots, which follow them
  std::vector<std::size_t> orders_at;
  Memory X, state, gradients, orders, tables, losses, records, loss_values;
  std::vector<Memory> held; // what targets point to
  std::vector<Targets<float>> targets;
  std::vector<FitModel> launched;
  std::size_t n_losses = 0; // of a launch
};

} // namespace

std::unique_ptr<ManyEngine> make_many_engine(const Network& network, std::unique_ptr<Device> device,
                                             Precision precision, const std::vector<Dataset<float>>& data,
                                             const std::vector<ManyModel>& models) {
  if (precision == Precision::bf16)
    throw std::invalid_argument("many fits at once have the precisions 'ieee' and 'tf32', got 'bf16'");
  return std::make_unique<DeviceManyEngine>(network, std::move(device), precision, data, models);
}

} // namespace fastmlp::cuda
