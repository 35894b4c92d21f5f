// The fused step as engines see it: one kernel for each precision and number of slots, in a file of its own each, so
// that they are compiled side by side.
#pragma once

#include "fused_plan.hpp"
#include "step_state.hpp"

#ifndef FASTMLP_CUDA_ON_HOST
#include <cuda_runtime_api.h>
#endif

namespace fastmlp::cuda {

// What a fused step reads and writes in global memory.
struct FusedData {
  const float* X;
  std::ptrdiff_t stride;
  BatchRows rows;
  Targets<float> targets;
  RowLoss loss;     // its hyper-parameters are in the device's memory
  const float* w;   // flat
  float* gradients; // [blocks][n_parameters], of the weighted sum of the losses
  double* partials; // [blocks][2]
  StepState* state;
};

template <Precision precision, int slots>
void launch_fused_instance(cudaStream_t stream, const FusedPlan& plan, const FusedData& data, int n_blocks);

// How many blocks are of use for a batch of n rows, on so many multiprocessors. Sums depend on it.
inline int fused_blocks(const FusedPlan& plan, int n_rows, int n_multiprocessors) {
  return std::min(ceil_div(n_rows, plan.rows), n_multiprocessors);
}

// Partial gradients of n_blocks blocks, and loss and weight of the batch in the state; then launch_update with as many
// parts, plan.n_parameters apart.
inline void launch_fused(cudaStream_t stream, Precision precision, const FusedPlan& plan, const FusedData& data,
                         int n_blocks) {
  const auto choose = [&](auto few, auto many) {
    (plan.n_tiles() <= fused_warps * few_slots ? few : many)(stream, plan, data, n_blocks);
  };
  if (precision == Precision::ieee)
    choose(launch_fused_instance<Precision::ieee, few_slots>, launch_fused_instance<Precision::ieee, many_slots>);
  else if (precision == Precision::tf32)
    choose(launch_fused_instance<Precision::tf32, few_slots>, launch_fused_instance<Precision::tf32, many_slots>);
  else
    choose(launch_fused_instance<Precision::bf16, few_slots>, launch_fused_instance<Precision::bf16, many_slots>);
}

} // namespace fastmlp::cuda
