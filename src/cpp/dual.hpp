// Dual numbers: a number and its derivative along one direction, which every operation carries on (Clifford 1873; as
// forward-mode differentiation: Wengert 1964). They pass through the catalogues like any other S, so that the
// derivative of a gradient is exact and no activation or loss has to say its second derivative. A function that is new
// in vector_math.hpp needs a line here, or nothing compiles that uses it.
#pragma once

#include "vector_math.hpp"

namespace fastmlp {

template <class T> struct Dual {
  T value = 0, tangent = 0;

  Dual() = default;
  Dual(T value, T tangent = 0) : value(value), tangent(tangent) {} // a number is a constant

  friend Dual operator-(Dual a) { return {-a.value, -a.tangent}; }
  friend Dual operator+(Dual a, Dual b) { return {a.value + b.value, a.tangent + b.tangent}; }
  friend Dual operator-(Dual a, Dual b) { return {a.value - b.value, a.tangent - b.tangent}; }
  friend Dual operator*(Dual a, Dual b) { return {a.value * b.value, a.value * b.tangent + a.tangent * b.value}; }
  friend Dual operator/(Dual a, Dual b) {
    const T ratio = a.value / b.value;
    return {ratio, (a.tangent - ratio * b.tangent) / b.value};
  }
  Dual& operator+=(Dual b) { return *this = *this + b; }
  Dual& operator-=(Dual b) { return *this = *this - b; }
  Dual& operator*=(Dual b) { return *this = *this * b; }

  // Where functions change from one formula to another they do so by the value alone.
  friend bool operator<(Dual a, Dual b) { return a.value < b.value; }
  friend bool operator>(Dual a, Dual b) { return a.value > b.value; }
  friend bool operator<=(Dual a, Dual b) { return a.value <= b.value; }
  friend bool operator>=(Dual a, Dual b) { return a.value >= b.value; }
  friend bool operator==(Dual a, Dual b) { return a.value == b.value; }
};

template <class T> struct Shape<Dual<T>> {
  using scalar = T;
  using mask = bool;
};
template <class T> constexpr int lanes<Dual<T>> = 1;

// f(x) where f has this value and slope at x.
template <class T> FASTMLP_INLINE Dual<T> chain(T value, T slope, Dual<T> x) { return {value, slope * x.tangent}; }

template <class T> FASTMLP_INLINE Dual<T> absolute(Dual<T> x) { return x.value < 0 ? -x : x; }
template <class T> FASTMLP_INLINE Dual<T> square_root(Dual<T> x) {
  const T root = square_root(x.value);
  return chain(root, T(0.5) / root, x);
}
template <class T> FASTMLP_INLINE Dual<T> exp(Dual<T> x) {
  const T e = exp(x.value);
  return chain(e, e, x);
}
template <class T> FASTMLP_INLINE Dual<T> expm1(Dual<T> x) {
  const T e = expm1(x.value);
  return chain(e, e + 1, x);
}
template <class T> FASTMLP_INLINE Dual<T> log(Dual<T> x) { return chain(log(x.value), 1 / x.value, x); }
template <class T> FASTMLP_INLINE Dual<T> tanh(Dual<T> x) {
  const T t = tanh(x.value);
  return chain(t, 1 - t * t, x);
}
template <class T> FASTMLP_INLINE Dual<T> logistic(Dual<T> x) {
  const T s = logistic(x.value);
  return chain(s, s * (1 - s), x);
}
template <class T> FASTMLP_INLINE Dual<T> softplus(Dual<T> x) { return chain(softplus(x.value), logistic(x.value), x); }
template <class T> FASTMLP_INLINE Dual<T> normal_cdf(Dual<T> x) {
  return chain(normal_cdf(x.value), normal_pdf(x.value), x);
}
template <class T> FASTMLP_INLINE Dual<T> normal_pdf(Dual<T> x) {
  const T density = normal_pdf(x.value);
  return chain(density, -x.value * density, x);
}

} // namespace fastmlp
