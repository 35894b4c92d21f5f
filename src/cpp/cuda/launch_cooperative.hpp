// The cooperative kernels, each compiled in a file of its own: the one for a precision is chosen here.
#pragma once

#include "cooperative.hpp"

namespace fastmlp::cuda {

inline void launch_cooperative(cudaStream_t stream, Precision precision, const CooperativePlan& plan,
                               const CooperativeData& data, int n_blocks) {
  (precision == Precision::ieee   ? launch_cooperative_instance<Precision::ieee>
   : precision == Precision::tf32 ? launch_cooperative_instance<Precision::tf32>
                                  : launch_cooperative_instance<Precision::bf16>)(stream, plan, data, n_blocks);
}

} // namespace fastmlp::cuda
