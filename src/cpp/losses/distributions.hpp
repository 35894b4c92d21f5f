// Losses that take targets for draws from a distribution and learn its mean, or more of it.
#pragma once

#include "loss.hpp"

namespace fastmlp {

// The predictions are means above 0, and the loss is half the deviance of a distribution that has them;
// McCullagh, Nelder 1989, Generalized Linear Models, 2.3
template <class Own> struct HalfDeviance : EachOutput<Own> {
  static constexpr const char* link_name = "exp";
  static constexpr bool mean_over_outputs = false;
  template <class S> FASTMLP_INLINE void link(S* z, int n, std::ptrdiff_t stride, Hyperparameters) {
    for (int k = 0; k < n; ++k) z[k * stride] = exp(z[k * stride]);
  }
};

struct Poisson : HalfDeviance<Poisson> {
  static constexpr const char* name = "poisson";
  static constexpr const char* formula = "sum_k (y_k log(y_k / p_k) - y_k + p_k), p = exp(z)";
  static constexpr const char* domain = "0 or more";
  static bool valid(double y, Hyperparameters) { return y >= 0 && y - y == 0; }
  template <class S> FASTMLP_INLINE S of(S z, S y, Hyperparameters, S& slope) {
    const S p = exp(z);
    const S entropy = y * log(y / p); // y log(y / p) is 0 at y = 0, where the product is 0 * -inf
    slope = p - y;
    return select(y == splat<S>(0), p, entropy - y + p);
  }
};

struct Gamma : HalfDeviance<Gamma> {
  static constexpr const char* name = "gamma";
  static constexpr const char* formula = "sum_k (y_k / p_k - log(y_k / p_k) - 1), p = exp(z)";
  static constexpr const char* domain = "above 0";
  static bool valid(double y, Hyperparameters) { return y > 0 && y - y == 0; }
  template <class S> FASTMLP_INLINE S of(S z, S y, Hyperparameters, S& slope) {
    const S log_ratio = log(y) - z, excess = expm1(log_ratio); // y / p - 1
    slope = -excess;
    return excess - log_ratio;
  }
};

// Between Poisson (power 1) and gamma (2): sums of a random number of gamma numbers, such as claims. Beyond: inverse
// Gaussian (3). Jorgensen 1987, Exponential Dispersion Models, JRSS B 49. Near 1 and 2 the reported loss loses digits.
struct Tweedie : HalfDeviance<Tweedie> {
  static constexpr const char* name = "tweedie";
  static constexpr const char* formula =
      "sum_k (y_k^(2-r) / ((1-r) (2-r)) - y_k p_k^(1-r) / (1-r) + p_k^(2-r) / (2-r)), "
      "r the power, p = exp(z)";
  static constexpr const char* domain = "0 or more, and above 0 from power 2 on";
  static constexpr Hyperparameter hyperparameters[] = {{"power", 1.5, 1, 3}};
  static bool valid(double y, Hyperparameters h) { return h.values[0] < 2 ? Poisson::valid(y, h) : Gamma::valid(y, h); }
  template <class S> FASTMLP_INLINE S of(S z, S y, Hyperparameters h, S& slope) {
    const double power = h.values[0];
    if (power == 1) return Poisson::of(z, y, h, slope);
    if (power == 2) return Gamma::of(z, y, h, slope);
    using T = scalar_of<S>;
    const S zero = splat<S>(0), a = splat<S>(T(1 - power)), b = splat<S>(T(2 - power));
    const S none = select(y == zero, zero, exp(a * z)), all = exp(b * z), y_none = y * none; // 0 * inf must be 0
    slope = all - y_none;
    return select(y > zero, exp(b * log(y)), zero) / (a * b) - y_none / a + all / b;
  }
};

// The logarithm of the variance is learned, which suits targets of any scale; `eps` is the least variance.
// Nix, Weigend 1994, Estimating the mean and variance of the target probability distribution, ICNN
struct GaussianNll : PlainLoss {
  static constexpr const char* name = "gaussian_nll";
  static constexpr const char* formula =
      "sum_k (log v_k + (m_k - y_k)^2 / v_k) / 2, m_k = z_2k, v_k = exp(z_2k+1) + eps";
  static constexpr const char* link_name = "mean_variance";
  static constexpr const char* domain = "any finite number";
  static constexpr Hyperparameter hyperparameters[] = {{"eps", 1e-6, tiny, 1e6}};
  static constexpr const char* outputs[] = {"mean", "variance"};
  static constexpr bool mean_over_outputs = false;
  static bool valid(double y, Hyperparameters) { return y - y == 0; }

  template <class S> FASTMLP_INLINE void link(S* z, int n, std::ptrdiff_t stride, Hyperparameters h) {
    for (int k = 1; k < 2 * n; k += 2) z[k * stride] = exp(z[k * stride]) + value_of<S>(h, 0);
  }

  template <class S> FASTMLP_INLINE S row(S* z, const S* y, int n, std::ptrdiff_t stride, Hyperparameters h) {
    const S one = splat<S>(1), half = splat<S>(0.5);
    S loss = splat<S>(0);
    for (int k = 0; k < n; ++k, z += 2 * stride) {
      const S d = z[0] - y[k * stride], s = z[stride];
      const S e = exp(s), v = e + value_of<S>(h, 0), precision = one / v;
      const auto exact = s < splat<S>(60); // above, v is e to the last digit, and may overflow where log v does not
      const S log_v = select(exact, log(v), s), share = select(exact, e * precision, one);
      const S squares = d * d * precision;
      loss += half * (log_v + squares);
      z[0] = d * precision;
      z[stride] = half * share * (one - squares);
    }
    return loss;
  }
};

using DistributionLosses = Catalog<Poisson, Gamma, Tweedie, GaussianNll>;

} // namespace fastmlp
