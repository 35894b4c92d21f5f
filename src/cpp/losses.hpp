// Every loss function, for one row or a vector of rows side by side, host and device.
//
// A loss owns its output activation (the link) and the targets it accepts, so that the rule "gradient = prediction
// minus target" is never applied to a pair for which it is wrong.
//
// To add one: write a struct like its neighbours and name it in the list at the bottom.
//   link(z, n, stride, h)     turns the pre-activations z[0], z[stride], ... of a row of n targets into predictions, in
//                             place; h are the values of its hyper-parameters
//   row(z, y, n, stride, h)   returns the row's loss, summed over its outputs, and replaces z by the gradient
//   valid(y, h)               whether y is a target this loss accepts; `domain` says it in words
//   mean_over_outputs         whether reports divide the loss by the number of outputs, as scikit-learn does for
//                             squared_error only
// and where it is no PlainLoss:
//   hyperparameters           name, default and the closed range of valid values
//   outputs                   what it predicts for each target, one after another; as often as a list has values
//   central(h)                the number of the output that scores compare with the target
//   class_numbers             whether a number of the class may stand for a row of targets
// S is a number or a vector whose lanes are different rows. NaN must propagate.
#pragma once

#include "catalog.hpp"
#include "vector_math.hpp"

#include <array>
#include <cstddef>
#include <limits>

namespace fastmlp {

struct PlainLoss {
  static constexpr std::array<Hyperparameter, 0> hyperparameters{};
  static constexpr const char* outputs[] = {"prediction"};
  static int central(Hyperparameters) { return 0; }
  static constexpr bool class_numbers = false;
};

// Probabilities are kept off 0 and 1 by one rounding unit before the logarithm, as in scikit-learn: a confident
// mistake costs at most -log(eps). The gradient is that of the unclipped loss.
template <class S> FASTMLP_INLINE S clip_probability(S p) {
  const S low = splat<S>(std::numeric_limits<scalar_of<S>>::epsilon());
  const S high = splat<S>(1) - low;
  return select(p < low, low, select(p > high, high, p));
}

struct LogLoss : PlainLoss {
  static constexpr const char* name = "log_loss";
  static constexpr const char* formula = "-sum_k y_k log p_k, p = softmax(z)";
  static constexpr const char* link_name = "softmax";
  static constexpr const char* domain = "0 or 1, one 1 in each row (or class numbers)";
  static constexpr bool mean_over_outputs = false, class_numbers = true;
  static bool valid(double y, Hyperparameters) { return y == 0 || y == 1; }

  template <class S> FASTMLP_INLINE void link(S* z, int n, std::ptrdiff_t stride, Hyperparameters) {
    S top = z[0];
    for (int k = 1; k < n; ++k) top = maximum(top, z[k * stride]);
    S sum = splat<S>(0);
    for (int k = 0; k < n; ++k) {
      const S e = exp(z[k * stride] - top);
      z[k * stride] = e;
      sum += e;
    }
    for (int k = 0; k < n; ++k) z[k * stride] = z[k * stride] / sum;
  }

  template <class S> FASTMLP_INLINE S row(S* z, const S* y, int n, std::ptrdiff_t stride, Hyperparameters h) {
    link(z, n, stride, h);
    S p = splat<S>(0); // the probability of the true class: y is one-hot, so one logarithm a row is enough
    for (int k = 0; k < n; ++k) {
      p += y[k * stride] * z[k * stride];
      z[k * stride] = z[k * stride] - y[k * stride];
    }
    return -log(clip_probability(p));
  }
};

struct BinaryLogLoss : PlainLoss {
  static constexpr const char* name = "binary_log_loss";
  static constexpr const char* formula = "-sum_k (y_k log p_k + (1 - y_k) log(1 - p_k)), p = 1 / (1 + exp(-z))";
  static constexpr const char* link_name = "logistic";
  static constexpr const char* domain = "between 0 and 1";
  static constexpr bool mean_over_outputs = false;
  static bool valid(double y, Hyperparameters) { return y >= 0 && y <= 1; }

  template <class S> FASTMLP_INLINE void link(S* z, int n, std::ptrdiff_t stride, Hyperparameters) {
    for (int k = 0; k < n; ++k) z[k * stride] = logistic(z[k * stride]);
  }

  template <class S> FASTMLP_INLINE S row(S* z, const S* y, int n, std::ptrdiff_t stride, Hyperparameters) {
    const S one = splat<S>(1);
    S loss = splat<S>(0);
    for (int k = 0; k < n; ++k) {
      const S p = logistic(z[k * stride]), t = y[k * stride], c = clip_probability(p);
      loss -= t * log(c) + (one - t) * log(one - c);
      z[k * stride] = p - t;
    }
    return loss;
  }
};

struct SquaredError : PlainLoss {
  static constexpr const char* name = "squared_error";
  static constexpr const char* formula = "sum_k (z_k - y_k)^2 / 2";
  static constexpr const char* link_name = "identity";
  static constexpr const char* domain = "any finite number";
  static constexpr bool mean_over_outputs = true;
  static bool valid(double y, Hyperparameters) { return y - y == 0; }

  template <class S> FASTMLP_INLINE void link(S*, int, std::ptrdiff_t, Hyperparameters) {}

  template <class S> FASTMLP_INLINE S row(S* z, const S* y, int n, std::ptrdiff_t stride, Hyperparameters) {
    S loss = splat<S>(0);
    for (int k = 0; k < n; ++k) {
      const S d = z[k * stride] - y[k * stride];
      loss += d * d;
      z[k * stride] = d;
    }
    return splat<S>(0.5) * loss;
  }
};

// Half the deviance of the Poisson distribution; McCullagh, Nelder 1989, Generalized Linear Models, 2.3
struct Poisson : PlainLoss {
  static constexpr const char* name = "poisson";
  static constexpr const char* formula = "sum_k (y_k log(y_k / p_k) - y_k + p_k), p = exp(z)";
  static constexpr const char* link_name = "exp";
  static constexpr const char* domain = "0 or more";
  static constexpr bool mean_over_outputs = false;
  static bool valid(double y, Hyperparameters) { return y >= 0 && y - y == 0; }

  template <class S> FASTMLP_INLINE void link(S* z, int n, std::ptrdiff_t stride, Hyperparameters) {
    for (int k = 0; k < n; ++k) z[k * stride] = exp(z[k * stride]);
  }

  template <class S> FASTMLP_INLINE S row(S* z, const S* y, int n, std::ptrdiff_t stride, Hyperparameters) {
    S loss = splat<S>(0);
    for (int k = 0; k < n; ++k) {
      const S t = y[k * stride], p = exp(z[k * stride]);
      const S entropy = t * log(t / p); // y log(y / p) is 0 at y = 0, where the product is 0 * -inf
      loss += select(t == splat<S>(0), p, entropy - t + p);
      z[k * stride] = p - t;
    }
    return loss;
  }
};

using Losses = Catalog<LogLoss, BinaryLogLoss, SquaredError, Poisson>;

// What an engine asks its kernels to compute for each row.
struct RowLoss {
  int number; // in Losses
  Hyperparameters h;
  int n_targets, n_outputs;
};

} // namespace fastmlp
