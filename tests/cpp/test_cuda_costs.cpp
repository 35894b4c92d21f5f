// What a step of some networks costs a GPU as far as its list of operations says it: kernels, or parts of one between
// which all blocks wait; how many of them wait for one another; and memory moved. More than stands here needs a reason.
// `test_cuda costs` prints it.
#include "cuda_costs.hpp"

#include "check.hpp"

namespace fastmlp {

namespace {

using namespace cuda;

struct Expected {
  std::string name;
  std::vector<std::int64_t> sizes;
  int batch;
  Precision precision;
  Way way;
  int n_kernels, path; // of a step among others
  double megabytes;    // at most
};

const std::vector<Expected>& all_expected() {
  static const std::vector<Expected> all = {
      {"784-256-128-10", {784, 256, 128, 10}, 128, Precision::tf32, Way::products, 11, 8, 11.6},
      {"54-256-256-7", {54, 256, 256, 7}, 256, Precision::tf32, Way::products, 11, 8, 7.1},
      {"784-256-128-10", {784, 256, 128, 10}, 128, Precision::tf32, Way::chosen, 5, 5, 7.5},
      {"54-256-256-7", {54, 256, 256, 7}, 256, Precision::tf32, Way::chosen, 5, 5, 4},
      {"64-4x64-2", {64, 64, 64, 64, 64, 2}, 65536, Precision::bf16, Way::chosen, 2, 2, 37},
      {"1024-4x1024-10", {1024, 1024, 1024, 1024, 1024, 10}, 16384, Precision::bf16, Way::chosen, 25, 13, 1400},
  };
  return all;
}

Rule adam() {
  Rule rule;
  rule.optimizer = Optimizers::find("adam", "optimizer");
  return rule;
}

StepCosts costs_of(const Expected& expected, std::vector<std::string>* names = nullptr) {
  const Network network(expected.sizes, std::vector<std::string>(expected.sizes.size() - 2, "relu"), "log_loss");
  const Layout layout(network);
  Capabilities capabilities = h200;
  capabilities.way = expected.way;
  const Plan plan(network, layout, expected.precision, false, capabilities);
  return step_costs(network, plan, {expected.batch, true, true, false}, adam(), names);
}

} // namespace

void print_cuda_costs() {
  for (const Expected& expected : all_expected()) {
    std::vector<std::string> names;
    const StepCosts costs = costs_of(expected, &names);
    std::printf("%-16s %6d rows: %2d kernels, %2d of them one after another, %6.1f MB, %7.3f GFLOP\n ",
                expected.name.c_str(), expected.batch, costs.n_kernels, costs.path, costs.bytes / 1e6,
                costs.flop / 1e9);
    for (const std::string& name : names) std::printf(" %s", name.c_str());
    std::printf("\n");
  }
}

void test_cuda_costs() {
  for (const Expected& expected : all_expected()) {
    const StepCosts costs = costs_of(expected);
    check(costs.n_kernels == expected.n_kernels,
          expected.name + ": a step has " + std::to_string(costs.n_kernels) + " kernels");
    check(costs.path == expected.path, expected.name + ": " + std::to_string(costs.path) + " kernels wait in turn");
    check(costs.bytes < 1e6 * expected.megabytes && costs.bytes > 0.5e6 * expected.megabytes,
          expected.name + ": " + std::to_string(costs.bytes / 1e6) + " MB are moved");
  }
}

} // namespace fastmlp
