// What a step of the optimizer works on, and how.
#pragma once

#include "bfloat16.hpp"
#include "step_state.hpp"

#include <cstddef>

namespace fastmlp::cuda {

// All parameters, and what is kept for each: one layout, in the order of network.hpp. There may be gaps, which hold 0
// in all of them and stay 0.
template <class T> struct Parameters {
  T* w;
  T* gradient;                                 // or parts of it, one after another, whose sum in this order it is
  int n_parts;                                 // 1: the whole
  std::ptrdiff_t part;                         // from one to the next
  T* slots[max_slots + 1];                     // of the optimizer; then the moving average of the weights, or null
  bfloat16* operands;                          // the weights as products read them; may be null
  std::ptrdiff_t n;                            // those that are trained
  std::ptrdiff_t matrices_end, matrices_again; // before the one and from the other on, weights: these decay

  FASTMLP_HOST_DEVICE bool decays(std::ptrdiff_t i) const { return i < matrices_end || i >= matrices_again; }
};

template <class T> struct UpdateHow {
  int optimizer;
  T alpha, clip_value;
  double clip_norm;                 // infinity: gradients are not shortened, and finish_gradient is not needed
  const StepCoefficients<T>* table; // of an epoch
  double* partials;                 // update_blocks(n) numbers
  BatchReport* reports;             // of an epoch
  std::int64_t advance;             // rows by which the state moves on
};

} // namespace fastmlp::cuda
