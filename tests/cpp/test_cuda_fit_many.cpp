// Many whole trainings in one kernel, on the host: three models that share X, each with its own rows, learning rate,
// penalty and seed, against the CPU engine.
#include "cuda_on_host.hpp"

#include "check.hpp"

#include "../../src/cpp/cpu/layout.hpp"
#include "../../src/cpp/cuda/kernels/fit_many.cuh"
#include "../../src/cpp/cuda/launch_narrow.hpp"
#include "../../src/cpp/engine.hpp"

namespace fastmlp {

namespace {

using namespace cuda;

struct Setting {
  std::string optimizer;
  bool clips_and_averages;
  int most_shared_bytes;
};

constexpr int n_all = 120, n_models = 3, n_epochs = 4, batch_size = 20;

HiddenExtras some_dropout() {
  HiddenExtras extras;
  extras.dropout = {0.1, 0.2, 0.3};
  return extras;
}
const Network network({7, 20, 18, 3}, {"tanh", "gelu"}, "log_loss", {}, some_dropout());

// One model: what the caller of the kernel has on the host.
struct Model {
  Rule rule;
  double alpha;
  std::vector<std::int64_t> order; // [n_epochs][n_rows]
  int n_rows;
  Array<float> w;
  std::vector<Array<float>> slots;
  std::vector<StepCoefficients<float>> table;
  std::vector<double> losses = std::vector<double>(n_epochs, -1);
};

std::vector<Model> models_of(const Setting& setting) {
  std::vector<Model> models(n_models);
  for (int m = 0; m < n_models; ++m) {
    Model& model = models[std::size_t(m)];
    model.rule.optimizer = Optimizers::find(setting.optimizer, "optimizer");
    int n_slots = 0;
    Optimizers::visit(model.rule.optimizer, [&](auto entry) {
      for (const Hyperparameter& h : entry.hyperparameters) model.rule.hyperparameters.push_back(h.default_value);
      n_slots = int(std::size(entry.slots));
    });
    model.rule.learning_rate = 0.01 * (m + 1);
    model.rule.seed = std::uint64_t(100 + m);
    if (setting.clips_and_averages) {
      model.rule.clip_norm = 0.3;
      model.rule.clip_value = 0.05;
      model.rule.ema_decay = 0.8;
    }
    model.alpha = 0.02 * m;
    model.n_rows = 90 - 11 * m;
    for (int i = 0; i < n_epochs * model.n_rows; ++i) model.order.push_back((i * (7 + 6 * m) + m) % n_all);
    model.w = RandomNumbers<float>(std::uint64_t(20 + m)).array(std::size_t(network.n_parameters), 0.4);
    model.slots.assign(std::size_t(n_slots + setting.clips_and_averages), Array<float>(model.w.size()));
    for (int t = 1; t <= n_epochs * ceil_div(model.n_rows, batch_size); ++t) {
      const Step<float> step(model.rule, t);
      StepCoefficients<float> c;
      std::copy_n(step.weights, max_coefficients, c.weights);
      std::copy_n(step.others, max_coefficients, c.others);
      c.ema_decay = step.ema_decay;
      model.table.push_back(c);
    }
  }
  return models;
}

struct Rows {
  Array<float> X = RandomNumbers<float>(31).array(std::size_t(n_all) * 7), weights;
  std::vector<std::int32_t> labels;
  Rows() {
    for (int i = 0; i < n_all; ++i) {
      labels.push_back((i * i + i / 5) % 3);
      weights.push_back(float(1 + i % 3));
    }
  }
};

FitModel device_model(Model& model) {
  FitModel m{};
  m.order = model.order.data();
  m.n_epochs = n_epochs;
  m.n_rows = model.n_rows;
  m.batch_size = batch_size;
  m.w = model.w.data();
  for (std::size_t s = 0; s < model.slots.size(); ++s) m.slots[s] = model.slots[s].data();
  m.table = model.table.data();
  m.alpha = float(model.alpha);
  m.clip_value = float(model.rule.clip_value);
  m.clip_norm = model.rule.clip_norm;
  m.n_iter_no_change = INFINITY;
  m.losses = model.losses.data();
  m.state.seed = {std::uint32_t(model.rule.seed), std::uint32_t(model.rule.seed >> 32)};
  m.best_loss = INFINITY;
  return m;
}

// The trained models, and what the kernel says of them; `change` may alter these before.
template <class Change>
std::vector<FitModel> train(std::vector<Model>& models, const Rows& rows, const Setting& setting, Precision precision,
                            Change&& change) {
  const int n_slots = int(models[0].slots.size());
  const std::optional<FitPlan> plan = fit_plan(network, precision, n_slots, setting.most_shared_bytes);
  std::vector<FitModel> given;
  for (Model& model : models) given.push_back(device_model(model));
  for (FitModel& model : given) model.targets = {nullptr, rows.labels.data(), rows.weights.data()};
  change(given);
  std::vector<float> gradients(std::size_t(network.n_parameters) * n_models);
  FitData data{};
  data.X = rows.X.data();
  data.stride = network.n_inputs();
  data.loss = network.row_loss();
  data.loss_share = 1;
  data.optimizer = models[0].rule.optimizer;
  data.n_slots = n_slots;
  data.matrices_end = network.biases[0];
  data.models = given.data();
  data.gradients = gradients.data();
  launch_fit_many(nullptr, precision, *plan, data, n_models);
  return given;
}

std::vector<FitModel> train(std::vector<Model>& models, const Rows& rows, const Setting& setting, Precision precision) {
  return train(models, rows, setting, precision, [](std::vector<FitModel>&) {});
}

void train_by_cpu(Model& model, const Rows& rows) {
  const std::unique_ptr<Engine<float>> engine = make_cpu_engine<float>(network, 1);
  engine->set_parameters(model.w.data());
  std::vector<float*> lent;
  for (Array<float>& slot : model.slots) lent.push_back(slot.data());
  engine->set_slots(lent);
  const Dataset<float> data{
      {n_all, network.n_inputs(), rows.X.data(), network.n_inputs()}, nullptr, rows.labels.data(), rows.weights.data()};
  Poll poll(nullptr);
  for (int epoch = 0; epoch < n_epochs; ++epoch) {
    const EpochResult result = engine->epoch(data, model.order.data() + epoch * model.n_rows, model.n_rows, batch_size,
                                             model.alpha, model.rule, poll);
    model.losses[std::size_t(epoch)] = (result.loss + result.penalty) / model.n_rows;
  }
  if (model.rule.ema_decay > 0) engine->exchange_average();
  engine->get_parameters(model.w.data());
}

void test_against_cpu(const Setting& setting) {
  const Rows rows;
  std::vector<Model> models = models_of(setting), expected = models_of(setting);
  const std::vector<FitModel> said = train(models, rows, setting, Precision::ieee);
  for (int m = 0; m < n_models; ++m) {
    Model &model = models[std::size_t(m)], &right = expected[std::size_t(m)];
    train_by_cpu(right, rows);
    const std::string what = "many fits, " + setting.optimizer + ", model " + std::to_string(m);
    const std::vector<double> w(right.w.begin(), right.w.end());
    check_close(setting.clips_and_averages ? model.slots.back() : model.w, w, what);
    check_close(Array<float>(model.losses.begin(), model.losses.end()), right.losses, what + ", losses");
    check(said[std::size_t(m)].state.t == right.rule.t && said[std::size_t(m)].n_iter == n_epochs, what + ", steps");
  }
}

void test_other_ways() {
  const Rows rows;
  Setting setting{"adam", false, 227 * 1024};
  std::vector<Model> first = models_of(setting);
  train(first, rows, setting, Precision::tf32);
  const auto same_bits = [&](std::vector<Model>& again) {
    bool same = true;
    for (std::size_t m = 0; m < n_models; ++m)
      same = same && again[m].w == first[m].w && again[m].losses == first[m].losses && again[m].slots == first[m].slots;
    return same;
  };
  for (unsigned seed = 1; seed <= 3; ++seed) {
    on_host::schedule_seed = seed;
    std::vector<Model> again = models_of(setting);
    train(again, rows, setting, Precision::tf32);
    check(same_bits(again), "many fits: the same bits in every schedule");
  }
  on_host::schedule_seed = 0;
  // where the state of the models has no room in shared memory
  const int shared = fit_plan(network, Precision::tf32, 2, 227 * 1024)->fused.shared_bytes;
  int tight = shared;
  while (fit_plan(network, Precision::tf32, 2, tight)->state_at >= 0) tight -= 256;
  std::vector<Model> again = models_of(setting);
  train(again, rows, {"adam", false, tight}, Precision::tf32);
  double worst = 0;
  for (std::size_t m = 0; m < n_models; ++m)
    for (std::size_t i = 0; i < again[m].w.size(); ++i)
      worst = std::max(worst, double(std::abs(again[m].w[i] - first[m].w[i])));
  check(worst < 1e-3, "many fits with their state in global memory");
}

void test_stopping(unsigned seed) {
  on_host::schedule_seed = seed;
  const Rows rows;
  const Setting setting{"sgd", false, 227 * 1024};
  std::vector<Model> models = models_of(setting);
  models[1].w[0] = NAN;
  const std::vector<FitModel> said = train(models, rows, setting, Precision::ieee, [](std::vector<FitModel>& given) {
    given[0].tol = 1e9; // no epoch improves so much
    given[0].n_iter_no_change = 1;
  });
  // the first epoch is better than infinity by any tol, then two are not
  check(said[0].stopped && said[0].n_iter == 3 && models[0].losses[3] == -1, "no improvement stops one model");
  check(said[1].state.failed == 1 && said[1].state.t == 0 && std::isnan(models[1].losses[0]), "NaN stops another");
  check(!said[2].stopped && said[2].n_iter == n_epochs, "and the third goes on");
  on_host::schedule_seed = 0;
}

} // namespace

void test_cuda_fit_many() {
  for (const std::string& optimizer : Optimizers::names())
    test_against_cpu({optimizer, optimizer == "sgd" || optimizer == "adamw", 227 * 1024});
  test_other_ways();
  for (unsigned seed : {0, 1, 2, 3}) test_stopping(seed);
}

} // namespace fastmlp
