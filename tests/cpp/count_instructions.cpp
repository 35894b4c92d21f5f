// Fixed workloads, whose instructions count_instructions.py counts: `count_avx2 NAME`. Without a name: the compiler.
#include "check.hpp"

#include "../../src/cpp/engine.hpp"

#include <algorithm>
#include <numeric>

namespace fastmlp {

namespace {

struct Workload {
  const char* name;
  std::vector<std::int64_t> sizes;
  int n_rows, batch_size;
};

const Workload workloads[] = {
    {"small", {64, 100, 10}, 1797, 200},
    {"middle", {54, 256, 256, 7}, 512, 256},
};

void train(const Workload& work) {
  const Network network(work.sizes, std::vector<std::string>(work.sizes.size() - 2, "relu"), "log_loss");
  RandomNumbers<float> numbers(1);
  const Array<float> X = numbers.array(std::size_t(work.n_rows) * network.n_inputs()),
                     start = numbers.array(std::size_t(network.n_parameters), 0.1);
  Array<float> m(start.size()), v(start.size());
  std::vector<std::int32_t> labels(work.n_rows);
  for (int i = 0; i < work.n_rows; ++i) labels[i] = i % network.n_outputs();
  std::vector<std::int64_t> order(work.n_rows);
  std::iota(order.begin(), order.end(), 0);
  const std::unique_ptr<Engine<float>> engine = make_cpu_engine<float>(network, 1);
  engine->set_parameters(start.data());
  engine->set_slots({m.data(), v.data()});
  Rule rule{Optimizers::find("adam", "optimizer"), {0.9, 0.999, 1e-8}, 0.001, 0};
  Poll poll(nullptr);
  engine->epoch({{work.n_rows, network.n_inputs(), X.data(), network.n_inputs()}, nullptr, labels.data(), nullptr},
                order.data(), work.n_rows, work.batch_size, 1e-4, rule, poll);
}

} // namespace
} // namespace fastmlp

int main(int, char** arguments) {
  if (!arguments[1]) return std::puts(__VERSION__), 0;
  for (const fastmlp::Workload& work : fastmlp::workloads)
    if (arguments[1] == std::string(work.name)) return fastmlp::train(work), 0;
  return 2;
}
