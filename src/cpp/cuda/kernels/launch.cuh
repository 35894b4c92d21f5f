// How kernels are written and started, so that one source runs on a graphics processor and, in tests, on the threads of
// a processor: there FASTMLP_CUDA_ON_HOST is set, and what stands here comes from tests/cpp/cuda_on_host.hpp.
//
//   FASTMLP_KERNEL                      before a kernel's name
//   FASTMLP_DEVICE                      before a function that kernels call
//   FASTMLP_SHARED(T, name, [n])        `T name[n]` in shared memory; without [n], one
//   FASTMLP_DYNAMIC_SHARED(T, name)     `T* name`: the shared memory whose size the launch gives
//   FASTMLP_GRID_CONSTANT               before a large parameter that is only read, which then is not copied
//   FASTMLP_UNROLL, FASTMLP_ROLLED      before a loop that is to be unrolled, or not
//   launch(kernel, grid, stream, ...)   the only way to start one; throws if it cannot be started
//   launch_together(...)                the same, with all blocks at once: these may wait for one another
//   let_others_run()                    in a loop that waits for another block
//
// No kernel adds floating-point numbers atomically: every sum has one order, so that a step gives the same bits again.
#pragma once

#include "../room.hpp"

#include <cstddef>
#include <cstdint>

#ifdef FASTMLP_CUDA_ON_HOST
#ifndef FASTMLP_KERNEL
#error "include tests/cpp/cuda_on_host.hpp first"
#endif
#else

#include <cuda_runtime.h>

#include <mutex>
#include <stdexcept>
#include <string>

#define FASTMLP_KERNEL static __global__ void
#define FASTMLP_DEVICE static __device__ __forceinline__
#define FASTMLP_SHARED(T, name, dimensions) __shared__ T name dimensions
#define FASTMLP_GRID_CONSTANT __grid_constant__
#define FASTMLP_UNROLL _Pragma("unroll")
#define FASTMLP_ROLLED _Pragma("unroll 1")
#define FASTMLP_DYNAMIC_SHARED(T, name)                                                                                \
  extern __shared__ __align__(16) unsigned char fastmlp_shared[];                                                      \
  T* const name = reinterpret_cast<T*>(fastmlp_shared)

namespace fastmlp::cuda {

struct Grid {
  dim3 blocks, threads;
  std::size_t shared = 0; // bytes of dynamic shared memory
};

inline void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  cudaGetLastError(); // the next launch would report it again
  throw std::runtime_error(std::string("CUDA: ") + what + ": " + cudaGetErrorString(error));
}

// Lets a kernel have so much dynamic shared memory, on the current device. What it may have never shrinks: other
// engines have graphs with the same kernel.
template <class Kernel> void allow_shared(Kernel* kernel, std::size_t bytes) {
  constexpr std::size_t without_asking = 48 * 1024 - kernels_own_bytes;
  if (bytes <= without_asking) return;
  static std::mutex lock;
  const std::lock_guard<std::mutex> guard(lock);
  cudaFuncAttributes now{};
  check(cudaFuncGetAttributes(&now, kernel), "asking about a kernel");
  if (now.maxDynamicSharedSizeBytes < int(bytes))
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes)),
          "shared memory of a kernel");
}

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), const Grid& grid, cudaStream_t stream, const Arguments&... arguments) {
  allow_shared(kernel, grid.shared);
  kernel<<<grid.blocks, grid.threads, grid.shared, stream>>>(Parameters(arguments)...);
  check(cudaGetLastError(), "launch of a kernel");
}

template <class... Parameters, class... Arguments>
void launch_together(void (*kernel)(Parameters...), const Grid& grid, cudaStream_t stream,
                     const Arguments&... arguments) {
  allow_shared(kernel, grid.shared);
  cudaLaunchAttribute together{};
  together.id = cudaLaunchAttributeCooperative;
  together.val.cooperative = 1;
  cudaLaunchConfig_t how{};
  how.gridDim = grid.blocks;
  how.blockDim = grid.threads;
  how.dynamicSmemBytes = grid.shared;
  how.stream = stream;
  how.attrs = &together;
  how.numAttrs = 1;
  check(cudaLaunchKernelEx(&how, kernel, Parameters(arguments)...), "launch of a cooperative kernel");
}

FASTMLP_DEVICE void let_others_run() {}

} // namespace fastmlp::cuda

#endif

namespace fastmlp::cuda {

constexpr unsigned all_lanes = 0xffffffffu;

} // namespace fastmlp::cuda
