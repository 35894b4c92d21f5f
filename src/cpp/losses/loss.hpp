// What a loss is, and what losses share.
//
// To add one: write a struct like its neighbours in the file of its kind, and name it in the list at the bottom of that
// file.
//   link(z, n, stride, h)     turns the pre-activations z[0], z[stride], ... of a row of n targets into predictions, in
//                             place; h are the values of its hyper-parameters
//   row(z, y, n, stride, h)   returns the row's loss, summed over its outputs, and replaces z by the gradient. Where
//                             every output is judged alone, of(z, y, h, slope) does it for one of them instead
//   valid(y, h)               whether y is a target this loss accepts; `domain` says it in words
//   mean_over_outputs         whether reports divide the loss by the number of outputs: distances do, as scikit-learn
//                             has it for squared_error; negative log-likelihoods add up
// and where it is no PlainLoss:
//   hyperparameters           name, default and the closed range of valid values
//   outputs                   what it predicts for each target, one after another; as often as a list has values
//   central(h)                the number of the output that scores compare with the target
//   class_numbers             whether a number of the class may stand for a row of targets
// S is a number or a vector whose lanes are different rows. NaN must propagate.
#pragma once

#include "../catalog.hpp"
#include "../vector_math.hpp"

#include <array>
#include <cstddef>

namespace fastmlp {

// Ends of ranges: float32 holds these numbers and their products with data.
constexpr double tiny = 1e-30, huge = 1e30;

// A hyper-parameter for all lanes.
template <class S> FASTMLP_INLINE S value_of(Hyperparameters h, int i) { return splat<S>(scalar_of<S>(h.values[i])); }

struct PlainLoss {
  static constexpr std::array<Hyperparameter, 0> hyperparameters{};
  static constexpr const char* outputs[] = {"prediction"};
  static int central(Hyperparameters) { return 0; }
  static constexpr bool class_numbers = false;
};

// Each output is judged alone.
template <class Own> struct EachOutput : PlainLoss {
  template <class S> FASTMLP_INLINE S row(S* z, const S* y, int n, std::ptrdiff_t stride, Hyperparameters h) {
    S loss = splat<S>(0);
    for (int k = 0; k < n; ++k) loss += Own::of(z[k * stride], y[k * stride], h, z[k * stride]);
    return loss;
  }
};

} // namespace fastmlp
