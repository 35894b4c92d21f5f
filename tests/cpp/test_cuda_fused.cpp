// The fused step of narrow networks on the host: against the CPU engine's gradient in each precision, for every
// activation and loss, and the same bits in every schedule.
#include "cuda_on_host.hpp"

#include "check.hpp"

#include "../../src/cpp/cuda/kernels/fused.cuh"
#include "../../src/cpp/cuda/kernels/update.cuh"
#include "../../src/cpp/cuda/launch_narrow.hpp"
#include "../../src/cpp/engine.hpp"

#include <numeric>
#include <set>

namespace fastmlp {

namespace {

using namespace cuda;

constexpr int most_shared_bytes = 227 * 1024; // of an H100's block

struct Problem {
  Network network;
  int n_rows;
  Array<float> X, y, weights, parameters;
  std::vector<std::int32_t> labels;
  std::vector<std::int64_t> order;
  bool class_numbers = false;

  Problem(const Network& network, int n_rows, bool weighted) : network(network), n_rows(n_rows) {
    RandomNumbers<float> numbers(13);
    X = numbers.array(std::size_t(n_rows) * network.n_inputs());
    y = numbers.array(std::size_t(n_rows) * network.n_targets());
    parameters = numbers.array(std::size_t(network.n_parameters), 0.4);
    const RowLoss loss = network.row_loss();
    Losses::visit(loss.number, [&](auto entry) {
      class_numbers = entry.class_numbers;
      for (std::size_t i = 0; i < y.size(); ++i) {
        if (!entry.valid(double(y[i]), loss.h)) y[i] = float(1 + i % 2);
        if (!entry.valid(double(y[i]), loss.h)) y[i] = float(i % 2);
      }
    });
    for (int i = 0; i < n_rows; ++i) {
      labels.push_back(i * 5 % network.n_targets());
      order.push_back((i * 17 + 1) % n_rows);
      if (weighted) weights.push_back(float(1 + i % 3));
    }
  }

  const float* targets() const { return class_numbers ? nullptr : y.data(); }
  const std::int32_t* class_labels() const { return class_numbers ? labels.data() : nullptr; }
};

struct Gradient {
  Array<float> numbers;
  double loss, weight;
  bool operator==(const Gradient& g) const { return numbers == g.numbers && loss == g.loss && weight == g.weight; }
};

const RandomKey seed{3, 4};

// Of the sum of the weighted losses, in double.
Gradient by_cpu(const Problem& p) {
  const std::unique_ptr<Engine<double>> engine = make_cpu_engine<double>(p.network, 1);
  const Array<double> X(p.X.begin(), p.X.end()), y(p.y.begin(), p.y.end()), weights(p.weights.begin(), p.weights.end()),
      parameters(p.parameters.begin(), p.parameters.end());
  engine->set_parameters(parameters.data());
  Array<double> gradient(parameters.size());
  const Dataset<double> data{{p.n_rows, p.network.n_inputs(), X.data(), p.network.n_inputs()},
                             p.class_numbers ? nullptr : y.data(),
                             p.class_labels(),
                             weights.empty() ? nullptr : weights.data()};
  double penalty = 0, weight = p.n_rows;
  if (!weights.empty()) weight = std::accumulate(weights.begin(), weights.end(), 0.0);
  const double loss =
      engine->loss_and_gradient(data, p.order.data(), p.n_rows, 0, seed.of(1), penalty, gradient.data());
  Gradient g{{}, loss * weight, weight};
  for (double x : gradient) g.numbers.push_back(float(x * weight));
  return g;
}

template <Precision precision>
Gradient by_kernel(const Problem& p, int n_blocks, const FusedPlan& plan, float before = NAN) {
  const std::size_t n = std::size_t(plan.n_parameters);
  std::vector<float> parts(n * std::size_t(n_blocks), before);
  std::vector<double> partials(2 * std::size_t(n_blocks));
  StepState state;
  state.seed = seed;
  FusedData data{};
  data.X = p.X.data();
  data.stride = p.network.n_inputs();
  data.rows = {p.order.data(), &state, p.n_rows};
  data.targets = {p.targets(), p.class_labels(), p.weights.empty() ? nullptr : p.weights.data()};
  data.loss = p.network.row_loss();
  data.w = p.parameters.data();
  data.gradients = parts.data();
  data.partials = partials.data();
  data.state = &state;
  launch_fused(nullptr, precision, plan, data, n_blocks);
  Gradient g{Array<float>(n), state.loss, state.weight};
  for (std::size_t i = 0; i < parts.size(); ++i) g.numbers[i % n] += parts[i];
  return g;
}

template <Precision precision> Gradient by_kernel(const Problem& p, int n_blocks) {
  const std::optional<FusedPlan> plan = fused_plan(p.network, precision, most_shared_bytes);
  if (!plan) throw std::runtime_error("the network does not fit");
  return by_kernel<precision>(p, n_blocks, *plan);
}

// The largest difference, relative to the largest number.
double distance(const Gradient& a, const Gradient& b) {
  double largest = 0, worst = 0;
  for (std::size_t i = 0; i < a.numbers.size(); ++i) {
    largest = std::max(largest, std::abs(double(b.numbers[i])));
    const double error = std::abs(double(a.numbers[i]) - double(b.numbers[i]));
    worst = error <= worst ? worst : error;
  }
  const double loss = std::abs(a.loss - b.loss) / (1 + std::abs(b.loss));
  return std::max(worst / largest, loss) + (a.weight == b.weight ? 0 : 1);
}

template <Precision precision>
constexpr double bound = precision == Precision::ieee   ? 2e-5
                         : precision == Precision::tf32 ? 3e-2
                                                        : 6e-2;

template <Precision precision>
void test(const std::string& name, const Network& network, int n_rows, bool weighted = false) {
  const Problem problem(network, n_rows, weighted);
  const double off = distance(by_kernel<precision>(problem, 2), by_cpu(problem));
  const char* names[] = {"ieee", "tf32", "bf16"};
  check(off <= bound<precision>,
        std::string("fused, ") + names[int(precision)] + ", " + name + ": off by " + std::to_string(off));
  if (precision != Precision::ieee) check(off > 1e-6, name + ": operands are rounded");
}

template <Precision precision> void test_all(const std::string& name, const Network& network, int n_rows) {
  test<precision>(name, network, n_rows, true);
}

void test_schedules() {
  const Problem problem(Network({17, 33, 16, 5}, {"gelu", "tanh"}, "log_loss"), 150, true);
  const Gradient tf32 = by_kernel<Precision::tf32>(problem, 2), bf16 = by_kernel<Precision::bf16>(problem, 2);
  for (unsigned s = 1; s <= 6; ++s) {
    on_host::schedule_seed = s;
    check(by_kernel<Precision::tf32>(problem, 2) == tf32, "fused, tf32: the same bits in every schedule");
    check(by_kernel<Precision::bf16>(problem, 2) == bf16, "fused, bf16: the same bits in every schedule");
  }
  on_host::schedule_seed = 0;
}

void test_plans() {
  const auto fits = [](const Network& network, Precision precision) {
    return fused_plan(network, precision, most_shared_bytes).has_value();
  };
  const std::vector<std::string> four(4, "relu");
  const Network deep({64, 64, 64, 64, 64, 64}, four, "squared_error");
  check(fits(deep, Precision::bf16) && fits(deep, Precision::tf32), "five layers of 64 fit");
  check(fits(Network({128, 128, 10}, {"relu"}, "log_loss"), Precision::tf32), "128 wide fits");
  check(!fits(Network({129, 128, 10}, {"relu"}, "log_loss"), Precision::tf32), "129 wide does not");
  check(!fits(Network({128, 128, 128, 128}, {"relu", "relu"}, "squared_error"), Precision::bf16),
        "three layers of 128 do not");
  const FusedPlan plan =
      *fused_plan(Network({64, 64, 64, 1}, {"relu", "relu"}, "squared_error"), Precision::bf16, most_shared_bytes);
  check(plan.rows == 64 && fused_blocks(plan, 65, 132) == 2, "no more blocks than tiles of rows");
  check(fused_blocks(plan, 1 << 20, 132) == 132 && fused_blocks(plan, 1 << 20, 132, 228 * 1024) == 264,
        "two blocks at once where both fit");
  HiddenExtras normalized;
  normalized.normalizations = {"layer_norm"};
  check(!fits(Network({8, 8, 1}, {"relu"}, "squared_error", {}, normalized), Precision::ieee),
        "no normalisation in the fused step");
}

// Numbers of both operands of a weight gradient are read one by one, and from 32 banks of shared memory at once.
void test_banks() {
  bool differ = true;
  for (int padded = 16; padded <= most_fused_width; padded += 16)
    for (int word : {0, 1}) {
      std::set<int> banks;
      for (int lane = 0; lane < warp_size; ++lane) {
        const int depth = Fragments<Precision::tf32>::depth_of<true>(lane % 4, word);
        banks.insert((lane / 4 + depth * fused::leading_dimension(padded, sizeof(float))) % 32);
      }
      differ = differ && banks.size() == 32;
    }
  check(differ, "the lanes of a warp read from different banks");
}

// Parameters with gaps between rows and arrays: the same gradient, and nothing in the gaps.
void test_layout() {
  struct View {
    std::ptrdiff_t offset, ld;
  };
  struct {
    std::vector<View> coefs{{0, 24}, {240, 8}}, biases{{416, 0}, {448, 0}};
    std::ptrdiff_t trained = 480;
  } const layout;
  const Problem problem(Network({9, 20, 4}, {"tanh"}, "log_loss"), 40, false);
  const Gradient expected = by_kernel<Precision::ieee>(problem, 2);
  Problem spread = problem;
  spread.parameters.assign(480, 0.0f);
  std::vector<std::ptrdiff_t> places(problem.parameters.size());
  for (int l = 0; l < 2; ++l) {
    const Network& network = problem.network;
    const int n_out = network.sizes[l + 1];
    for (int j = 0; j < n_out; ++j) {
      for (int i = 0; i < network.sizes[l]; ++i)
        places[network.coefs[l] + i * n_out + j] = layout.coefs[l].offset + i * layout.coefs[l].ld + j;
      places[network.biases[l] + j] = layout.biases[l].offset + j;
    }
  }
  for (std::size_t i = 0; i < places.size(); ++i) spread.parameters[places[i]] = problem.parameters[i];
  Gradient computed = by_kernel<Precision::ieee>(
      spread, 2, *fused_plan(problem.network, Precision::ieee, most_shared_bytes, layout), 0.0f);
  bool same = computed.loss == expected.loss;
  for (std::size_t i = 0; i < places.size(); ++i) {
    same = same && computed.numbers[places[i]] == expected.numbers[i];
    computed.numbers[places[i]] = 0;
  }
  for (float left : computed.numbers) same = same && left == 0;
  check(same, "fused, parameters with gaps");
}

// A step with the parts that it leaves, as many as blocks.
void test_update_of_parts() {
  constexpr int n = 3000, n_parts = 3;
  RandomNumbers<float> numbers(2);
  Array<float> parts = numbers.array(std::size_t(n) * n_parts), whole(n), w = numbers.array(n), again = w, slot(n),
               slot_again(n);
  for (int i = 0; i < n; ++i) whole[i] = (parts[i] + parts[n + i]) + parts[2 * n + i];
  StepCoefficients<float> c{{0.9f, 0.1f, 1}, {0.9f, 0.1f, 1}, 0};
  std::vector<double> partials(100);
  BatchReport report{};
  const auto run = [&](Array<float>& weights, Array<float>& gradient, Array<float>& velocity, int parts_given,
                       double clip_norm) {
    StepState state;
    state.weight = 2;
    Parameters<float> p{};
    p.w = weights.data();
    p.gradient = gradient.data();
    p.n_parts = parts_given;
    p.part = n;
    p.slots[0] = velocity.data();
    p.n = p.matrices_again = n;
    p.matrices_end = n - 100;
    UpdateHow<float> how{
        Optimizers::find("sgd", "optimizer"), 0.1f, INFINITY, clip_norm, &c, partials.data(), &report, 4};
    if (clip_norm < INFINITY) launch_finish_gradient<float>(nullptr, p, how.alpha, partials.data(), &state);
    launch_update<float>(nullptr, p, how, &state);
  };
  for (double clip_norm : {double(INFINITY), 0.5}) {
    Array<float> given = parts, given_whole = whole;
    run(w, given, slot, n_parts, clip_norm);
    run(again, given_whole, slot_again, 1, clip_norm);
    check(w == again && slot == slot_again, "an update from parts of the gradient is that from their sum");
  }
}

} // namespace

void test_cuda_fused() {
  test_plans();
  test_banks();
  test_layout();
  test_update_of_parts();
  test_schedules();
  for (const std::string& name : HiddenActivations::names())
    test_all<Precision::ieee>("activation " + name, Network({9, 20, 13, 3}, {name, name}, "squared_error"), 70);
  for (const std::string& name : Losses::names())
    test_all<Precision::ieee>("loss " + name, Network({9, 20, 4}, {"tanh"}, name), 70);
  for (const std::string& name : Activations::names())
    test_all<Precision::ieee>("output activation " + name, Network({9, 20, 4}, {"tanh"}, "squared_error", {}, {}, name),
                              20);
  test_all<Precision::ieee>("no hidden layer", Network({9, 4}, {}, "log_loss"), 70);
  HiddenExtras dropout;
  dropout.dropout = {0.2, 0.5};
  test_all<Precision::ieee>("dropout", Network({9, 20, 4}, {"silu"}, "squared_error", {}, dropout), 70);
  for (int n_rows : {1, 31, 33, 130}) {
    const Network network({31, 33, 1, 40, 7}, {"tanh", "logistic", "softplus"}, "log_loss");
    test<Precision::ieee>("odd sizes", network, n_rows);
    test<Precision::tf32>("odd sizes", network, n_rows);
    test<Precision::bf16>("odd sizes", network, n_rows);
  }
  const Network wide({128, 128, 10}, {"relu"}, "log_loss");
  test<Precision::ieee>("128 wide", wide, 65);
  test<Precision::tf32>("128 wide", wide, 65);
  test<Precision::bf16>("128 wide", wide, 65);
}

} // namespace fastmlp
