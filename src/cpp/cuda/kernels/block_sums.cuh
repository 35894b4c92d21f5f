// Sums over the threads of a block and over the blocks of a kernel, always in the same order.
#pragma once

#include "../step_state.hpp"
#include "launch.cuh"

namespace fastmlp::cuda {

// Sum over all threads of a block, the same in each: over the lanes of a warp as a tree, then warps one after another.
// Every thread must call it. `room` is for one number a warp.
template <class S> FASTMLP_DEVICE S block_sum(S x, S* room) {
  for (int distance = warp_size / 2; distance > 0; distance /= 2) x += __shfl_xor_sync(all_lanes, x, distance);
  const int warp = int(threadIdx.x) / warp_size, n_warps = int(blockDim.x) / warp_size;
  __syncthreads();
  if (int(threadIdx.x) % warp_size == 0) room[warp] = x;
  __syncthreads();
  S sum = room[0];
  for (int w = 1; w < n_warps; ++w) sum += room[w];
  return sum;
}
constexpr int most_warps = 32;

// Whether this block is the last of n that come here; then it sees what the others wrote. Every thread must call it.
FASTMLP_DEVICE bool is_last_block(unsigned* arrived, unsigned n) {
  FASTMLP_SHARED(bool, last, );
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    last = atomicAdd(arrived, 1u) == n - 1;
    if (last) *arrived = 0;
  }
  __syncthreads();
  if (last) __threadfence();
  return last;
}

// The end of a kernel whose blocks have found parts of the batch's loss and weight: the last one adds them up, in the
// order of the blocks, into the state. partials: [blocks][2]. Every thread must call it.
FASTMLP_DEVICE void finish_loss(double loss, double weight, double* partials, double* room, StepState* state) {
  if (threadIdx.x == 0) {
    partials[2 * blockIdx.x] = loss;
    partials[2 * blockIdx.x + 1] = weight;
  }
  if (!is_last_block(&state->arrived_loss, gridDim.x)) return;
  loss = weight = 0;
  for (unsigned block = threadIdx.x; block < gridDim.x; block += blockDim.x) {
    loss += partials[2 * block];
    weight += partials[2 * block + 1];
  }
  loss = block_sum(loss, room);
  weight = block_sum(weight, room);
  if (threadIdx.x == 0) {
    state->loss = loss;
    state->weight = weight;
  }
}

} // namespace fastmlp::cuda
