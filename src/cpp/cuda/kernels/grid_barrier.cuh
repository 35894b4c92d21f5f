// A barrier for all blocks of a kernel, which must run at once.
#pragma once

#include "launch.cuh"

namespace fastmlp::cuda {

// `arrived` is 0 when the kernel starts, and counts on from barrier to barrier; the same object in all threads.
class GridBarrier {
public:
  __device__ explicit GridBarrier(unsigned* arrived) : arrived(arrived) {}

  // What any thread wrote before is seen by all behind it. Every thread of every block must call it.
  __device__ void wait() {
    expected += gridDim.x;
    __syncthreads();
    if (threadIdx.x == 0) { // fences of one thread count for all that are in order with it
      __threadfence();
      atomicAdd(arrived, 1u);
      while (*static_cast<volatile unsigned*>(arrived) < expected) let_others_run();
      __threadfence();
    }
    __syncthreads();
  }

private:
  unsigned* arrived;
  unsigned expected = 0;
};

} // namespace fastmlp::cuda
