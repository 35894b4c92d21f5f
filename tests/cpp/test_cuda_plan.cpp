// Lists of operations for many networks: whether everything is written before it is read, and whether no two operations
// that may run at once touch the same numbers. Both are found out here from the accesses alone, one by one.
#include "check.hpp"

#include "../../src/cpp/cuda/accesses.hpp"
#include "../../src/cpp/cuda/plan.hpp"

#include <limits>
#include <map>

namespace fastmlp {

namespace {

using namespace cuda;

using Bits = std::vector<bool>;

// Elements of each buffer that somebody has written; buffers without a size count as a whole.
class Written {
public:
  Written(const Plan& plan, const Layout& layout, int n_rows) {
    int buffer = n_shared_buffers;
    for (const BufferSize& size : plan.sizes(n_rows, true)) sizes[buffer++] = std::ptrdiff_t(size.n);
    for (int each : {features, targets, labels, row_weights, row_order, step_table, slots}) whole[each] = true;
    sizes[state] = n_state_parts;
    write({state, position, batch_sums, true});
    for (int each : {parameters, shadow, gradient}) sizes[each] = layout.size;
    write({parameters, 0, layout.size, true});
    write({shadow, 0, layout.trained, true});
  }

  void write(const Access& access) {
    Bits& bits = of(access.buffer);
    if (bits.empty() || is_all(access)) {
      whole[access.buffer] = true;
      bits.assign(bits.size(), true);
      return;
    }
    for (std::ptrdiff_t i = access.begin; i < end(access); ++i) bits[std::size_t(i)] = true;
  }
  bool covers(const Access& access) {
    const Bits& bits = of(access.buffer);
    if (bits.empty() || is_all(access)) return whole[access.buffer];
    for (std::ptrdiff_t i = access.begin; i < end(access); ++i)
      if (!bits[std::size_t(i)]) return false;
    return true;
  }
  // Whether it is within its buffer, if the size of that is known here.
  bool fits(const Access& access) {
    const auto known = sizes.find(access.buffer);
    return access.begin >= 0 && (is_all(access) || known == sizes.end() || access.end <= known->second);
  }

private:
  static bool is_all(const Access& access) { return access.end == std::numeric_limits<std::ptrdiff_t>::max(); }
  Bits& of(int buffer) {
    Bits& bits = all[buffer];
    const auto known = sizes.find(buffer);
    if (bits.empty() && known != sizes.end() && known->second < 1 << 20) bits.resize(std::size_t(known->second));
    return bits;
  }
  std::ptrdiff_t end(const Access& access) { return std::min<std::ptrdiff_t>(access.end, sizes.at(access.buffer)); }

  std::map<int, Bits> all;
  std::map<int, bool> whole;
  std::map<int, std::ptrdiff_t> sizes;
};

// Gaps between the arrays of a gradient are zeros from the start.
void fill_gaps(Written& written, const Network& network, const Layout& layout) {
  Bits taken(std::size_t(layout.size));
  const auto take = [&](const View& view, int rows, int columns) {
    for (int row = 0; view && row < rows; ++row)
      for (int j = 0; j < columns; ++j) taken[std::size_t(view.offset + row * view.ld + j)] = true;
  };
  for (int l = 0; l < network.n_layers(); ++l) {
    for (const View& view : {layout.coefs[l], layout.projections[l]})
      take(view, network.sizes[l], network.sizes[l + 1]);
    for (const View& view : {layout.biases[l], layout.scales[l], layout.offsets[l]})
      take(view, 1, network.sizes[l + 1]);
  }
  for (std::ptrdiff_t i = 0; i < layout.size; ++i)
    if (!taken[std::size_t(i)]) written.write({gradient, i, i + 1, true});
}

void check_list(const Network& network, const Plan& plan, const Layout& layout, const std::vector<Op>& ops, int n_rows,
                const std::string& what) {
  Written written(plan, layout, n_rows);
  fill_gaps(written, network, layout);
  std::vector<std::vector<Access>> of_op;
  bool all_known = true, all_fit = true;
  for (const Op& op : ops) {
    of_op.push_back(accesses(network, op));
    for (const Access& access : of_op.back()) {
      all_known = all_known && (access.writes || written.covers(access));
      all_fit = all_fit && written.fits(access);
    }
    for (const Access& access : of_op.back())
      if (access.writes) written.write(access);
  }
  check(all_known, what + ": everything is written before it is read");
  check(all_fit, what + ": everything is within its buffer");

  const std::vector<std::vector<int>> before = predecessors(network, ops);
  std::vector<Bits> reached(ops.size(), Bits(ops.size()));
  bool ordered = true;
  for (std::size_t i = 0; i < ops.size(); ++i) {
    for (int j : before[i]) {
      reached[i][std::size_t(j)] = true;
      for (std::size_t k = 0; k < ops.size(); ++k) reached[i][k] = reached[i][k] || reached[std::size_t(j)][k];
    }
    for (std::size_t j = 0; j < i; ++j)
      for (const Access& a : of_op[i])
        for (const Access& b : of_op[j]) {
          const bool meet = a.buffer == b.buffer && a.begin < b.end && b.begin < a.end && (a.writes || b.writes);
          ordered = ordered && (!meet || reached[i][j]);
        }
  }
  check(ordered, what + ": what touches the same numbers is ordered");
}

// Whether the first operation of kind A may run beside the first of kind B.
template <class A, class B> bool may_run_together(const Network& network, const std::vector<Op>& ops) {
  const std::vector<std::vector<int>> before = predecessors(network, ops);
  const auto first = [&](auto kind) {
    for (std::size_t i = 0; i < ops.size(); ++i)
      if (std::holds_alternative<decltype(kind)>(ops[i])) return int(i);
    return -1;
  };
  const int a = first(A{}), b = first(B{});
  std::vector<int> ways{std::max(a, b)};
  while (!ways.empty()) {
    const int at = ways.back();
    ways.pop_back();
    if (at == std::min(a, b)) return false;
    ways.insert(ways.end(), before[std::size_t(at)].begin(), before[std::size_t(at)].end());
  }
  return true;
}

Rule rule_of(const std::string& optimizer, double clip_norm, double ema_decay) {
  Rule rule;
  rule.optimizer = Optimizers::find(optimizer, "optimizer");
  rule.clip_norm = clip_norm;
  rule.ema_decay = ema_decay;
  return rule;
}

// Which networks and batches take their steps in one kernel.
void test_ways() {
  const auto kind = [](const std::vector<std::int64_t>& sizes, int n_rows, double clip_norm, Way way) {
    const Network network(sizes, std::vector<std::string>(sizes.size() - 2, "relu"), "log_loss");
    const Layout layout(network);
    Capabilities capabilities{227 * 1024, 132, 228 * 1024};
    capabilities.way = way;
    const Plan plan(network, layout, Precision::tf32, false, capabilities);
    const std::vector<Op> ops = plan.steps(2, {n_rows, true, true, false}, 20, 0, rule_of("adam", clip_norm, 0));
    check_list(network, plan, layout, ops, n_rows, "the list of a way");
    if (std::holds_alternative<CooperativeSteps>(ops[0])) return ops.size() == 1 ? Way::cooperative : Way::chosen;
    return std::holds_alternative<FusedStep>(ops[0]) ? Way::fused : Way::products;
  };
  const std::vector<std::int64_t> narrow{20, 30, 5}, wide{784, 256, 128, 10};
  const auto n_sums = [&](bool can, int n_rows, bool is_double) {
    const Network network({256, 256, 256, 5}, {"relu", "relu"}, "log_loss");
    const Layout layout(network);
    Capabilities capabilities;
    capabilities.adds_up = {can, can, can};
    const Plan plan(network, layout, Precision::ieee, is_double, capabilities);
    int n = 0;
    for (const Op& op : plan.steps(1, {n_rows, true, true, false}, 256, 0, rule_of("adam", infinity, 0)))
      n += std::holds_alternative<SumColumns>(op);
    return n;
  };
  check(n_sums(true, 1000, false) == 0, "products add up the gradients of biases");
  check(n_sums(false, 1000, false) == 3 && n_sums(true, 1000, true) == 3, "unless they cannot");
  check(n_sums(true, 100000, false) == 2, "or are large");
  check(kind(narrow, 128, infinity, Way::chosen) == Way::fused, "narrow networks are fused");
  check(kind(narrow, 128, infinity, Way::cooperative) == Way::cooperative, "unless another way is wished");
  check(kind(wide, 128, infinity, Way::chosen) == Way::cooperative, "wider ones take cooperative steps");
  check(kind(wide, 4096, infinity, Way::chosen) == Way::products, "but not on large batches");
  check(kind(wide, 128, 1, Way::chosen) == Way::products, "nor with a bound on the gradient's length");
  check(kind(wide, 128, infinity, Way::products) == Way::products, "nor if products are wished");
}

} // namespace

void test_cuda_plan() {
  const std::vector<std::string> names{"relu", "gelu", "tanh"};
  for (int normalization = 0; normalization < Normalizations::size; ++normalization)
    for (bool residual : {false, true})
      for (double dropout : {0.0, 0.25})
        for (const std::vector<std::int64_t>& sizes : {std::vector<std::int64_t>{5, 8, 8, 8, 3}, {17, 9, 33, 12, 1}}) {
          const std::vector<std::string> normalizations(3, Normalizations::names()[std::size_t(normalization)]);
          const Network network(sizes, names, sizes.back() > 1 ? "log_loss" : "squared_error", {},
                                {normalizations, std::vector<double>(4, dropout), residual});
          const Layout layout(network);
          for (Precision precision : {Precision::ieee, Precision::tf32, Precision::bf16}) {
            const Plan plan(network, layout, precision, false);
            const Rows rows{70, true, false, true};
            const std::string name =
                normalizations[0] + (residual ? " residual" : "") + (dropout > 0 ? " dropout" : "");
            const auto check_all = [&](const std::vector<Op>& ops, const char* what) {
              check_list(network, plan, layout, ops, rows.n, name + ", " + what);
            };
            check_all(plan.steps(3, rows, 5, 0.1, rule_of("adam", 1.0, 0.9)), "three steps");
            check_all(plan.steps(1, rows, 5, 0, rule_of("sgd", infinity, 0)), "a step");
            check_all(plan.loss_and_gradient(rows, 5, 0.1), "gradient");
            check_all(plan.evaluation(rows, 5), "evaluation");
            for (int layer = 1; layer <= network.n_layers(); ++layer)
              check_all(plan.prediction(rows, 5, layer), "prediction");
          }
        }

  const Network network({20, 30, 30, 2}, {"gelu", "relu"}, "squared_error");
  const Layout layout(network);
  const Plan plan(network, layout, Precision::ieee, false);
  const std::vector<Op> step = plan.steps(1, {64, true, false, false}, 20, 0, rule_of("adam", infinity, 0));
  // gather; 3 products, and an activation; loss; for each layer a product for gradients of weights and of biases; 2
  // products for deltas, and a slope; the update: rectified linear units are part of their products
  check(step.size() == 1 + 3 + 1 + 1 + 3 + 2 + 1 + 1, "a step has no more operations than it needs");
  check(!may_run_together<LossRows, Update>(network, step), "the update waits for the loss");
  test_ways();
}

} // namespace fastmlp
