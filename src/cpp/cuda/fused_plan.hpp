// Which networks fit into the fused kernel, where one block holds all weights and the activations of some rows in
// shared memory; and what lies where in it.
#pragma once

#include "../network.hpp"
#include "bfloat16.hpp"
#include "dropout.hpp"
#include "precision.hpp"
#include "room.hpp"

#include <algorithm>
#include <optional>
#include <vector>

namespace fastmlp::cuda {

constexpr int most_fused_layers = 8, most_fused_width = 128;
constexpr int fused_warps = 8, fused_threads = fused_warps * warp_size;
constexpr int fused_tile = 16;       // widths and rows are padded to multiples of it
constexpr int most_fused_biases = 4; // of a thread

// Layers of weights l = 1, 2, ... between layers of units l - 1 and l; index 0 is unused where there is none. Places in
// shared memory are in bytes.
struct FusedPlan {
  int n_layers;
  int sizes[most_fused_layers + 1], padded[most_fused_layers + 1];
  int activations[most_fused_layers + 1]; // numbers in Activations of layers of units; of the outputs -1 for none
  bool keeps_z[most_fused_layers + 1];
  std::int64_t coefs[most_fused_layers + 1], ld_coefs[most_fused_layers + 1]; // in the buffer of parameters
  std::int64_t biases[most_fused_layers + 1];
  std::int64_t n_parameters; // of that buffer that are trained: the length of a block's gradient
  int rows;                  // that a block takes at once
  Dropout<float> dropout[most_fused_layers + 1];

  int ld[most_fused_layers + 1]; // of rows with so many units: activations, and the weights above
  int weights_at[most_fused_layers + 1], activations_at[most_fused_layers + 1], z_at[most_fused_layers + 1];
  int biases_at[most_fused_layers + 1];
  int outputs_at, gradients_at, targets_at; // [outputs or targets][rows]; gradients: the outputs, if not activated
  int tiles_at;                             // a 16 x 20 tile for each warp
  int first_tile[most_fused_layers + 2];    // of weight gradients, 16 x 16 each, layer by layer
  int first_bias[most_fused_layers + 2];
  int shared_bytes;

  int n_tiles() const { return first_tile[n_layers + 1]; }
};

// So many tiles of gradients a warp holds in registers: one compiled kernel for each number.
constexpr int few_slots = 7, many_slots = 16;
// Blocks for which a multiprocessor has registers; shared memory may have room for fewer.
constexpr int fused_blocks_at_once(int slots) { return slots <= few_slots ? 2 : 1; }

namespace fused {

// Rows of 32-bit words fall on banks 4 apart, so that the reads of a warp do not collide.
inline int leading_dimension(int padded, std::size_t operand_bytes) { return padded + int(16 / operand_bytes); }

// Places everything for so many rows at once.
inline void place(FusedPlan& plan, const RowLoss& loss, std::size_t operand_bytes, int rows) {
  int at = 0;
  const auto take = [&](std::size_t bytes) {
    const int start = at;
    at += int(ceil_div<std::size_t>(bytes, 16) * 16);
    return start;
  };
  plan.rows = rows;
  for (int l = 0; l <= plan.n_layers; ++l) {
    plan.ld[l] = leading_dimension(plan.padded[l], operand_bytes);
    plan.activations_at[l] = take(std::size_t(rows) * plan.ld[l] * operand_bytes);
    plan.z_at[l] = take(plan.keeps_z[l] ? std::size_t(rows) * plan.ld[l] * sizeof(float) : 0);
    if (l == 0) continue;
    plan.weights_at[l] = take(std::size_t(plan.padded[l - 1]) * plan.ld[l] * operand_bytes);
    plan.biases_at[l] = take(std::size_t(plan.padded[l]) * sizeof(float));
  }
  const std::size_t outputs = std::size_t(rows) * loss.n_outputs * sizeof(float);
  plan.outputs_at = take(outputs);
  plan.gradients_at = plan.activations[plan.n_layers] >= 0 ? take(outputs) : plan.outputs_at;
  plan.targets_at = take(std::size_t(rows) * loss.n_targets * sizeof(float));
  plan.tiles_at = take(fused_warps * 16 * 20 * sizeof(float));
  plan.shared_bytes = at;
}

} // namespace fused

// None if the network does not fit into a block's shared memory, or does more than activations and dropout.
inline std::optional<FusedPlan> fused_plan(const Network& network, Precision precision, int most_shared_bytes) {
  FusedPlan plan{};
  const int L = plan.n_layers = network.n_layers();
  if (L > most_fused_layers) return std::nullopt;
  for (int l = 1; l < L; ++l)
    if (!network.is_direct(l - 1)) return std::nullopt;
  plan.n_parameters = network.n_trainable;
  for (int l = 0; l <= L; ++l) {
    plan.sizes[l] = network.sizes[l];
    if (plan.sizes[l] > most_fused_width) return std::nullopt;
    plan.padded[l] = ceil_div(plan.sizes[l], fused_tile) * fused_tile;
    plan.activations[l] = -1;
    if (l < L) plan.dropout[l] = Dropout<float>(l, network.dropout[l]);
    if (l == 0) continue;
    plan.activations[l] = network.activation_of(l - 1);
    if (l < L) Activations::visit(plan.activations[l], [&](auto entry) { plan.keeps_z[l] = !entry.slope_from_output; });
    plan.coefs[l] = network.coefs[l - 1];
    plan.ld_coefs[l] = network.sizes[l];
    plan.biases[l] = network.biases[l - 1];
    plan.first_tile[l + 1] = plan.first_tile[l] + plan.padded[l - 1] / fused_tile * (plan.padded[l] / fused_tile);
    plan.first_bias[l + 1] = plan.first_bias[l] + plan.sizes[l];
  }
  if (plan.n_tiles() > fused_warps * many_slots || plan.first_bias[L + 1] > most_fused_biases * fused_threads)
    return std::nullopt;
  for (int rows : {64, 32, 16}) {
    fused::place(plan, network.row_loss(), precision == Precision::bf16 ? sizeof(bfloat16) : sizeof(float), rows);
    if (plan.shared_bytes + kernels_own_bytes <= most_shared_bytes) return plan;
  }
  return std::nullopt;
}

// For parameters that lie as `layout` says: where each array begins and how far its rows are apart. Gaps are not
// written.
template <class Layout>
std::optional<FusedPlan> fused_plan(const Network& network, Precision precision, int most_shared_bytes,
                                    const Layout& layout) {
  std::optional<FusedPlan> plan = fused_plan(network, precision, most_shared_bytes);
  if (!plan) return plan;
  plan->n_parameters = layout.trained;
  for (int l = 1; l <= plan->n_layers; ++l) {
    const std::size_t at = std::size_t(l) - 1;
    plan->coefs[l] = layout.coefs[at].offset;
    plan->ld_coefs[l] = layout.coefs[at].ld;
    plan->biases[l] = layout.biases[at].offset;
  }
  return plan;
}

// How many blocks are of use for a batch of n rows, on so many multiprocessors with so much shared memory each. Sums
// depend on it.
inline int fused_blocks(const FusedPlan& plan, int n_rows, int n_multiprocessors, int shared_of_multiprocessor = 0) {
  const int slots = ceil_div(plan.n_tiles(), fused_warps);
  const int room = shared_of_multiprocessor / (plan.shared_bytes + 2 * kernels_own_bytes); // the system takes 1 KB, too
  const int at_once = std::max(1, std::min(room, fused_blocks_at_once(slots)));
  return std::min(ceil_div(n_rows, plan.rows), n_multiprocessors * at_once);
}

} // namespace fastmlp::cuda
