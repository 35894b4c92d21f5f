// The fused step as engines see it: one kernel for each precision and number of slots, in a file of its own each, so
// that they are compiled side by side.
#pragma once

#include "fused_plan.hpp"
#include "step_state.hpp"

#include <algorithm>

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
  const float* w;   // where the plan says
  float* gradients; // [blocks][n_parameters], of the weighted sum of the losses
  double* partials; // [blocks][2]
  StepState* state;
};

template <Precision precision, int slots>
void launch_fused_instance(cudaStream_t stream, const FusedPlan& plan, const FusedData& data, int n_blocks);

<<<<<<< HEAD
=======
// How many blocks are of use for a batch of n rows, on so many multiprocessors with so much shared memory each. Sums
// depend on it.
inline int fused_blocks(const FusedPlan& plan, int n_rows, int n_multiprocessors, int shared_of_multiprocessor = 0) {
  const int slots = ceil_div(plan.n_tiles(), fused_warps);
  const int room = shared_of_multiprocessor / (plan.shared_bytes + 2 * kernels_own_bytes); // the system takes 1 KB, too
  const int at_once = std::max(1, std::min(room, fused_blocks_at_once(slots)));
  return std::min(ceil_div(n_rows, plan.rows), n_multiprocessors * at_once);
}

>>>>>>> cuda-kernels
} // namespace fastmlp::cuda
