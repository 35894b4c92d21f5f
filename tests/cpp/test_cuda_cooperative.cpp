// Cooperative steps on the host, whose blocks take turns: the same bits in every schedule. That they are the CPU's
// steps, tests/test_cuda_engine.py sees.
#include "cuda_on_host.hpp"

#include "check.hpp"

#include "../../src/cpp/cuda/kernels/cooperative.cuh"
#include "../../src/cpp/cuda/launch_cooperative.hpp"
#include "../../src/cpp/cuda/layout.hpp"

namespace fastmlp {

namespace {

using namespace cuda;

struct Steps {
  std::vector<float> parameters, slots;
  std::vector<double> reports;
  StepState state;

  bool operator==(const Steps& other) const {
    return parameters == other.parameters && slots == other.slots && reports == other.reports &&
           state.t == other.state.t && state.first == other.state.first;
  }
};

struct Example {
  static constexpr int n_rows = 37, n_steps = 3, n_all = n_rows * n_steps;

  explicit Example(const Network& network) : network(network), layout(network) {
    RandomNumbers<float> numbers(7);
    X = numbers.array(std::size_t(n_all) * network.n_inputs());
    y = numbers.array(std::size_t(n_all) * network.n_targets());
    start = numbers.array(std::size_t(layout.size), 0.4);
    for (int i = 0; i < n_all; ++i) {
      labels.push_back(i * 5 % network.n_targets());
      order.push_back((i * 7 + 1) % n_all);
      weights.push_back(float(1 + i % 3));
    }
  }

  Steps run(Precision precision, int n_blocks) const {
    const CooperativePlan plan = *cooperative_plan(network, precision, layout);
    Steps result;
    result.parameters.assign(start.begin(), start.end());
    result.slots.resize(start.size());
    std::vector<bfloat16> shadow(start.size());
    std::vector<StepCoefficients<float>> table(n_steps, {{0.9f, 0.1f, 1}, {0.9f, 0.1f, 1}, 0});
    std::vector<BatchReport> reports(n_steps);
    std::vector<float> room(std::size_t(plan.numbers_of_row) * n_rows, NAN);
    std::vector<double> sums(std::size_t(2 * plan.strips(n_rows)), NAN), partials(std::size_t(n_blocks), NAN);
    result.state.seed = {3, 4};
    CooperativeData data{};
    data.X = X.data();
    data.stride = network.n_inputs();
    data.rows = {order.data(), &result.state, n_rows};
    data.n_steps = n_steps;
    const bool has_labels = network.n_targets() > 2;
    data.targets = {has_labels ? nullptr : y.data(), has_labels ? labels.data() : nullptr, weights.data()};
    data.loss = network.row_loss();
    data.parameters.w = result.parameters.data();
    data.parameters.slots[0] = result.slots.data();
    data.parameters.operands = shadow.data();
    data.parameters.n = data.parameters.matrices_again = layout.trained;
    data.parameters.matrices_end = layout.matrices;
    data.how = {Optimizers::find("sgd", "optimizer"),
                0.1f,
                INFINITY,
                INFINITY,
                table.data(),
                partials.data(),
                reports.data(),
                n_all};
    data.room = room.data();
    data.sums = sums.data();
    data.state = &result.state;
    launch_cooperative(nullptr, precision, plan, data, n_blocks);
    for (const BatchReport& report : reports)
      result.reports.push_back(report.loss), result.reports.push_back(report.penalty);
    bool follows = true; // gaps stay as they are
    for (std::size_t i = 0; i < start.size(); ++i)
      follows = follows && (result.parameters[i] == start[i] || shadow[i].bits == bfloat16(result.parameters[i]).bits);
    check(follows, "what products read follows the weights");
    return result;
  }

  const Network network;
  const Layout layout;
  Array<float> X, y, start;
  std::vector<std::int32_t> labels;
  std::vector<std::int64_t> order;
  std::vector<float> weights;
};

void test_schedules(const std::string& name, const Network& network, Precision precision) {
  const Example example(network);
  for (int n_blocks : {2, 5}) { // with work for more than one turn of a block, and for less
    const Steps first = example.run(precision, n_blocks);
    check(first.state.t == Example::n_steps && first.state.first == Example::n_all && first.state.failed == 0,
          name + ": all steps are taken");
    check(first.state.arrived_together == 0 && first.state.arrived_end == 0,
          name + ": counters are ready for another time");
    for (unsigned seed = 1; seed <= 4; ++seed) {
      on_host::schedule_seed = seed;
      check(example.run(precision, n_blocks) == first, name + ": the same bits in every schedule");
    }
    on_host::schedule_seed = 0;
  }
}

} // namespace

void test_cuda_cooperative() {
  HiddenExtras dropout;
  dropout.dropout = {0.1, 0.3, 0.2};
  const Network deep({21, 140, 132, 33}, {"gelu", "tanh"}, "log_loss", {}, dropout);
  test_schedules("ieee", deep, Precision::ieee);
  test_schedules("tf32", deep, Precision::tf32);
  test_schedules("bf16", Network({21, 40, 2}, {"relu"}, "squared_error", {}, {}, "logistic"), Precision::bf16);
}

} // namespace fastmlp
