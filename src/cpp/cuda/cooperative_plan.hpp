// Steps by one kernel whose blocks all run at once and wait for one another: for networks that are too wide for one
// block's shared memory, with batches so small that the start of kernels would count. Weights, units and deltas lie in
// global memory, which for these sizes is the cache.
#pragma once

#include "../network.hpp"
#include "dropout.hpp"
#include "precision.hpp"
#include "room.hpp"

#include <optional>

namespace fastmlp::cuda {

constexpr int most_cooperative_layers = 8, most_cooperative_outputs = 128;
constexpr int cooperative_warps = 8, cooperative_threads = cooperative_warps * warp_size;
constexpr int cooperative_tile = 16;  // of rows, and of columns
constexpr int cooperative_chunk = 32; // of the depth of a product, in shared memory at once

// Layers of weights l = 1, 2, ... between layers of units l - 1 and l.
struct CooperativePlan {
  static constexpr int n = most_cooperative_layers + 1;
  int n_layers, n_targets;
  int sizes[n], ld[n];
  int activations[n]; // numbers in Activations of layers of units; of the outputs -1 for none
  bool keeps_z[n];
  std::int64_t coefs[n], ld_coefs[n], biases[n]; // in the buffer of parameters
  Dropout<float> dropout[n];

  std::int64_t units_at[n], z_at[n], deltas_at[n], numbers_of_row; // in the room, times the rows of a batch
  int first_tile[n + 1];                                           // of weight gradients, layer by layer
  int first_group[n + 1];                                          // of 32 gradients of biases, likewise
  std::int64_t n_weights;

  // Places in shared memory, in bytes: numbers of each warp for products and for a tile; [outputs or targets][16].
  int operands_at, tiles_at, outputs_at, gradients_at, targets_at, state_at, shared_bytes;

  FASTMLP_HOST_DEVICE int strips(int n_rows) const { return ceil_div(n_rows, cooperative_tile); }
  // Beyond this the products of a library are faster, whatever their kernels cost to start.
  bool is_small(int n_rows) const { return n_rows * n_weights <= std::int64_t(1) << 26; }
};

constexpr int operand_room = cooperative_chunk * (cooperative_tile + 8); // numbers, for either order
constexpr int tile_room = cooperative_tile * (cooperative_tile + 4);

// None if a layer does more than activation and dropout, or there are too many layers or outputs. Parameters lie as
// `layout` says.
template <class Layout>
std::optional<CooperativePlan> cooperative_plan(const Network& network, Precision precision, const Layout& layout) {
  CooperativePlan plan{};
  const int L = plan.n_layers = network.n_layers();
  const RowLoss loss = network.row_loss();
  plan.n_targets = loss.n_targets;
  if (L < 2 || L > most_cooperative_layers || loss.n_outputs > most_cooperative_outputs) return std::nullopt;
  std::int64_t numbers = 0;
  const auto take = [&](int l, bool wanted = true) {
    const std::int64_t at = numbers;
    if (wanted) numbers += plan.ld[l];
    return at;
  };
  for (int l = 0; l <= L; ++l) {
    plan.sizes[l] = network.sizes[l];
    plan.ld[l] = padded(network.sizes[l]);
    if (l < L) plan.dropout[l] = Dropout<float>(l, network.dropout[l]);
    plan.units_at[l] = take(l, l < L);
    if (l == 0) continue;
    if (!network.is_direct(l - 1)) return std::nullopt;
    plan.activations[l] = network.activation_of(l - 1);
    if (l < L) Activations::visit(plan.activations[l], [&](auto entry) { plan.keeps_z[l] = !entry.slope_from_output; });
    plan.z_at[l] = take(l, plan.keeps_z[l]);
    plan.deltas_at[l] = take(l);
    const std::size_t at = std::size_t(l) - 1;
    plan.coefs[l] = layout.coefs[at].offset;
    plan.ld_coefs[l] = layout.coefs[at].ld;
    plan.biases[l] = layout.biases[at].offset;
    plan.first_tile[l + 1] =
        plan.first_tile[l] + ceil_div(plan.sizes[l - 1], cooperative_tile) * ceil_div(plan.sizes[l], cooperative_tile);
    plan.first_group[l + 1] = plan.first_group[l] + ceil_div(plan.sizes[l], warp_size);
    plan.n_weights += std::int64_t(plan.sizes[l - 1]) * plan.sizes[l];
  }
  plan.numbers_of_row = numbers;
  int bytes = 0;
  const auto place = [&](std::size_t size) {
    const int at = bytes;
    bytes += int(ceil_div<std::size_t>(size, 16) * 16);
    return at;
  };
  const std::size_t operand = precision == Precision::bf16 ? 2 : 4;
  const std::size_t outputs = std::size_t(cooperative_tile) * loss.n_outputs * sizeof(float);
  plan.operands_at = place(cooperative_warps * 2 * operand_room * operand);
  plan.tiles_at = place(cooperative_warps * tile_room * sizeof(float));
  plan.outputs_at = place(outputs);
  plan.gradients_at = plan.activations[L] >= 0 ? place(outputs) : plan.outputs_at;
  plan.targets_at = place(std::size_t(cooperative_tile) * loss.n_targets * sizeof(float));
  plan.state_at = place(sizeof(StepState));
  plan.shared_bytes = bytes;
  return plan;
}

} // namespace fastmlp::cuda
