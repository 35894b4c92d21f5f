// Cooperative steps as engines see them: a kernel for each precision, in a file of its own.
#pragma once

#include "cooperative_plan.hpp"
#include "parameters.hpp"

#ifndef FASTMLP_CUDA_ON_HOST
#include <cuda_runtime_api.h>
#endif

namespace fastmlp::cuda {

// What the steps read and write in global memory.
struct CooperativeData {
  const float* X;
  std::ptrdiff_t stride;
  BatchRows rows; // of the first step; the others follow
  int n_steps;
  Targets<float> targets;
  RowLoss loss; // its hyper-parameters are in the device's memory
  Parameters<float> parameters;
  UpdateHow<float> how; // its partials: a number for each block
  float* room;          // plan.numbers_of_row times the rows of a batch
  double* sums;         // [strips of a batch][2]
  StepState* state;
};

template <Precision precision>
void launch_cooperative_instance(cudaStream_t stream, const CooperativePlan& plan, const CooperativeData& data,
                                 int n_blocks);

} // namespace fastmlp::cuda
