#include "../kernels/fit_many.cuh"

namespace fastmlp::cuda {
template void launch_fit_many_instance<Precision::ieee>(cudaStream_t, const FusedPlan&, const FitData&, int);
} // namespace fastmlp::cuda
