// Losses for classes and labels: negative log-likelihoods of probabilities, plain or focused.
#pragma once

#include "loss.hpp"

#include <limits>

namespace fastmlp {

// Probabilities are kept off 0 and 1 by one rounding unit before the logarithm, as in scikit-learn: a confident
// mistake costs at most -log(eps). The gradient is that of the unclipped loss.
template <class S> FASTMLP_INLINE S clip_probability(S p) {
  const S low = splat<S>(std::numeric_limits<scalar_of<S>>::epsilon());
  const S high = splat<S>(1) - low;
  return select(p < low, low, select(p > high, high, p));
}

// Label smoothing e: targets become (1 - e) y + e / n. Szegedy et al. 2016, arXiv:1512.00567, section 7
struct LogLoss : PlainLoss {
  static constexpr const char* name = "log_loss";
  static constexpr const char* formula = "-sum_k t_k log p_k, p = softmax(z), t = (1 - label_smoothing) y + "
                                         "label_smoothing / n";
  static constexpr const char* link_name = "softmax";
  static constexpr const char* domain = "0 or 1, one 1 in each row (or class numbers)";
  static constexpr Hyperparameter hyperparameters[] = {{"label_smoothing", 0, 0, 1}};
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
    if (h.values[0] != 0) return smoothed_row(z, y, n, stride, value_of<S>(h, 0));
    link(z, n, stride, h);
    S p = splat<S>(0); // the probability of the true class: y is one-hot, so one logarithm a row is enough
    for (int k = 0; k < n; ++k) {
      p += y[k * stride] * z[k * stride];
      z[k * stride] = z[k * stride] - y[k * stride];
    }
    return -log(clip_probability(p));
  }

  FASTMLP_CALLS_ITS_ARGUMENT
  template <class Team, class T> FASTMLP_INLINE void link_by(Team team, T* z, int n, Hyperparameters) {
    const T top = team.largest(z, n);
    team.each(n, [&](int k) { z[k] = exp(z[k] - top); });
    const T sum = sum_of(z, n);
    team.each(n, [&](int k) { z[k] = z[k] / sum; });
  }
  FASTMLP_CALLS_ITS_ARGUMENT
  template <class Team, class T> FASTMLP_INLINE T row_by(Team team, T* z, T* y, int n, Hyperparameters h) {
    if (h.values[0] != 0) return smoothed_row_by(team, z, y, n, T(h.values[0]));
    link_by(team, z, n, h);
    T p = 0;
    for (int k = 0; k < n; ++k) p += y[k] * z[k];
    team.each(n, [&](int k) { z[k] = z[k] - y[k]; });
    return -log(clip_probability(p));
  }

  // Every probability counts here, so that none may be clipped: log p_k = z_k - log(sum_j exp z_j).
  template <class S> FASTMLP_INLINE S smoothed_row(S* z, const S* y, int n, std::ptrdiff_t stride, S smoothing) {
    const S uniform = splat<S>(scalar_of<S>(1) / scalar_of<S>(n));
    S top = z[0], sum = splat<S>(0), mean = splat<S>(0);
    for (int k = 1; k < n; ++k) top = maximum(top, z[k * stride]);
    for (int k = 0; k < n; ++k) {
      const S below = z[k * stride] - top, e = exp(below);
      mean += (y[k * stride] + smoothing * (uniform - y[k * stride])) * below;
      z[k * stride] = e;
      sum += e;
    }
    for (int k = 0; k < n; ++k)
      z[k * stride] = z[k * stride] / sum - (y[k * stride] + smoothing * (uniform - y[k * stride]));
    return log(sum) - mean;
  }
  FASTMLP_CALLS_ITS_ARGUMENT
  template <class Team, class T> FASTMLP_INLINE T smoothed_row_by(Team team, T* z, T* y, int n, T smoothing) {
    const T uniform = T(1) / T(n), top = team.largest(z, n);
    T mean = 0;
    for (int k = 0; k < n; ++k) mean += (y[k] + smoothing * (uniform - y[k])) * (z[k] - top);
    team.each(n, [&](int k) { z[k] = exp(z[k] - top); });
    const T sum = sum_of(z, n);
    team.each(n, [&](int k) { z[k] = z[k] / sum - (y[k] + smoothing * (uniform - y[k])); });
    return log(sum) - mean;
  }
};

struct BinaryLogLoss : EachOutput<BinaryLogLoss> {
  static constexpr const char* name = "binary_log_loss";
  static constexpr const char* formula = "-sum_k (t_k log p_k + (1 - t_k) log(1 - p_k)), p = 1 / (1 + exp(-z)), "
                                         "t = (1 - label_smoothing) y + label_smoothing / 2";
  static constexpr const char* link_name = "logistic";
  static constexpr const char* domain = "between 0 and 1";
  static constexpr Hyperparameter hyperparameters[] = {{"label_smoothing", 0, 0, 1}};
  static constexpr bool mean_over_outputs = false;
  static bool valid(double y, Hyperparameters) { return y >= 0 && y <= 1; }

  template <class S> FASTMLP_INLINE void link(S* z, int n, std::ptrdiff_t stride, Hyperparameters) {
    for (int k = 0; k < n; ++k) z[k * stride] = logistic(z[k * stride]);
  }

  template <class S> FASTMLP_INLINE S of(S z, S y, Hyperparameters h, S& slope) {
    const S one = splat<S>(1), t = y + value_of<S>(h, 0) * (splat<S>(0.5) - y);
    const S p = logistic(z), c = clip_probability(p);
    slope = p - t;
    return -(t * log(c) + (one - t) * log(one - c));
  }
};

// -q^gamma log p for p + q = 1, and by what the gradient of log loss, which it is for gamma = 0, is to be multiplied.
// Lin et al. 2017, Focal Loss for Dense Object Detection, arXiv:1708.02002
template <class S> FASTMLP_INLINE S focus(S p, S q, S gamma, S& factor) {
  p = clip_probability(p);
  q = clip_probability(q);
  const S log_p = log(p), power = exp(gamma * log(q));
  factor = power * (splat<S>(1) - gamma * p * log_p / q);
  return -(power * log_p);
}

struct Focal : PlainLoss {
  static constexpr const char* name = "focal";
  static constexpr const char* formula = "-sum_k y_k (1 - p_k)^gamma log p_k, p = softmax(z)";
  static constexpr const char* link_name = LogLoss::link_name;
  static constexpr const char* domain = LogLoss::domain;
  static constexpr Hyperparameter hyperparameters[] = {{"gamma", 2, 0, 100}};
  static constexpr bool mean_over_outputs = false, class_numbers = true;
  static bool valid(double y, Hyperparameters h) { return LogLoss::valid(y, h); }

  template <class S> FASTMLP_INLINE void link(S* z, int n, std::ptrdiff_t stride, Hyperparameters h) {
    LogLoss::link(z, n, stride, h);
  }

  template <class S> FASTMLP_INLINE S row(S* z, const S* y, int n, std::ptrdiff_t stride, Hyperparameters h) {
    link(z, n, stride, h);
    S p = splat<S>(0), q = splat<S>(0), factor; // p and q of the true class, both to their last digits
    for (int k = 0; k < n; ++k) {
      p += y[k * stride] * z[k * stride];
      q += (splat<S>(1) - y[k * stride]) * z[k * stride];
    }
    const S loss = focus(p, q, value_of<S>(h, 0), factor);
    for (int k = 0; k < n; ++k) z[k * stride] = factor * (z[k * stride] - y[k * stride]);
    return loss;
  }

  FASTMLP_CALLS_ITS_ARGUMENT
  template <class Team, class T> FASTMLP_INLINE void link_by(Team team, T* z, int n, Hyperparameters h) {
    LogLoss::link_by(team, z, n, h);
  }
  FASTMLP_CALLS_ITS_ARGUMENT
  template <class Team, class T> FASTMLP_INLINE T row_by(Team team, T* z, T* y, int n, Hyperparameters h) {
    link_by(team, z, n, h);
    T p = 0, q = 0, factor;
    for (int k = 0; k < n; ++k) {
      p += y[k] * z[k];
      q += (T(1) - y[k]) * z[k];
    }
    const T loss = focus(p, q, T(h.values[0]), factor);
    team.each(n, [&](int k) { z[k] = factor * (z[k] - y[k]); });
    return loss;
  }
};

struct BinaryFocal : EachOutput<BinaryFocal> {
  static constexpr const char* name = "binary_focal";
  static constexpr const char* formula = "-sum_k (1 - q_k)^gamma log q_k, q_k = p_k if y_k = 1 else 1 - p_k, "
                                         "p = 1 / (1 + exp(-z))";
  static constexpr const char* link_name = BinaryLogLoss::link_name;
  static constexpr const char* domain = "0 or 1";
  static constexpr Hyperparameter hyperparameters[] = {{"gamma", 2, 0, 100}};
  static constexpr bool mean_over_outputs = false;
  static bool valid(double y, Hyperparameters) { return y == 0 || y == 1; }

  template <class S> FASTMLP_INLINE void link(S* z, int n, std::ptrdiff_t stride, Hyperparameters h) {
    BinaryLogLoss::link(z, n, stride, h);
  }

  template <class S> FASTMLP_INLINE S of(S z, S y, Hyperparameters h, S& slope) {
    const S sign = y + y - splat<S>(1), q = logistic(-sign * z);
    S factor;
    const S loss = focus(logistic(sign * z), q, value_of<S>(h, 0), factor);
    slope = -sign * q * factor;
    return loss;
  }
};

using ClassLosses = Catalog<LogLoss, BinaryLogLoss, Focal, BinaryFocal>;

} // namespace fastmlp
