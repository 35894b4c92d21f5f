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
//   row_by(team, z, y, n, h)  row for one long row, side by side, by several threads of a graphics processor, which may
//   link_by(team, z, n, h)    overwrite y; and link likewise. team.each(n, f) has f(k) called for each k by one of
//   them,
//                             and all see what it wrote; team.largest(z, n) is the largest of z. All else all do alike
// S is a number or a vector whose lanes are different rows. NaN must propagate.
#pragma once

#include "../catalog.hpp"
#include "../vector_math.hpp"

#include <array>
#include <cstddef>
#include <utility>

namespace fastmlp {

// Ends of ranges: float32 holds these numbers and their products with data.
constexpr double tiny = 1e-30, huge = 1e30;

// A hyper-parameter for all lanes.
template <class S> FASTMLP_INLINE S value_of(Hyperparameters h, int i) { return splat<S>(scalar_of<S>(h.values[i])); }

template <class T> FASTMLP_INLINE T sum_of(const T* x, int n) {
  T sum = 0;
  for (int k = 0; k < n; ++k) sum += x[k];
  return sum;
}

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

  FASTMLP_CALLS_ITS_ARGUMENT
  template <class Team, class T, class O = Own,
            class = decltype(O::of(T(), T(), Hyperparameters{}, std::declval<T&>()))>
  FASTMLP_INLINE T row_by(Team team, T* z, T* y, int n, Hyperparameters h) {
    team.each(n, [&](int k) { y[k] = Own::of(z[k], y[k], h, z[k]); });
    return sum_of(y, n);
  }
  FASTMLP_CALLS_ITS_ARGUMENT
  template <class Team, class T> FASTMLP_INLINE void link_by(Team team, T* z, int n, Hyperparameters h) {
    team.each(n, [&](int k) { Own::link(z + k, 1, 1, h); });
  }
};

} // namespace fastmlp
