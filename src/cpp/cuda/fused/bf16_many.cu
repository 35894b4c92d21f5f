#include "../kernels/fused.cuh"

namespace fastmlp::cuda {
template void launch_fused_instance<Precision::bf16, many_slots>(cudaStream_t, const FusedPlan&, const FusedData&, int);
} // namespace fastmlp::cuda
