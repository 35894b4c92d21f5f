// The kernels for narrow networks, each compiled in a file of its own: the one for a precision and a size is chosen
// here.
#pragma once

#include "fit_many.hpp"
#include "fused.hpp"

#include <stdexcept>

namespace fastmlp::cuda {

// Partial gradients of n_blocks blocks, and loss and weight of the batch in the state; then launch_update with as many
// parts, plan.n_parameters apart.
inline void launch_fused(cudaStream_t stream, Precision precision, const FusedPlan& plan, const FusedData& data,
                         int n_blocks) {
  const auto choose = [&](auto few, auto many) {
    (plan.n_tiles() <= fused_warps * few_slots ? few : many)(stream, plan, data, n_blocks);
  };
  if (precision == Precision::ieee)
    launch_fused_instance<Precision::ieee, many_slots>(stream, plan, data, n_blocks);
  else if (precision == Precision::tf32)
    choose(launch_fused_instance<Precision::tf32, few_slots>, launch_fused_instance<Precision::tf32, many_slots>);
  else
    choose(launch_fused_instance<Precision::bf16, few_slots>, launch_fused_instance<Precision::bf16, many_slots>);
}

template <Precision precision>
void launch_fit_many_instance(cudaStream_t stream, const FusedPlan& plan, const FitData& data, int n_models);

// The epochs of every model that goes on. Precision: ieee or tf32, others are not compiled.
inline void launch_fit_many(cudaStream_t stream, Precision precision, const FitPlan& plan, FitData data, int n_models) {
  data.state_at = plan.state_at;
  if (precision == Precision::bf16)
    throw std::invalid_argument("many fits at once are computed in ieee or tf32 precision, got bf16");
  (precision == Precision::ieee ? launch_fit_many_instance<Precision::ieee>
                                : launch_fit_many_instance<Precision::tf32>)(stream, plan.fused, data, n_models);
}

} // namespace fastmlp::cuda
