// Whole trainings of many small networks of one shape, a block each, that share the rows of X: for searches over
// hyper-parameters, folds and seeds.
#pragma once

#include "fused_plan.hpp"
#include "step_state.hpp"

namespace fastmlp::cuda {

// One of the models, in the device's memory; pointers point there, too.
struct FitModel {
  const std::int64_t* order; // numbers of its rows in X, for each epoch of a launch: [n_epochs][n_rows]
  int n_epochs, n_rows, batch_size;
  Targets<float> targets;               // of all rows of X
  float* w;                             // flat, as are the slots; both are read and written
  float* slots[max_slots + 1];          // of the optimizer; then the moving average of the weights, or null
  const StepCoefficients<float>* table; // of the steps from state.table_after on
  float alpha, clip_value;
  double clip_norm;             // infinity: none
  double tol, n_iter_no_change; // training stops after so many epochs in which the loss did not improve by tol
  double* losses;               // one number an epoch of a launch

  StepState state; // of dropout and steps; `failed` ends the training
  double best_loss;
  std::int64_t no_improvement_count, n_iter;
  bool stopped;

  FASTMLP_HOST_DEVICE bool goes_on() const { return !stopped && state.failed == 0; }
};

struct FitData {
  const float* X;
  std::ptrdiff_t stride;
  RowLoss loss;      // its hyper-parameters are in the device's memory
  double loss_share; // reported losses are divided by it
  int optimizer, n_slots;
  std::int64_t matrices_end; // of the flat buffer: weights, which decay, are before it
  FitModel* models;
  float* gradients; // [models][n_parameters], if they are not in shared memory
  int state_at;     // where in shared memory gradient, weights and slots of the model are; -1: they are not
};

// What a block of many fits has in shared memory beside the plan's places.
inline std::size_t fit_state_bytes(const FusedPlan& plan, int n_slots) {
  return std::size_t(2 + n_slots) * std::size_t(plan.n_parameters) * sizeof(float);
}

// Places for a block of many fits: state_at as above.
struct FitPlan {
  FusedPlan fused;
  int state_at;
};

// None if the network does not fit into the fused step with few slots. n_slots: with the moving average.
inline std::optional<FitPlan> fit_plan(const Network& network, Precision precision, int n_slots,
                                       int most_shared_bytes) {
  std::optional<FusedPlan> plan = fused_plan(network, precision, most_shared_bytes);
  if (!plan || plan->n_tiles() > fused_warps * few_slots) return std::nullopt;
  const std::size_t operand = precision == Precision::bf16 ? sizeof(bfloat16) : sizeof(float);
  for (int rows = plan->rows; rows >= fused_tile; rows /= 2) { // fewer rows at once, for what changes in every step
    FusedPlan smaller = *plan;
    fused::place(smaller, network.row_loss(), operand, rows);
    const int at = smaller.shared_bytes;
    if (at + fit_state_bytes(smaller, n_slots) + kernels_own_bytes > std::size_t(most_shared_bytes)) continue;
    smaller.shared_bytes += int(fit_state_bytes(smaller, n_slots));
    return FitPlan{smaller, at};
  }
  return FitPlan{*plan, -1};
}

} // namespace fastmlp::cuda
