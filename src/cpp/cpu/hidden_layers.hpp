// Hidden layers that do more than their activation: normalisation, dropout and skips, panel by panel between products.
// Included into each kernel object, local to it.
#pragma once

#include "../activations.hpp"
#include "kernels.hpp"
#include "simd.hpp"

namespace fastmlp {
namespace FASTMLP_ISA {
namespace {

// As many 32-bit words as a register has lanes.
template <class T> struct WordLanes;
template <> struct WordLanes<float> {
  typedef std::uint32_t type __attribute__((vector_size(FASTMLP_VECTOR_BYTES)));
};
template <> struct WordLanes<double> {
  typedef std::uint32_t type __attribute__((vector_size(FASTMLP_VECTOR_BYTES / 2)));
};

// Whether the units of one register of rows stay: random words by row and unit, compared with the threshold.
template <class T> struct Kept {
  using Words = typename WordLanes<T>::type;

  Kept(const Dropout<T>& dropout, int half) : dropout(dropout) {
    for (int i = 0; i < lane_count<T>; ++i)
      rows[i] = dropout.first_row + std::uint32_t(half * lane_count<T> + i) + dropout.key.low;
    rows = scatter(rows);
  }
  __attribute__((always_inline)) Vec<T> operator()(Vec<T> value, int unit) const {
    if (dropout.threshold == 0) return value;
    const Words drawn = scatter(rows ^ (Words{} + (std::uint32_t(unit) * 0x9e3779b9u + dropout.key.high)));
    const auto stays = __builtin_convertvector(drawn >= Words{} + dropout.threshold, mask_of<Vec<T>>);
    return select(stays, value * splat<Vec<T>>(dropout.scale), splat<Vec<T>>(T(0)));
  }

  const Dropout<T>& dropout;
  Words rows;
};

template <class T> void drop(const Dropout<T>& dropout, int n, T* panel) {
  constexpr int W = lane_count<T>, r = R<T>;
  for (int half = 0; half < 2; ++half) {
    const Kept<T> kept(dropout, half);
    for (int j = 0; j < n; ++j) {
      T* x = panel + std::ptrdiff_t(j) * r + half * W;
      store(x, kept(load(x), j));
    }
  }
}

// Sums over the units j of f(j), in four chains so that no sum waits for itself.
template <class S, class F> FASTMLP_INLINE S sum_over_units(int n, F&& f) {
  constexpr int chains = 4;
  S sums[chains];
  FASTMLP_UNROLL
  for (int c = 0; c < chains; ++c) sums[c] = splat<S>(0);
  int j = 0;
  for (; j + chains <= n; j += chains) {
    FASTMLP_UNROLL
    for (int c = 0; c < chains; ++c) sums[c] += f(j + c);
  }
  for (; j < n; ++j) sums[0] += f(j);
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

// Mean and inverse deviation over the units j of unit(j), for one row or a register of rows: the same bits.
template <class S, class F> FASTMLP_INLINE void row_statistics(int units, bool centred, F&& unit, S& mean, S& inverse) {
  const S n = splat<S>(scalar_of<S>(units)), epsilon = splat<S>(scalar_of<S>(normalization_epsilon));
  mean = centred ? sum_over_units<S>(units, unit) / n : splat<S>(0);
  const S squares = sum_over_units<S>(units, [&](int j) {
    const S distance = unit(j) - mean;
    return rounded(distance * distance);
  });
  inverse = splat<S>(1) / square_root(squares / n + epsilon);
}

// The normalisation of one register of rows: which numbers belong to unit j.
template <class T> struct Normalized {
  static constexpr int W = lane_count<T>, r = R<T>;

  Normalized(const HiddenPanel<T>& panel, int half) : panel(panel), z(panel.z + half * W) {
    if (panel.statistics != Statistics::of_rows) return;
    mean = load(panel.mean + half * W);
    inverse = load(panel.inverse + half * W);
  }
  __attribute__((always_inline)) Vec<T> standard(int j) const { // before scale and offset
    const Vec<T> x = load(z + std::ptrdiff_t(j) * r);
    if (panel.statistics == Statistics::none) return x;
    if (panel.statistics == Statistics::of_rows) return (x - mean) * inverse;
    return (x - splat<Vec<T>>(panel.mean[j])) * splat<Vec<T>>(panel.inverse[j]);
  }
  __attribute__((always_inline)) Vec<T> scaled(int j, Vec<T> standard) const {
    if (panel.statistics == Statistics::none) return standard;
    const Vec<T> scale = splat<Vec<T>>(panel.scale[j]), offset = splat<Vec<T>>(panel.offset ? panel.offset[j] : T(0));
    return standard * scale + offset; // nothing in between: a compiler fuses them everywhere or nowhere
  }

  const HiddenPanel<T>& panel;
  const T* z;
  Vec<T> mean, inverse;
};

template <class T> FASTMLP_INLINE void row_statistics(const HiddenPanel<T>& panel) {
  constexpr int W = lane_count<T>, r = R<T>;
  for (int half = 0; half < 2; ++half) {
    const T* z = panel.z + half * W;
    Vec<T> mean, inverse;
    row_statistics(panel.n, panel.centred, [&](int j) { return load(z + std::ptrdiff_t(j) * r); }, mean, inverse);
    store(panel.mean + half * W, mean);
    store(panel.inverse + half * W, inverse);
  }
}

template <class T> void activate(const HiddenPanel<T>& panel, T* a) {
  constexpr int W = lane_count<T>, r = R<T>;
  if (panel.statistics == Statistics::of_rows) row_statistics(panel);
  Activations::visit(panel.activation, [&](auto activation) {
    for (int half = 0; half < 2; ++half) {
      const Normalized<T> normalized(panel, half);
      const Kept<T> kept(panel.dropout, half);
      for (int j = 0; j < panel.n; ++j)
        store(a + std::ptrdiff_t(j) * r + half * W,
              kept(activation.value(normalized.scaled(j, normalized.standard(j))), j));
    }
  });
}

// The same bits for a row alone: units are side by side, so that they fill registers.
template <class T> void activate_row(const HiddenRow<T>& row, const T* z, T* a) {
  constexpr int W = lane_count<T>;
  T row_mean, row_inverse;
  const bool of_rows = row.statistics == Statistics::of_rows;
  if (of_rows) row_statistics(row.n, row.centred, [&](int j) { return z[j]; }, row_mean, row_inverse);
  Activations::visit(row.activation, [&](auto activation) {
    for (int j = 0; j < row.n; j += W) {
      const int n = row.n - j;
      Vec<T> x = load(z + j);
      if (row.statistics != Statistics::none) {
        const Vec<T> mean = of_rows ? splat<Vec<T>>(row_mean) : load_first(row.mean + j, n);
        const Vec<T> inverse = of_rows ? splat<Vec<T>>(row_inverse) : load_first(row.inverse + j, n);
        const Vec<T> offset = row.offset ? load_first(row.offset + j, n) : splat<Vec<T>>(T(0));
        const Vec<T> scale = load_first(row.scale + j, n), standard = (x - mean) * inverse;
        x = standard * scale + offset;
      }
      store(a + j, activation.value(x));
    }
  });
}

template <class T> void differentiate(const HiddenPanel<T>& panel, const T* g, T* a, T* gradients, const T* addend) {
  constexpr int W = lane_count<T>, r = R<T>;
  const bool learns = panel.statistics != Statistics::none, of_rows = panel.statistics == Statistics::of_rows;
  const Vec<T> unscale = splat<Vec<T>>(T(1) / panel.dropout.scale), n = splat<Vec<T>>(T(panel.n));
  for (int half = 0; half < 2; ++half) {
    const Normalized<T> normalized(panel, half);
    const Kept<T> kept(panel.dropout, half);
    Vec<T> sum = splat<Vec<T>>(T(0)), product = sum; // of deltas, and of deltas times the normalised z
    Activations::visit(panel.activation, [&](auto activation) {
      for (int j = 0; j < panel.n; ++j) {
        const std::ptrdiff_t at = std::ptrdiff_t(j) * r + half * W;
        const Vec<T> standard = normalized.standard(j),
                     value = load(a + at) * unscale; // 0 if left out, as is the delta
        Vec<T> delta = kept(load(g + at), j) *
                       activation.slope(activation.slope_from_output ? value : normalized.scaled(j, standard), value);
        if (learns) {
          const Vec<T> with_z = delta * standard;
          gradients[j] = (half ? gradients[j] : T(0)) + sum_of_lanes<T>(with_z);
          gradients[panel.n + j] = (half ? gradients[panel.n + j] : T(0)) + sum_of_lanes<T>(delta);
          delta *= splat<Vec<T>>(panel.scale[j]);
          sum += delta;
          product += delta * standard;
        }
        if (!learns && addend) delta += load(addend + at);
        store(a + at, delta);
      }
    });
    if (!of_rows) continue;
    const Vec<T> mean = panel.centred ? sum / n : splat<Vec<T>>(T(0)), along = product / n;
    for (int j = 0; j < panel.n; ++j) {
      const std::ptrdiff_t at = std::ptrdiff_t(j) * r + half * W;
      Vec<T> delta = ((load(a + at) - mean) - normalized.standard(j) * along) * normalized.inverse;
      if (addend) delta += load(addend + at);
      store(a + at, delta);
    }
  }
}

template <class T> void moments(const T* z, const T* weights, int n, T* moments) {
  constexpr int W = lane_count<T>, r = R<T>;
  const Vec<T> w0 = load(weights), w1 = load(weights + W);
  const T weight = sum_of_lanes<T>(w0) + sum_of_lanes<T>(w1);
  const T share = weight != 0 ? 1 / weight : T(0);
  for (int j = 0; j < n; ++j, z += r) {
    const Vec<T> x0 = load(z), x1 = load(z + W);
    const T mean = (sum_of_lanes<T>(w0 * x0) + sum_of_lanes<T>(w1 * x1)) * share;
    const Vec<T> d0 = x0 - splat<Vec<T>>(mean), d1 = x1 - splat<Vec<T>>(mean);
    moments[j] = mean;
    moments[n + j] = sum_of_lanes<T>(w0 * d0 * d0) + sum_of_lanes<T>(w1 * d1 * d1);
  }
}

template <class T>
void centre(const HiddenPanel<T>& panel, const T* shares, const T* a, const T* b, T* delta, const T* addend) {
  constexpr int W = lane_count<T>, r = R<T>;
  for (int half = 0; half < 2; ++half) {
    const Normalized<T> normalized(panel, half);
    const Vec<T> share = load(shares + half * W);
    for (int j = 0; j < panel.n; ++j) {
      const std::ptrdiff_t at = std::ptrdiff_t(j) * r + half * W;
      const Vec<T> mean = splat<Vec<T>>(a[j]) + normalized.standard(j) * splat<Vec<T>>(b[j]);
      Vec<T> d = (load(delta + at) - share * mean) * splat<Vec<T>>(panel.inverse[j]);
      if (addend) d += load(addend + at);
      store(delta + at, d);
    }
  }
}

} // namespace
} // namespace FASTMLP_ISA
} // namespace fastmlp
