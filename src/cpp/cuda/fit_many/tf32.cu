#include "../kernels/fit_many.cuh"

namespace fastmlp::cuda {
template void launch_fit_many_instance<Precision::tf32>(cudaStream_t, const FusedPlan&, const FitData&, int);
} // namespace fastmlp::cuda
