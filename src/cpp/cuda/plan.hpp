// From a network to lists of operations: what one batch needs, forward and back. The lists know no device.
//
// With a network of plain layers a step is: gather; for each layer a product and, hidden ones, the activation; the
// loss; going back for each layer the products for the gradient of its weights, beside the way down, and for the deltas
// below, which are differentiated; the optimizer. Products apply rectified linear units and their slopes themselves,
// and add up the gradients of biases.
#pragma once

#include "layout.hpp"
#include "ops.hpp"

#include <array>

namespace fastmlp::cuda {

// Which buffers a list uses, and how large they are; numbered alike for every number of rows.
class Buffers {
public:
  enum Kind { units, sums, deltas, operands, masks, statistics, room, n_kinds }; // of layer 0, the input, to the output

  explicit Buffers(const Network& network) : n_layers(network.n_layers() + 1) {}

  int of(Kind kind, int layer) const { return n_shared_buffers + kind * n_layers + layer; }
  int loss_room() const { return n_shared_buffers + n_kinds * n_layers; }
  int loss_partials() const { return loss_room() + 1; }
  int norm_partials() const { return loss_room() + 2; }
  int update_partials() const { return loss_room() + 3; }
  int predictions() const { return loss_room() + 4; }
  int workspace(int branch) const { return loss_room() + 5 + branch; } // 0: the way down, 1: weights
  int other_inputs() const { return workspace(2); }                    // of every second batch of a list
  int fused_parts() const { return workspace(2) + 1; }
  int fused_sums() const { return fused_parts() + 1; }
  int cooperative_room() const { return fused_parts() + 2; }
  int cooperative_sums() const { return fused_parts() + 3; }
  int cooperative_partials() const { return fused_parts() + 4; }
  int end() const { return fused_parts() + 5; }

private:
  int n_layers;
};

class Plan {
public:
  // Networks that fit into shared memory take a step in one kernel and the update in another, if the device's blocks
  // have any; somewhat wider ones with small batches take many steps in a cooperative kernel.
  Plan(const Network& network, const Layout& layout, Precision precision, bool is_double,
       const Capabilities& capabilities = {});

  // Steps of the optimizer, each on the next batch of so many rows, which are gathered beside the step before; `stride`
  // is the number of elements between rows of the features.
  std::vector<Op> steps(int n_steps, const Rows& rows, int stride, double alpha, const Rule& rule) const;
  // A step alone, with a gradient that is known.
  Update update(double alpha, const Rule& rule) const;
  // Loss and finished gradient.
  std::vector<Op> loss_and_gradient(const Rows& rows, int stride, double alpha) const;
  // Sums of losses and weights to the state, and predictions.
  std::vector<Op> evaluation(const Rows& rows, int stride) const;
  // Units of hidden layer `layer`, or predictions for the last one.
  std::vector<Op> prediction(const Rows& rows, int stride, int layer) const;
  std::vector<Op> refresh_shadow() const;

  // Sizes of the buffers of layers for up to n rows, from n_shared_buffers on. Those of training only if it is wanted.
  std::vector<BufferSize> sizes(int n_rows, bool training) const;

  const Buffers buffers;

private:
  struct Batch; // what is being planned

  void step(Batch& batch, double alpha, const Rule& rule) const;
  CooperativeSteps cooperative_steps(int n_steps, const Rows& rows, int stride, double alpha, const Rule& rule) const;
  void forward(Batch& batch, int to) const;
  void hidden_forward(Batch& batch, int layer) const;
  void backward(Batch& batch) const;
  void hidden_backward(Batch& batch, int layer) const;
  void loss(Batch& batch, bool gradient) const;

  Hidden hidden(const Batch& batch, int layer) const;
  View rows_view(Buffers::Kind kind, int layer) const;
  View units_view(const Batch& batch, int layer) const;
  View mask_view(int layer) const;
  View as_operand(View parameter) const;
  View in_gradient(View parameter) const;
  int blocks_for(int n_rows) const;
  bool is_cooperative(int n_rows) const;
  bool adds_up(const Product& product) const;
  bool is_relu_alone(int layer) const;
  bool keeps_z(int layer) const;

  const Network& network;
  const Layout& layout;
  const Precision precision;
  const bool is_double;
  std::optional<FusedPlan> fused;
  std::optional<CooperativePlan> cooperative;
  const Capabilities capabilities;
};

} // namespace fastmlp::cuda
