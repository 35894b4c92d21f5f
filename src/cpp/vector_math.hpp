// Elementary functions for one number or a vector of numbers: exp, log, tanh and what activations and losses need.
//
// S is float, double, or a vector of them (`__attribute__((vector_size(N)))`, N = 16, 32 or 64). A function is written
// once for all S, without branches or tables, so that a lane of a vector and a single number get the same bits from
// the same object. Everything is inlined and internal: objects built for different instruction sets never share code.
// This room knows numbers and instruction sets. It knows nothing of networks, threads or memory, and never calls libm.
//
// Largest error in units in the last place of the result, with or without fused multiply-add, rounded up. Seen, not
// proved: on every fifth float above 3e-5 in size (fewer below), and on 8 to 50 million doubles a function.
//            exp   log   expm1   tanh   logistic   softplus   normal_cdf                normal_pdf
//   float    1.0   0.9    1.3    2.5      2.5        1.8         3.6                       2.0
//   double   1.0   1.0    1.5    2.6      2.4        1.7         2.8 (x > -2: 2.4)         2.1
//
// A result below the smallest normal number becomes 0. NaN gives NaN; infinities give the limits; log of a negative
// number is NaN. log counts a subnormal number as one near the smallest normal number.
//
// A compiler may fuse a * b + c or not. Here no sum has two inexact products as its terms, so there is only one way to
// fuse it, and single numbers and vectors round alike. Keep to that in new functions.
//
// Constants: tools/fit_vector_math.py derives every number with more than four digits.
#pragma once

#include "host_device.hpp"

#include <cstdint>
#include <limits>
#include <type_traits>
#include <utility>

#if !defined(__CUDACC__) && defined(__SSE2__)
#include <immintrin.h>
#elif !defined(__CUDACC__) && defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace fastmlp {

// ---- what S is made of ------------------------------------------------------------------------------------------

template <class S> struct Shape { // of a vector
  using scalar = std::remove_reference_t<decltype(std::declval<S&>()[0])>;
  using word = typename Shape<scalar>::bits;
  typedef word bits __attribute__((vector_size(sizeof(S))));
  using mask = decltype(S{} < S{});
};
template <> struct Shape<float> {
  using scalar = float;
  using bits = std::uint32_t;
  using mask = bool;
};
template <> struct Shape<double> {
  using scalar = double;
  using bits = std::uint64_t;
  using mask = bool;
};

template <class S> using scalar_of = typename Shape<S>::scalar; // float or double
template <class S> using mask_of = typename Shape<S>::mask;     // what a < b gives: bool, or all bits of a lane
template <class S> using bits_of = typename Shape<S>::bits;     // unsigned integers of the same size
template <class S> constexpr int lanes = sizeof(S) / sizeof(scalar_of<S>);
template <class S> using word_of = bits_of<scalar_of<S>>; // one lane of bits_of<S>
template <class S> constexpr word_of<S> sign_bit = word_of<S>(1) << (8 * sizeof(scalar_of<S>) - 1);

// ---- tools ------------------------------------------------------------------------------------------------------

template <class S> FASTMLP_INLINE S splat(scalar_of<S> value) {
  if constexpr (lanes<S> == 1)
    return value;
  else
    return value - S{}; // minus 0 leaves -0 as it is, plus 0 would not
}

// a where the condition holds, else b
template <class S> FASTMLP_INLINE S select(mask_of<S> condition, S a, S b) { return condition ? a : b; }

// Both return b if a or b is NaN: put the number that may be NaN, and must not be hidden, second.
template <class S> FASTMLP_INLINE S maximum(S a, S b) { return select(a > b, a, b); }
template <class S> FASTMLP_INLINE S minimum(S a, S b) { return select(a < b, a, b); }

template <class To, class From> FASTMLP_INLINE To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "bit_cast: the sizes differ");
  To to;
  __builtin_memcpy(&to, &from, sizeof(To));
  return to;
}
template <class S> FASTMLP_INLINE bits_of<S> to_bits(S x) { return bit_cast<bits_of<S>>(x); }
template <class S> FASTMLP_INLINE S from_bits(bits_of<S> bits) { return bit_cast<S>(bits); }

template <class S> FASTMLP_INLINE S absolute(S x) { return from_bits<S>(to_bits(x) & ~sign_bit<S>); }

// the size of one with the sign of the other
template <class S> FASTMLP_INLINE S copysign(S size, S signed_as) {
  return from_bits<S>((to_bits(size) & ~sign_bit<S>) | (to_bits(signed_as) & sign_bit<S>));
}

// One rounding where the instruction set has a fused multiply-add and the optimizer is on, else two.
template <class S> FASTMLP_INLINE S multiply_add(S a, S b, S c) { return a * b + c; }

// c0 + c1 x + c2 x^2 + ... by Horner's rule
template <class S> FASTMLP_INLINE S polynomial(S, scalar_of<S> c0) { return splat<S>(c0); }
template <class S, class... Rest> FASTMLP_INLINE S polynomial(S x, scalar_of<S> c0, Rest... rest) {
  return multiply_add(polynomial(x, rest...), x, splat<S>(c0));
}

// ---- square root ------------------------------------------------------------------------------------------------

#ifdef __CUDA_ARCH__
FASTMLP_INLINE float hardware_root(float x) { return ::sqrtf(x); }
FASTMLP_INLINE double hardware_root(double x) { return ::sqrt(x); }
#else
FASTMLP_INLINE float hardware_root(float x) { return __builtin_sqrtf(x); }
FASTMLP_INLINE double hardware_root(double x) { return __builtin_sqrt(x); }
#endif

#if defined(__CUDACC__)
constexpr int register_bytes = 0;
#elif defined(__SSE2__)
FASTMLP_INLINE __m128 hardware_root(__m128 x) { return _mm_sqrt_ps(x); }
FASTMLP_INLINE __m128d hardware_root(__m128d x) { return _mm_sqrt_pd(x); }
#if defined(__AVX__)
FASTMLP_INLINE __m256 hardware_root(__m256 x) { return _mm256_sqrt_ps(x); }
FASTMLP_INLINE __m256d hardware_root(__m256d x) { return _mm256_sqrt_pd(x); }
#endif
#if defined(__AVX512F__)
FASTMLP_INLINE __m512 hardware_root(__m512 x) { return _mm512_maskz_sqrt_ps(0xffff, x); }
FASTMLP_INLINE __m512d hardware_root(__m512d x) { return _mm512_maskz_sqrt_pd(0xff, x); }
constexpr int register_bytes = 64;
#elif defined(__AVX__)
constexpr int register_bytes = 32;
#else
constexpr int register_bytes = 16;
#endif
#elif defined(__aarch64__)
FASTMLP_INLINE float32x4_t hardware_root(float32x4_t x) { return vsqrtq_f32(x); }
FASTMLP_INLINE float64x2_t hardware_root(float64x2_t x) { return vsqrtq_f64(x); }
constexpr int register_bytes = 16;
#else
constexpr int register_bytes = 0;
#endif

// A vector wider than the registers goes lane by lane.
template <class S> FASTMLP_INLINE S square_root(S x) {
  if constexpr (lanes<S> == 1 || sizeof(S) <= register_bytes) {
    return hardware_root(x);
  } else {
    S root = x;
    for (int i = 0; i < lanes<S>; ++i) root[i] = hardware_root(scalar_of<S>(x[i]));
    return root;
  }
}

// ---- numbers ----------------------------------------------------------------------------------------------------

template <class T> struct Limits {
  static constexpr T infinity = std::numeric_limits<T>::infinity(), nan = std::numeric_limits<T>::quiet_NaN();
};

template <class T> struct Numbers;
template <> struct Numbers<float> : Limits<float> {
  static constexpr int fraction_bits = 23;
  static constexpr float integer_shift = 12582912.0f; // 3 * 2^22: adding it rounds to an integer, kept in the low bits
  static constexpr float grid_shift = 49152.0f;       // 3 * 2^14: adding it rounds to a multiple of 2^-8
  static constexpr float flat = 20;                   // expm1 is -1, and tanh of half of it 1, to the last bit
  static constexpr float log2_e = 1.442695f, ln2_high = 0.69314575f, ln2_low = 1.4286068e-6f;
  static constexpr float sqrt_half = 0.70710677f;
  // the arguments between which results are normal numbers
  static constexpr float exp_low = -87.33654f, exp_high = 88.72283f, cdf_end = 12.949952f, pdf_end = 13.14668f;
  static constexpr float tail_centre = 3.375f, tail_middle = 0.7410803f;
};
template <> struct Numbers<double> : Limits<double> {
  static constexpr int fraction_bits = 52;
  static constexpr double integer_shift = 6755399441055744.0; // 3 * 2^51
  static constexpr double grid_shift = 6442450944.0;          // 3 * 2^31: a multiple of 2^-20
  static constexpr double flat = 40;
  static constexpr double log2_e = 1.4426950408889634, ln2_high = 0.6931471805598903, ln2_low = 5.497923018708371e-14;
  static constexpr double sqrt_half = 0.7071067811865476;
  static constexpr double exp_low = -708.3964185322641, exp_high = 709.782712893384;
  static constexpr double cdf_end = 37.51937934714449, pdf_end = 37.61588706913767;
  static constexpr double tail_centre = 3.375, tail_middle = 0.7410802807756973;
};
template <class S> using numbers_of = Numbers<scalar_of<S>>;
template <class S> constexpr bool is_float = std::is_same_v<scalar_of<S>, float>;

// (exp(r) - 1 - r) / r^2 for |r| < 0.35
template <class S> FASTMLP_INLINE S exp_rest(S r) {
  if constexpr (is_float<S>)
    return polynomial(r, 0.5f, 0.16666666f, 0.041666478f, 0.0083335675f, 0.0013933708f, 0.00019742562f);
  else
    return polynomial(r, 0.5, 0.16666666666666677, 0.0416666666666666, 0.008333333333321443, 0.0013888888888928337,
                      0.00019841269886570426, 0.000024801587227621047, 2.7557243776384498e-6, 2.755736178023577e-7,
                      2.5109185938735996e-8, 2.0886684693563505e-9);
}

// (log(1 + f) - f) / f^2 for 1 + f between sqrt(1/2) and sqrt(2)
template <class S> FASTMLP_INLINE S log_rest(S f) {
  if constexpr (is_float<S>)
    return polynomial(f, -0.49999988f, 0.33333337f, -0.250016f, 0.20001237f, -0.16608179f, 0.14195393f, -0.1326361f,
                      0.12827516f, -0.07479352f);
  else
    return polynomial(f, -0.5, 0.33333333333333476, -0.24999999999998812, 0.1999999999994127, -0.16666666666944266,
                      0.14285714294225016, -0.12499999979010433, 0.11111110499129255, -0.10000000537045223,
                      0.09090934026606945, -0.08333341275641372, 0.07691702112174933, -0.0714207704964141,
                      0.06675362912316894, -0.0626905488627478, 0.05815360775318826, -0.053301435211093,
                      0.054312815558982624, -0.06274701736862416, 0.056560433872072685, -0.023926919109516782);
}

// The scaled tail (a + c) exp(a^2 / 2) Phi(-a), c = tail_centre, is tail_middle + t tail_slope(t) with
// t = (a - c) / (a + c), for a from 0 to cdf_end.
template <class S> FASTMLP_INLINE S tail_slope(S t) {
  if constexpr (is_float<S>)
    return polynomial(t, -0.5529922f, 0.29537582f, -0.098384276f, 0.008719985f, 0.007824393f, -0.002253895f,
                      -0.0008491107f, 0.00031307118f, 0.00013568673f, -8.057556e-7f);
  else
    return polynomial(t, -0.5529922235932244, 0.29537579838195877, -0.0983840664762089, 0.008721598368457737,
                      0.007821960718963551, -0.0022673860179115274, -0.0008436456881459611, 0.0003557610797436469,
                      0.000145728275846324, -0.000049400920613382966, -0.00003284011330724005, 4.000533401527328e-6,
                      7.46243206224225e-6, 9.632740413223781e-7, -1.3723255064034898e-6, -6.37972331930843e-7,
                      1.1202808750732868e-7, 1.9387782901227713e-7, 4.189292722676696e-8, -3.2208405584906855e-8,
                      -2.0225050111647122e-8, 2.340312483750344e-10, 3.2754574060366166e-9, 7.960030703869992e-10);
}

// ---- exp and its kin --------------------------------------------------------------------------------------------

// x = n ln 2 + r with |r| < 0.35; n is the low bits of `shifted`
template <class S> struct Reduced {
  S r, shifted;
};

template <class S> FASTMLP_INLINE Reduced<S> reduce(S x) {
  using N = numbers_of<S>;
  const S shifted = multiply_add(x, splat<S>(N::log2_e), splat<S>(N::integer_shift));
  const S n = shifted - splat<S>(N::integer_shift);
  const S coarse = multiply_add(n, splat<S>(-N::ln2_high), x); // exact: ln2_high has zeros at the end
  return {multiply_add(n, splat<S>(-N::ln2_low), coarse), shifted};
}

template <class S> FASTMLP_INLINE S expm1_near_0(S r) { return multiply_add(r * r, exp_rest(r), r); }

// 2^n y, by adding n to the exponent; valid if y and the result are normal numbers
template <class S> FASTMLP_INLINE S scale(S y, S shifted) {
  return from_bits<S>(to_bits(y) + (to_bits(shifted) << numbers_of<S>::fraction_bits));
}

template <class S> FASTMLP_INLINE S exp(S x) {
  using N = numbers_of<S>;
  const Reduced<S> e = reduce(x);
  const S y = scale(splat<S>(1) + expm1_near_0(e.r), e.shifted);
  // adding infinity keeps NaN, whose bits `scale` may have spoiled
  return select(x <= splat<S>(N::exp_high), select(x >= splat<S>(N::exp_low), y, splat<S>(0)),
                x + splat<S>(N::infinity));
}

// (exp(x) - 1) / 2 for -flat <= x <= exp_high, or NaN. Half, so that 2^(n-1) does not overflow before the result does.
template <class S> FASTMLP_INLINE S half_expm1(S x) {
  const Reduced<S> e = reduce(x);
  const S power = scale(splat<S>(0.5), e.shifted);
  const S linear = multiply_add(power, e.r, power - splat<S>(0.5));
  return multiply_add(power * (e.r * e.r), exp_rest(e.r), linear);
}

template <class S> FASTMLP_INLINE S expm1(S x) {
  using N = numbers_of<S>;
  const S half = half_expm1(maximum(splat<S>(-N::flat), x));
  const S y = select(x > splat<S>(N::exp_high), splat<S>(N::infinity), half + half);
  return copysign(y, x); // for -0
}

// With h = (exp(2a) - 1) / 2 it is h / (h + 1): accurate near 0, where 1 - 2 / (exp(2a) + 1) cancels.
template <class S> FASTMLP_INLINE S tanh(S x) {
  const S a = absolute(x);
  const S h = half_expm1(minimum(splat<S>(numbers_of<S>::flat), a + a));
  return copysign(h / (h + splat<S>(1)), x);
}

// exp(-x) is large where the result is small, so 1 + exp(-x) loses nothing in either tail.
template <class S> FASTMLP_INLINE S logistic(S x) { return splat<S>(1) / (splat<S>(1) + exp(-x)); }

// ---- log and its kin --------------------------------------------------------------------------------------------

// k ln 2 + log(1 + f), k an integer and f in the range of log_rest
template <class S> FASTMLP_INLINE S sum_log(S k, S f) {
  using N = numbers_of<S>;
  const S ln2_high = splat<S>(N::ln2_high); // k ln2_high is exact
  const S high = multiply_add(k, ln2_high, f);
  const S lost = multiply_add(k, ln2_high, -high) + f;
  const S low = multiply_add(k, splat<S>(N::ln2_low), lost);
  return high + multiply_add(f * f, log_rest(f), low);
}

template <class S> FASTMLP_INLINE S log(S x) {
  using T = scalar_of<S>;
  using N = numbers_of<S>;
  using W = word_of<S>;
  constexpr W fraction = (W(1) << N::fraction_bits) - 1;
  constexpr T bias = std::numeric_limits<T>::max_exponent - 1, integers = T(W(1) << N::fraction_bits);
  const W from = to_bits(N::sqrt_half);
  // x = 2^k (1 + f): the exponent of x / sqrt_half, as a number without a conversion, which AVX2 lacks for double
  const bits_of<S> bits = to_bits(x) + (to_bits(T(1)) - from);
  const S k = from_bits<S>((bits >> N::fraction_bits) | to_bits(integers)) - splat<S>(integers + bias);
  const S f = from_bits<S>((bits & fraction) + from) - splat<S>(1);

  const S infinity = splat<S>(N::infinity), nan = splat<S>(N::nan);
  const S finite = select(x < infinity, sum_log(k, f), x);
  return select(x > splat<S>(0), finite, select(x == splat<S>(0), -infinity, nan));
}

// log(1 + exp(x)) = max(x, 0) + log(1 + u) with u = exp(-|x|), and log(1 + u) = log 2 + log((1 + u) / 2) for larger u
template <class S> FASTMLP_INLINE S softplus(S x) {
  const S one = splat<S>(1), zero = splat<S>(0), u = exp(-absolute(x));
  const auto larger = u > splat<S>(scalar_of<S>(0.414));
  const S k = select(larger, one, zero);
  const S f = select(larger, splat<S>(0.5) * (u - one), u);
  return maximum(zero, x) + sum_log(k, f);
}

// ---- the normal distribution ------------------------------------------------------------------------------------

// |x| = a = g + d with g on a grid, so that g^2 is exact and exp(-g^2 / 2) accurate in the far tail.
template <class S> struct NormalParts {
  S a, g, d;
  S expm1_r, shifted; // exp(-g^2 / 2) = 2^n (1 + expm1_r), n in `shifted` as above
};

template <class S> FASTMLP_INLINE NormalParts<S> normal_parts(S x) {
  const S a = absolute(x), shift = splat<S>(numbers_of<S>::grid_shift);
  const S g = (a + shift) - shift;
  const Reduced<S> e = reduce(splat<S>(-0.5) * g * g);
  return {a, g, a - g, expm1_near_0(e.r), e.shifted};
}

// 2^n y with the n of p, or 0 for a > end
template <class S> FASTMLP_INLINE S scale_until(scalar_of<S> end, S y, const NormalParts<S>& p) {
  y = scale(y, p.shifted);
  return select(p.a <= splat<S>(end), y, maximum(splat<S>(0), splat<S>(end) - p.a)); // the second is 0 or NaN
}

// above - quotient * below, with the quotient cut in two so that the products are exact for double, where `below` has
// at most 26 bits.
template <class S> FASTMLP_INLINE S remainder(S above, S below, S quotient) {
  constexpr word_of<S> low_half = (word_of<S>(1) << (numbers_of<S>::fraction_bits + 1) / 2) - 1;
  const S coarse = from_bits<S>(to_bits(quotient) & ~low_half);
  return multiply_add(coarse - quotient, below, multiply_add(-coarse, below, above));
}

// Phi(x), the part of the standard normal distribution below x. From g to a the tail loses the integral of the density,
// d times a series in g d. For double, what three of the roundings lost is added at the end.
template <class S> FASTMLP_INLINE S normal_cdf(S x) {
  using T = scalar_of<S>;
  using N = numbers_of<S>;
  const NormalParts<S> p = normal_parts(x);
  const S centre = splat<S>(N::tail_centre), below = p.g + centre, t = (p.g - centre) / below;
  const S middle = splat<S>(N::tail_middle), slope = tail_slope(t);
  const S above = multiply_add(t, slope, middle), at_g = above / below;
  const S density = polynomial(p.g * p.d, T(0.3989422804014327), T(-0.19947114020071635), T(0.06649038006690544),
                               T(-0.01662259501672636));
  const S at_a = multiply_add(-p.d, density, at_g);
  S low = splat<S>(0);
  if constexpr (!is_float<S>) {
    const S rest = remainder(above, below, at_g) + multiply_add(t, slope, middle - above);
    const S half = splat<S>(1 / (2 * N::tail_centre)), inverse = multiply_add(-t, half, half); // 1 / below
    low = multiply_add(rest, inverse, multiply_add(-p.d, density, at_g - at_a));
  }
  const S tail = scale_until(N::cdf_end, at_a + multiply_add(at_a, p.expm1_r, low), p);
  return select(x > splat<S>(0), splat<S>(1) - tail, tail);
}

// exp(-x^2 / 2) / sqrt(2 pi)
template <class S> FASTMLP_INLINE S normal_pdf(S x) {
  using T = scalar_of<S>;
  const NormalParts<S> p = normal_parts(x);
  const S v = multiply_add(p.d, splat<S>(-0.5), -p.g) * p.d; // -a^2 / 2 + g^2 / 2
  const S factor = polynomial(v, T(0.3989422804014327), T(0.3989422804014327), T(0.19947114020071635),
                              T(0.06649038006690544), T(0.01662259501672636));
  return scale_until(numbers_of<S>::pdf_end, multiply_add(factor, p.expm1_r, factor), p);
}

} // namespace fastmlp
