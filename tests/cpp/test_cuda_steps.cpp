// Whole epochs by the kernels for graphics processors against the CPU engine: every entry of every catalogue, and all
// that a step may do.
#include "cuda_on_host.hpp"

#include "cuda_step.hpp"

namespace fastmlp {

namespace {

struct Case {
  std::string name;
  std::vector<std::int64_t> sizes = {9, 12, 7, 3};
  std::vector<std::string> activations = {"tanh", "softplus"};
  std::string loss = "squared_error";
  std::vector<double> loss_values = {};
  HiddenExtras extras = {};
  std::string output_activation = "identity";
  std::string optimizer = "sgd";
  bool weighted = false;
  double clip_norm = infinity, clip_value = infinity, ema_decay = 0;
  int n_rows = 75, batch_size = 33;
};

template <class T> struct Data {
  Array<T> X, y, weights;
  std::vector<std::int32_t> labels;
  std::vector<std::int64_t> order;
  Dataset<T> dataset;

  Data(const Case& test, const Network& network) {
    RandomNumbers<T> numbers(11);
    X = numbers.array(std::size_t(test.n_rows) * network.n_inputs());
    y = numbers.array(std::size_t(test.n_rows) * network.n_targets());
    bool class_numbers = false;
    const RowLoss loss = network.row_loss();
    Losses::visit(loss.number, [&](auto entry) {
      class_numbers = entry.class_numbers;
      for (std::size_t i = 0; i < y.size(); ++i) {
        if (!entry.valid(double(y[i]), loss.h)) y[i] = T(1 + int(i) % 2);
        if (!entry.valid(double(y[i]), loss.h)) y[i] = T(int(i) % 2);
      }
    });
    for (int i = 0; i < test.n_rows; ++i) {
      labels.push_back((i * i + i / 7) % network.n_targets());
      order.push_back((7 * i + 3) % test.n_rows);
      weights.push_back(T(i % 4));
    }
    dataset = {{test.n_rows, network.n_inputs(), X.data(), network.n_inputs()},
               class_numbers ? nullptr : y.data(),
               class_numbers ? labels.data() : nullptr,
               test.weighted ? weights.data() : nullptr};
  }
};

Network network_of(const Case& test) {
  return {test.sizes, test.activations, test.loss, test.loss_values, test.extras, test.output_activation};
}

Rule rule_of(const Case& test) {
  Rule rule;
  rule.optimizer = Optimizers::find(test.optimizer, "optimizer");
  Optimizers::visit(rule.optimizer, [&](auto entry) {
    for (const Hyperparameter& h : entry.hyperparameters) rule.hyperparameters.push_back(h.default_value);
  });
  // where steps have the size of the rate whatever the gradient, its sign must not be left to rounding
  rule.learning_rate = test.optimizer == "sgd" ? 0.05 : 0.003;
  rule.clip_norm = test.clip_norm;
  rule.clip_value = test.clip_value;
  rule.ema_decay = test.ema_decay;
  rule.seed = 0x123456789abcdefull;
  return rule;
}

template <class T> Array<T> start_of(const Network& network) {
  Array<T> start = RandomNumbers<T>(5).array(std::size_t(network.n_parameters), 0.5);
  for (std::ptrdiff_t at = network.n_trainable; at < network.n_parameters; ++at) start[at] = T(1);
  return start;
}

template <class T> struct Trained {
  Array<T> parameters;
  std::vector<double> losses;
};

constexpr double alpha = 0.01;

template <class T> Trained<T> by_cpu(const Case& test) {
  const Network network = network_of(test);
  Data<T> data(test, network);
  Array<T> parameters = start_of<T>(network);
  Rule rule = rule_of(test);
  std::vector<Array<T>> slots(max_slots + 1, Array<T>(parameters.size()));
  std::vector<T*> lent;
  Optimizers::visit(rule.optimizer, [&](auto entry) {
    for (std::size_t s = 0; s < std::size(entry.slots) + (rule.ema_decay > 0); ++s) lent.push_back(slots[s].data());
  });
  const std::unique_ptr<Engine<T>> engine = make_cpu_engine<T>(network, 1);
  engine->set_parameters(parameters.data());
  engine->set_slots(lent);
  Poll poll(nullptr);
  Trained<T> trained;
  for (int epoch = 0; epoch < 2; ++epoch) {
    const EpochResult result =
        engine->epoch(data.dataset, data.order.data(), test.n_rows, test.batch_size, alpha, rule, poll);
    for (auto [loss, penalty] : result.batches) trained.losses.push_back(loss), trained.losses.push_back(penalty);
  }
  if (rule.ema_decay > 0) engine->exchange_average();
  engine->get_parameters(parameters.data());
  trained.parameters = parameters;
  return trained;
}

template <class T, class A> Trained<T> by_kernels(const Case& test) {
  const Network network = network_of(test);
  Data<T> data(test, network);
  Rule rule = rule_of(test);
  cuda::StepByKernels<T, A> step(network, data.dataset, test.batch_size);
  step.w = start_of<T>(network);
  Trained<T> trained;
  for (int epoch = 0; epoch < 2; ++epoch) {
    const EpochResult result = step.epoch(data.order.data(), test.n_rows, test.batch_size, alpha, rule);
    for (auto [loss, penalty] : result.batches) trained.losses.push_back(loss), trained.losses.push_back(penalty);
  }
  trained.parameters = step.w;
  if (rule.ema_decay > 0) {
    const Array<T>& average = step.slots[std::size_t(step.number_of_slots(rule))];
    std::copy_n(average.begin(), network.n_trainable, trained.parameters.begin()); // slots are in another order there
  }
  return trained;
}

// The largest difference relative to numbers of size 1; infinite where one is NaN and the other is not.
template <class X, class Y> double distance(const X& x, const Y& y) {
  double worst = x.size() == y.size() ? 0 : INFINITY;
  for (std::size_t i = 0; i < x.size() && i < y.size(); ++i) {
    const double a = double(x[i]), b = double(y[i]), error = std::abs(a - b) / (1 + std::abs(b));
    if (!(std::isnan(a) && std::isnan(b))) worst = error <= worst ? worst : error;
  }
  return worst;
}

template <class T> void run(const Case& test) {
  const Trained<T> expected = by_cpu<T>(test), computed = by_kernels<T, T>(test);
  const std::string what = std::string(sizeof(T) == 4 ? "float " : "double ") + test.name;
  const double bound = sizeof(T) == 4 ? 1e-3 : 1e-10;
  const double off = distance(computed.parameters, expected.parameters);
  check(off <= bound, what + ": parameters off by " + std::to_string(off));
  const double losses_off = distance(computed.losses, expected.losses);
  check(losses_off <= bound, what + ": losses off by " + std::to_string(losses_off));
  check(distance(start_of<T>(network_of(test)), computed.parameters) > 1e-3, what + ": something was learned");
}

std::vector<Case> all_cases() {
  std::vector<Case> cases;
  const auto add = [&](const std::string& name) -> Case& {
    cases.emplace_back();
    cases.back().name = name;
    return cases.back();
  };
  for (const std::string& name : HiddenActivations::names()) add("activation " + name).activations = {name, name};
  for (const std::string& name : Losses::names()) {
    Case& test = add("loss " + name);
    test.loss = name;
    if (name == "gaussian_nll") test.sizes = {9, 12, 7, 4};
  }
  for (const std::string& name : Optimizers::names()) add("optimizer " + name).optimizer = name;
  add("smoothed labels").loss = "log_loss";
  cases.back().loss_values = {0.1};
  add("three quantiles").loss = "quantile";
  cases.back().loss_values = {0.1, 0.5, 0.9};
  for (const std::string& name : Activations::names()) add("output activation " + name).output_activation = name;
  for (const std::string& name : Normalizations::names())
    for (bool weighted : {false, true}) {
      Case& test = add(name + (weighted ? " with weights" : ""));
      test.extras.normalizations = {name, name};
      test.activations = {"relu", "gelu"};
      test.weighted = weighted;
    }
  Case& dropout = add("dropout");
  dropout.extras.dropout = {0.2, 0.5, 0.3};
  Case& residual = add("skips, one projected");
  residual.sizes = {9, 12, 12, 7, 3};
  residual.activations = {"tanh", "gelu", "logistic"};
  residual.extras.residual = true;
  for (const char* name : {"batch_norm", "layer_norm"}) {
    Case& everything = add("everything");
    everything = residual;
    everything.name = "everything with " + std::string(name);
    everything.extras.normalizations = {name, name, name};
    everything.extras.dropout = {0.1, 0.2, 0.3, 0.4};
    everything.weighted = true;
    everything.clip_norm = 0.3;
    everything.clip_value = 0.05;
    everything.ema_decay = 0.9;
    everything.optimizer = "adamw";
    everything.loss = "log_loss";
  }
  add("clipped by length").clip_norm = 0.1;
  add("clipped by value").clip_value = 0.01;
  add("averaged").ema_decay = 0.9;
  add("weights").weighted = true;
  Case& many = add("many rows and units");
  many.sizes = {31, 65, 33, 2};
  many.n_rows = 1200;
  many.batch_size = 1100;
  many.extras.normalizations = {"batch_norm", "layer_norm"};
  Case& one = add("one of each");
  one.sizes = {1, 1, 1};
  one.activations = {"tanh"};
  one.n_rows = 3;
  one.batch_size = 1;
  Case& odd = add("odd sizes");
  odd.sizes = {33, 130, 31, 1};
  odd.n_rows = 131;
  odd.batch_size = 130;
  add("no hidden layer").sizes = {9, 3};
  cases.back().activations = {};
  return cases;
}

// Bits must not depend on which thread or block comes first.
void test_schedules(const Case& test) {
  const Trained<float> first = by_kernels<float, float>(test);
  bool same = true;
  for (unsigned seed = 1; seed <= 6; ++seed) {
    cuda::on_host::schedule_seed = seed;
    const Trained<float> again = by_kernels<float, float>(test);
    same = same && again.parameters == first.parameters && again.losses == first.losses;
  }
  cuda::on_host::schedule_seed = 0;
  check(same, test.name + ": the same bits in every schedule");
}

// Operands of 16 bits: near, and not the same.
void test_bfloat16() {
  Case test;
  test.name = "bfloat16";
  const Trained<float> expected = by_cpu<float>(test), computed = by_kernels<float, cuda::bfloat16>(test);
  const double off = distance(computed.parameters, expected.parameters);
  check(off < 2e-2 && off > 1e-5, "bfloat16 operands: off by " + std::to_string(off));
}

// A batch that weighs nothing is passed over; one whose loss is NaN ends the epoch before its step.
void test_batches_without_a_step() {
  Case test;
  test.n_rows = 60;
  test.batch_size = 20;
  test.weighted = true;
  test.optimizer = "adam";
  const Network network = network_of(test);
  Data<double> data(test, network);
  for (int i = 20; i < 40; ++i) data.weights[std::size_t(data.order[i])] = 0;
  cuda::StepByKernels<double, double> step(network, data.dataset, test.batch_size);
  step.w = start_of<double>(network);
  Rule rule = rule_of(test);
  EpochResult result = step.epoch(data.order.data(), 60, 20, alpha, rule);
  check(rule.t == 2 && result.failed_batch == 0 && result.batches.size() == 3, "a batch without weight is passed over");
  check(result.batches[1] == std::pair(0.0, 0.0), "and reports nothing");
  data.X[std::size_t(data.order[25]) * network.n_inputs()] = std::nan("");
  for (int i = 20; i < 40; ++i) data.weights[std::size_t(data.order[i])] = 1;
  step.epoch(data.order.data(), 20, 20, alpha, rule);
  const Array<double> before = step.w;
  rule.t = 0;
  result = step.epoch(data.order.data() + 20, 40, 20, alpha, rule);
  check(result.failed_batch == 1 && rule.t == 0 && result.batches.size() == 1, "NaN ends the epoch");
  check(step.w == before, "before its step");
}

} // namespace

void test_cuda_steps() {
  for (const Case& test : all_cases()) {
    run<float>(test);
    run<double>(test);
  }
  for (const Case& test : all_cases())
    if (test.name.find("everything") == 0 || test.name == "many rows and units") test_schedules(test);
  test_bfloat16();
  test_batches_without_a_step();
}

} // namespace fastmlp
