#include "../kernels/cooperative.cuh"

namespace fastmlp::cuda {
template void launch_cooperative_instance<Precision::ieee>(cudaStream_t, const CooperativePlan&, const CooperativeData&,
                                                           int);
} // namespace fastmlp::cuda
