// Losses that tell how far an output is from a number.
#pragma once

#include "loss.hpp"

#include <cmath>

namespace fastmlp {

// The outputs are the predictions, and the loss is a distance.
template <class Own> struct Distance : EachOutput<Own> {
  static constexpr const char* link_name = "identity";
  static constexpr const char* domain = "any finite number";
  static constexpr bool mean_over_outputs = true;
  static bool valid(double y, Hyperparameters) { return y - y == 0; }
  template <class S> FASTMLP_INLINE void link(S*, int, std::ptrdiff_t, Hyperparameters) {}
};

struct SquaredError : Distance<SquaredError> {
  static constexpr const char* name = "squared_error";
  static constexpr const char* formula = "sum_k (z_k - y_k)^2 / 2";
  template <class S> FASTMLP_INLINE S of(S z, S y, Hyperparameters, S& slope) {
    const S d = z - y;
    slope = d;
    return splat<S>(0.5) * d * d;
  }
};

// -1, 0 or 1, or NaN
template <class S> FASTMLP_INLINE S sign_of(S d) {
  const S zero = splat<S>(0), one = splat<S>(1);
  return select(d > zero, one, select(d < zero, -one, d));
}

struct AbsoluteError : Distance<AbsoluteError> {
  static constexpr const char* name = "absolute_error";
  static constexpr const char* formula = "sum_k |z_k - y_k|";
  template <class S> FASTMLP_INLINE S of(S z, S y, Hyperparameters, S& slope) {
    const S d = z - y;
    slope = sign_of(d);
    return absolute(d);
  }
};

// Huber 1964, Robust Estimation of a Location Parameter, Annals of Mathematical Statistics 35
struct Huber : Distance<Huber> {
  static constexpr const char* name = "huber";
  static constexpr const char* formula = "sum_k (d^2 / 2 if |d| <= delta else delta (|d| - delta / 2)), d = z_k - y_k";
  static constexpr Hyperparameter hyperparameters[] = {{"delta", 1, tiny, huge}};
  template <class S> FASTMLP_INLINE S of(S z, S y, Hyperparameters h, S& slope) {
    const S d = z - y, delta = value_of<S>(h, 0);
    slope = select(d > delta, delta, select(d < -delta, -delta, d));
    return slope * (d - splat<S>(0.5) * slope);
  }
};

struct LogCosh : Distance<LogCosh> {
  static constexpr const char* name = "log_cosh";
  static constexpr const char* formula = "sum_k log(cosh(z_k - y_k))";
  template <class S> FASTMLP_INLINE S of(S z, S y, Hyperparameters, S& slope) {
    const S d = z - y, a = absolute(d); // cosh a = exp(a) (1 + exp(-2a)) / 2, and exp(a) may overflow
    slope = tanh(d);
    return a + (softplus(splat<S>(-2) * a) - splat<S>(scalar_of<S>(0.6931471805599453)));
  }
};

// Koenker, Bassett 1978, Regression Quantiles, Econometrica 46. Quantiles that are learned one by one may cross; sorted
// they are never further from the true ones: Chernozhukov, Fernandez-Val, Galichon 2010, Econometrica 78.
struct Quantile : Distance<Quantile> {
  static constexpr const char* name = "quantile";
  static constexpr const char* formula = "sum_k sum_j max(q_j d, (q_j - 1) d), d = y_k - z_kj, q the quantiles";
  static constexpr const char* link_name = "sort";
  static constexpr Hyperparameter hyperparameters[] = {{"quantile", 0.5, above_zero, below_one, true}};
  static constexpr const char* outputs[] = {"quantile"};

  static int central(Hyperparameters h) { // the first of those nearest to the median
    int best = 0;
    for (int j = 1; j < h.n; ++j)
      if (std::abs(h.values[j] - 0.5) < std::abs(h.values[best] - 0.5)) best = j;
    return best;
  }

  template <class S> FASTMLP_INLINE void link(S* z, int n, std::ptrdiff_t stride, Hyperparameters h) {
    for (int k = 0; k < n; ++k, z += h.n * stride)
      for (int end = h.n - 1; end > 0; --end)
        for (int j = 0; j < end; ++j) { // the largest so far moves on; NaN stays where it is
          const S a = z[j * stride], b = z[(j + 1) * stride];
          z[j * stride] = select(b < a, b, a);
          z[(j + 1) * stride] = select(b < a, a, b);
        }
  }

  template <class S> FASTMLP_INLINE S row(S* z, const S* y, int n, std::ptrdiff_t stride, Hyperparameters h) {
    S loss = splat<S>(0);
    for (int k = 0; k < n; ++k)
      for (int j = 0; j < h.n; ++j, z += stride) {
        const S d = *z - y[k * stride], q = value_of<S>(h, j);
        const S share = select(d > splat<S>(0), splat<S>(1) - q, q);
        loss += share * absolute(d);
        *z = share * sign_of(d);
      }
    return loss;
  }
};

using DistanceLosses = Catalog<SquaredError, AbsoluteError, Huber, LogCosh, Quantile>;

} // namespace fastmlp
