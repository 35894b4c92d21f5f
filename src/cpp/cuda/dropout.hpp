// Which units of which rows a step leaves out: the random numbers of random.hpp, bit for bit those of the CPU's
// kernels.
#pragma once

#include "step_state.hpp"

namespace fastmlp::cuda {

template <class T> struct Dropout {
  int layer = 0;               // of units, the input is 0
  std::uint32_t threshold = 0; // of 2^32; 0: none is left out
  T scale = 1;                 // of those that stay

  Dropout() = default;
  Dropout(int layer, double share)
      : layer(layer), threshold(std::uint32_t(share * 4294967296.0)), scale(T(1 / (1 - share))) {}
};

// Of the next step of the state.
template <class T> struct Kept {
  FASTMLP_HOST_DEVICE Kept(const Dropout<T>& dropout, const StepState* state) : threshold(0), scale(1) {
    if (!state || dropout.threshold == 0) return;
    RandomKey step = state->key;
    if (!step.is_set() && state->seed.is_set()) step = state->seed.of(std::uint64_t(state->t + 1));
    if (!step.is_set()) return;
    threshold = dropout.threshold;
    scale = dropout.scale;
    key = step.of(std::uint64_t(dropout.layer));
  }
  FASTMLP_HOST_DEVICE T operator()(T value, int row, int unit) const {
    if (threshold == 0) return value;
    const std::uint32_t drawn =
        scatter(scatter(std::uint32_t(row) + key.low) ^ (std::uint32_t(unit) * 0x9e3779b9u + key.high));
    return drawn >= threshold ? value * scale : T(0);
  }

  std::uint32_t threshold;
  T scale;
  RandomKey key;
};

} // namespace fastmlp::cuda
