// A tiny network trained by the CPU engine: against backpropagation in plain loops, and with several threads.
#include "check.hpp"

#include "../../src/cpp/cpu/shared_lines.hpp"
#include "../../src/cpp/engine.hpp"

namespace fastmlp {

namespace {

constexpr int n_rows = 450, batch_size = 64;
const Network network({17, 40, 9, 3}, {"tanh", "softplus"}, "log_loss");
constexpr int large_batch = 200; // has halves (see tiles.hpp)
const std::vector<double> momentum = {0.9, 1};
constexpr double alpha = 0.01, rate = 0.1;

// A step of stochastic gradient descent with Nesterov momentum, which depends smoothly on the gradient.
void plain_step(const std::vector<double>& X, const std::vector<std::int32_t>& labels, int first, int n,
                std::vector<double>& parameters, std::vector<double>& velocity) {
  const int L = network.n_layers();
  std::vector<double> gradient(parameters.size());
  for (int i = first; i < first + n; ++i) {
    std::vector<std::vector<double>> z{{}},
        a{{&X[i * network.n_inputs()], &X[i * network.n_inputs()] + network.n_inputs()}};
    for (int l = 0; l < L; ++l) {
      const int n_in = network.sizes[l], n_out = network.sizes[l + 1];
      z.emplace_back(&parameters[network.biases[l]], &parameters[network.biases[l]] + n_out);
      for (int j = 0; j < n_in; ++j)
        for (int k = 0; k < n_out; ++k) z[l + 1][k] += a[l][j] * parameters[network.coefs[l] + j * n_out + k];
      a.push_back(z[l + 1]);
      if (l + 1 < L)
        Activations::visit(network.activations[l], [&](auto entry) {
          for (double& value : a[l + 1]) value = entry.value(value);
        });
    }
    std::vector<double> delta = z[L], target(network.n_outputs());
    target[labels[i]] = 1;
    const RowLoss loss = network.row_loss();
    Losses::visit(loss.number, [&](auto entry) { entry.row(delta.data(), target.data(), loss.n_targets, 1, loss.h); });
    for (int l = L - 1; l >= 0; --l) {
      const int n_in = network.sizes[l], n_out = network.sizes[l + 1];
      std::vector<double> below(n_in);
      for (int k = 0; k < n_out; ++k) {
        gradient[network.biases[l] + k] += delta[k];
        for (int j = 0; j < n_in; ++j) {
          gradient[network.coefs[l] + j * n_out + k] += a[l][j] * delta[k];
          below[j] += parameters[network.coefs[l] + j * n_out + k] * delta[k];
        }
      }
      if (l > 0)
        Activations::visit(network.activations[l - 1], [&](auto entry) {
          for (int j = 0; j < n_in; ++j) below[j] *= entry.slope(entry.slope_from_output ? a[l][j] : z[l][j], a[l][j]);
        });
      delta = below;
    }
  }
  for (std::size_t p = 0; p < parameters.size(); ++p) {
    const bool is_weight = std::ptrdiff_t(p) < network.biases[0];
    const double g = (gradient[p] + (is_weight ? alpha * parameters[p] : 0)) / n;
    velocity[p] = momentum[0] * velocity[p] - rate * g;
    parameters[p] += momentum[0] * velocity[p] - rate * g;
  }
}

template <class T> struct Trained {
  Array<T> parameters;
  std::vector<std::pair<double, double>> losses; // and penalties, of the last epoch's batches
  bool operator==(const Trained& other) const { return parameters == other.parameters && losses == other.losses; }
};

struct How {
  int batch_size = fastmlp::batch_size;
  bool averages = false; // and clips
};

// Three epochs without shuffling.
template <class T>
Trained<T> train(int n_threads, Array<T> parameters, const Array<T>& X, const std::vector<std::int32_t>& labels,
                 const How& how = {}) {
  const std::unique_ptr<Engine<T>> engine = make_cpu_engine<T>(network, n_threads);
  Array<T> velocity(parameters.size()), average(parameters);
  engine->set_parameters(parameters.data());
  engine->set_slots(how.averages ? std::vector<T*>{velocity.data(), average.data()} : std::vector<T*>{velocity.data()});
  Rule rule{Optimizers::find("sgd", "optimizer"), momentum, rate, 0};
  rule.ema_decay = how.averages ? 0.9 : 0;
  rule.clip_value = how.averages ? 0.05 : infinity;
  Dataset<T> data{{n_rows, network.n_inputs(), X.data(), network.n_inputs()}, nullptr, labels.data(), nullptr};
  std::vector<std::int64_t> order;
  for (int i = 0; i < n_rows; ++i) order.push_back(i);
  Poll poll(nullptr);
  EpochResult result;
  for (int epoch = 0; epoch < 3; ++epoch)
    result = engine->epoch(data, order.data(), n_rows, how.batch_size, alpha, rule, poll);
  engine->get_parameters(parameters.data());
  engine->get_slots();
  if (how.averages) parameters.insert(parameters.end(), average.begin(), average.end());
  return {parameters, result.batches};
}

} // namespace

template <class T> void test_engine() {
  RandomNumbers<T> numbers(7);
  const Array<T> X = numbers.array(std::size_t(n_rows) * network.n_inputs()),
                 start = numbers.array(std::size_t(network.n_parameters), 0.4);
  std::vector<std::int32_t> labels;
  for (int i = 0; i < n_rows; ++i) labels.push_back((i * i + i / 7) % network.n_outputs());
  const std::vector<double> wide(X.begin(), X.end());
  std::vector<double> expected(start.begin(), start.end()), velocity(expected.size());
  for (int epoch = 0; epoch < 3; ++epoch)
    for (int first = 0; first < n_rows; first += batch_size)
      plain_step(wide, labels, first, std::min(batch_size, n_rows - first), expected, velocity);
  check_close(train(1, start, X, labels).parameters, expected, "training against plain loops");
  const bool steady = set_steady_threads(true); // all threads come
  for (const How& how : {How{}, How{large_batch}, How{batch_size, true}}) {
    const Trained<T> alone = train(1, start, X, labels, how);
    for (const double seconds_a_line : {0.0, 1.0}) { // nothing is streamed, all is
      SharedLines::assumed = seconds_a_line;
      for (int n_threads : {2, 3})
        check(train(n_threads, start, X, labels, how) == alone, "the same bits with threads");
    }
  }
  SharedLines::assumed = -1;
  set_steady_threads(steady);
}

template void test_engine<float>();
template void test_engine<double>();

} // namespace fastmlp
