// Counts what the operations of a step cost a GPU, if cuBLASLt does all that it is asked for.
#pragma once

#include "../../src/cpp/cuda/accesses.hpp"
#include "../../src/cpp/cuda/plan.hpp"

#include <algorithm>
#include <limits>
#include <string>

namespace fastmlp::cuda {

// Shared memory of a block, multiprocessors, shared memory of each.
constexpr Capabilities h200{227 * 1024, 132, 228 * 1024};

struct StepCosts {
  int n_kernels = 0, path = 0;
  double bytes = 0, flop = 0;
};

inline const char* name_of(const Op& op) {
  static const char* const names[] = {"gather",
                                      "product",
                                      "add_bias",
                                      "moments",
                                      "use_running",
                                      "activate",
                                      "loss",
                                      "link",
                                      "differentiate",
                                      "sum_columns",
                                      "through_normalization",
                                      "fused_step",
                                      "cooperative_steps",
                                      "finish_gradient",
                                      "update",
                                      "cast",
                                      "shadow"};
  static_assert(std::variant_size_v<Op> == std::size(names));
  return names[op.index()];
}

// Kernels that an operation is, one after another; or the parts of one between whose barriers all blocks wait.
inline int kernels_of(const Op& op) {
  if (const auto* steps = std::get_if<CooperativeSteps>(&op)) return steps->n_steps * (2 * steps->plan.n_layers - 1);
  if (std::holds_alternative<Moments>(op)) return 2;
  if (const auto* sums = std::get_if<SumColumns>(&op))
    return chunks_of(sums->layer.rows.n) == 1 ? 1 : 1 + bool(sums->alone) + bool(sums->with_z);
  return 1;
}

template <class AnyPlan> double flop_of_step(const AnyPlan& plan, int n_rows) {
  double weights = 0;
  for (int l = 1; l <= plan.n_layers; ++l) weights += (l > 1 ? 3.0 : 2.0) * plan.sizes[l - 1] * plan.sizes[l];
  return 2 * weights * n_rows;
}

inline double flop_of(const Op& op) {
  if (const auto* product = std::get_if<Product>(&op)) return 2.0 * product->m * product->n * product->k;
  if (const auto* step = std::get_if<FusedStep>(&op)) return flop_of_step(step->plan, step->rows.n);
  if (const auto* steps = std::get_if<CooperativeSteps>(&op))
    return steps->n_steps * flop_of_step(steps->plan, steps->rows.n);
  return 0;
}

// Memory that an operation reads and writes. Of what it takes as a whole only data and parts of gradients count.
class Bytes {
public:
  Bytes(const Network& network, const Plan& plan, const Rows& rows) : network(network), rows(rows) {
    sizes.assign(n_shared_buffers, {Element::real, 0});
    sizes[shadow].element = Element::bfloat16;
    for (const BufferSize& size : plan.sizes(rows.n, true)) sizes.push_back(size);
    masks_begin = plan.buffers.of(Buffers::masks, 0);
    masks_end = masks_begin + network.n_layers() + 1;
    parts = plan.buffers.fused_parts();
    room = plan.buffers.cooperative_room();
  }

  double of(const Op& op) const {
    double sum = 0;
    for (const Access& access : accesses(network, op)) {
      const BufferSize& buffer = sizes[std::size_t(access.buffer)];
      const bool whole = access.end == std::numeric_limits<std::ptrdiff_t>::max();
      if (access.buffer == features)
        sum += 4.0 * rows.n * network.n_inputs();
      else if (access.buffer == row_order)
        sum += 8.0 * rows.n;
      else if (access.buffer == labels)
        sum += 4.0 * rows.n;
      else if (!whole && access.buffer != state)
        sum += double(access.end - access.begin) * (buffer.element == Element::bfloat16 ? 2 : 4);
      else if (access.buffer == parts || access.buffer == room)
        sum += 4.0 * double(buffer.n);
      else if (access.buffer >= masks_begin && access.buffer < masks_end)
        sum += double(buffer.n);
    }
    const auto* steps = std::get_if<CooperativeSteps>(&op);
    return steps ? steps->n_steps * sum : sum;
  }

private:
  const Network& network;
  const Rows rows;
  std::vector<BufferSize> sizes;
  int masks_begin, masks_end, parts, room;
};

// The longest chain of kernels each of which waits for the one before.
inline int longest_chain(const Network& network, const std::vector<Op>& ops) {
  const std::vector<std::vector<int>> before = predecessors(network, ops);
  std::vector<int> length(ops.size());
  for (std::size_t i = 0; i < ops.size(); ++i) {
    for (int j : before[i]) length[i] = std::max(length[i], length[std::size_t(j)]);
    length[i] += kernels_of(ops[i]);
  }
  return *std::max_element(length.begin(), length.end());
}

// Of a step among others: what one more adds to many. `names` receives the operations of a list of one step.
inline StepCosts step_costs(const Network& network, const Plan& plan, const Rows& rows, const Rule& rule,
                            std::vector<std::string>* names = nullptr) {
  constexpr int many = 4;
  const Bytes bytes(network, plan, rows);
  StepCosts costs;
  for (int sign : {-1, 1}) {
    const std::vector<Op> ops = plan.steps(sign < 0 ? many : many + 1, rows, network.n_inputs(), 0, rule);
    costs.path += sign * longest_chain(network, ops);
    for (const Op& op : ops) {
      costs.n_kernels += sign * kernels_of(op);
      costs.bytes += sign * bytes.of(op);
      costs.flop += sign * flop_of(op);
    }
  }
  if (names)
    for (const Op& op : plan.steps(1, rows, network.n_inputs(), 0, rule)) names->push_back(name_of(op));
  return costs;
}

} // namespace fastmlp::cuda
