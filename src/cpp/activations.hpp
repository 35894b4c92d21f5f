// Every activation function, for one number or a vector of numbers, host and device.
//
// To add one: write a struct like its neighbours and name it in the list at the bottom. Nothing else changes: kernels,
// estimators, tests and documentation read the list.
//
// `value(z)` is the activation. `slope(z, a)` is its derivative at z, where a = value(z). If `slope_from_output` is
// true the engine does not keep z (it passes a for both), which saves a buffer: use it when the slope can be written
// in terms of a alone. NaN must propagate: write comparisons so that NaN falls through to the arithmetic. If value and
// slope are very few instructions it may say `cheap = true`, if only the slope is, `cheap_slope = true`: products then
// apply them while their sums are in registers.
#pragma once

#include "catalog.hpp"
#include "vector_math.hpp"

#include <type_traits>

namespace fastmlp {

struct Identity {
  static constexpr const char* name = "identity";
  static constexpr const char* formula = "z";
  static constexpr bool slope_from_output = true;
  static constexpr bool cheap = true;
  template <class S> FASTMLP_INLINE S value(S z) { return z; }
  template <class S> FASTMLP_INLINE S slope(S, S) { return splat<S>(1); }
};

struct Logistic {
  static constexpr const char* name = "logistic";
  static constexpr const char* formula = "1 / (1 + exp(-z))";
  static constexpr bool slope_from_output = true;
  static constexpr bool cheap_slope = true;
  template <class S> FASTMLP_INLINE S value(S z) { return logistic(z); }
  template <class S> FASTMLP_INLINE S slope(S, S a) { return a * (splat<S>(1) - a); }
};

struct Tanh {
  static constexpr const char* name = "tanh";
  static constexpr const char* formula = "tanh(z)";
  static constexpr bool slope_from_output = true;
  static constexpr bool cheap_slope = true;
  template <class S> FASTMLP_INLINE S value(S z) { return tanh(z); }
  template <class S> FASTMLP_INLINE S slope(S, S a) { return splat<S>(1) - a * a; }
};

struct Relu {
  static constexpr const char* name = "relu";
  static constexpr const char* formula = "max(0, z)";
  static constexpr bool slope_from_output = true;
  static constexpr bool cheap = true;
  template <class S> FASTMLP_INLINE S value(S z) { return select(z < splat<S>(0), splat<S>(0), z); }
  template <class S> FASTMLP_INLINE S slope(S, S a) { return select(a == splat<S>(0), splat<S>(0), splat<S>(1)); }
};

struct LeakyRelu {
  static constexpr const char* name = "leaky_relu";
  static constexpr const char* formula = "z if z > 0 else 0.01 z";
  static constexpr bool slope_from_output = true;
  static constexpr bool cheap = true;
  template <class S> FASTMLP_INLINE S value(S z) { return select(z > splat<S>(0), z, splat<S>(0.01) * z); }
  template <class S> FASTMLP_INLINE S slope(S, S a) { return select(a > splat<S>(0), splat<S>(1), splat<S>(0.01)); }
};

// Clevert, Unterthiner, Hochreiter 2015, arXiv:1511.07289
struct Elu {
  static constexpr const char* name = "elu";
  static constexpr const char* formula = "z if z > 0 else exp(z) - 1";
  static constexpr bool slope_from_output = true;
  template <class S> FASTMLP_INLINE S value(S z) { return select(z > splat<S>(0), z, expm1(z)); }
  template <class S> FASTMLP_INLINE S slope(S, S a) { return select(a > splat<S>(0), splat<S>(1), a + splat<S>(1)); }
};

// Klambauer et al. 2017, arXiv:1706.02515; the constants make zero mean and unit variance a fixed point
struct Selu {
  static constexpr const char* name = "selu";
  static constexpr const char* formula = "1.0507 (z if z > 0 else 1.6733 (exp(z) - 1))";
  static constexpr bool slope_from_output = true;
  static constexpr double alpha = 1.6732632423543772848170429916717;
  static constexpr double scale = 1.0507009873554804934193349852946;
  template <class S> FASTMLP_INLINE S value(S z) {
    return select(z > splat<S>(0), splat<S>(scale) * z, splat<S>(scale * alpha) * expm1(z));
  }
  template <class S> FASTMLP_INLINE S slope(S, S a) {
    return select(a > splat<S>(0), splat<S>(scale), a + splat<S>(scale * alpha));
  }
};

struct Softplus {
  static constexpr const char* name = "softplus";
  static constexpr const char* formula = "log(1 + exp(z))";
  static constexpr bool slope_from_output = true;
  template <class S> FASTMLP_INLINE S value(S z) { return softplus(z); }
  template <class S> FASTMLP_INLINE S slope(S, S a) { return -expm1(-a); }
};

// Hendrycks, Gimpel 2016, arXiv:1606.08415; the exact form, Phi is the normal distribution function
struct Gelu {
  static constexpr const char* name = "gelu";
  static constexpr const char* formula = "z Phi(z)";
  static constexpr bool slope_from_output = false;
  template <class S> FASTMLP_INLINE S value(S z) { return z * normal_cdf(z); }
  template <class S> FASTMLP_INLINE S slope(S z, S) { return normal_cdf(z) + z * normal_pdf(z); }
};

// Elfwing, Uchibe, Doya 2017, arXiv:1702.03118
struct Silu {
  static constexpr const char* name = "silu";
  static constexpr const char* formula = "z / (1 + exp(-z))";
  static constexpr bool slope_from_output = false;
  template <class S> FASTMLP_INLINE S value(S z) { return z * logistic(z); }
  template <class S> FASTMLP_INLINE S slope(S z, S a) {
    const S s = logistic(z);
    return s + a * (splat<S>(1) - s);
  }
};

// Misra 2019, arXiv:1908.08681
struct Mish {
  static constexpr const char* name = "mish";
  static constexpr const char* formula = "z tanh(log(1 + exp(z)))";
  static constexpr bool slope_from_output = false;
  template <class S> FASTMLP_INLINE S value(S z) { return z * tanh(softplus(z)); }
  template <class S> FASTMLP_INLINE S slope(S z, S) {
    const S t = tanh(softplus(z));
    return t + z * (splat<S>(1) - t * t) * logistic(z);
  }
};

// Of outputs alone: a layer of exponentials upon another overflows at once.
struct NaturalExp {
  static constexpr const char* name = "exp";
  static constexpr const char* formula = "exp(z)";
  static constexpr bool slope_from_output = true;
  template <class S> FASTMLP_INLINE S value(S z) { return exp(z); }
  template <class S> FASTMLP_INLINE S slope(S, S a) { return a; }
};

template <class A, class = void> constexpr bool is_cheap = false;
template <class A> constexpr bool is_cheap<A, std::void_t<decltype(A::cheap)>> = A::cheap;
template <class A, class = void> constexpr bool has_cheap_slope = is_cheap<A>;
template <class A> constexpr bool has_cheap_slope<A, std::void_t<decltype(A::cheap_slope)>> = A::cheap_slope;

using HiddenActivations = Catalog<Identity, Logistic, Tanh, Relu, LeakyRelu, Elu, Selu, Softplus, Gelu, Silu, Mish>;
// All of them, those of hidden layers under the same numbers.
using Activations = decltype(HiddenActivations() + Catalog<NaturalExp>());

} // namespace fastmlp
