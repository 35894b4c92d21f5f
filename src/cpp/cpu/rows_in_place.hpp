// A first layer of few neurons on wide rows, which it reads where they lie: with so few sums for each number read, a
// panel of them would take longer to make than to use. Features are the SIMD dimension here. What the weight gradient
// reads are copies of the rows, one after the other: they cost next to nothing beside the products, and rows of users
// lie anywhere, with registers that begin in the middle of a line of the cache (NumPy's arrays begin 16 bytes behind
// one). Included into each kernel object, local to it.
#pragma once

#include "products.hpp"

namespace fastmlp {
namespace FASTMLP_ISA {
namespace {

template <class T> constexpr int rows_at_once = smaller(4, lane_count<T>);
template <class T> constexpr int row_stripe = 1280 / int(sizeof(T)); // features of a row that are read together

// Asks for a stripe of some rows, the features from `from` to `to`, in equal parts.
template <class T> struct RowsAhead {
  const T* const* rows;
  const int from, to, n_rows, a_part;
  int row = 0, at = from;

  RowsAhead(const T* const* rows, int from, int to, int n_rows, int n_parts)
      : rows(rows), from(from), to(to), n_rows(n_rows),
        a_part((n_rows * ((to - from + line<T> - 1) / line<T>)+n_parts - 1) / n_parts) {}

  __attribute__((always_inline)) void next_part() {
    for (int i = 0; i < a_part && row < n_rows; ++i) {
      __builtin_prefetch(rows[row] + at);
      at += line<T>;
      if (at < to) continue;
      at = from;
      ++row;
    }
  }
};

// sums[neuron][row] (+)= over the features from `from` to `to`, a register each, of m neurons and some rows x; with
// `copies` these go to `copy`, too.
template <int m, bool copies, class T>
FASTMLP_INLINE void multiply_rows(const T* const* x, int from, int to, const T* M, std::ptrdiff_t ldm, int n_in,
                                  T* copy, std::ptrdiff_t ld_copy, T* sums) {
  constexpr int W = lane_count<T>, n_rows = rows_at_once<T>;
  Vec<T> acc[m][n_rows];
  FASTMLP_UNROLL
  for (int j = 0; j < m; ++j) {
    FASTMLP_UNROLL
    for (int i = 0; i < n_rows; ++i) acc[j][i] = from > 0 ? load(sums + (j * W + i) * W) : splat<Vec<T>>(T(0));
  }
  const auto add = [&](int k, auto&& load_from) __attribute__((always_inline)) {
    Vec<T> v[n_rows];
    FASTMLP_UNROLL
    for (int i = 0; i < n_rows; ++i) v[i] = in_register(load_from(x[i] + k)); // else each use would load it
    if constexpr (copies) {
      FASTMLP_UNROLL
      for (int i = 0; i < n_rows; ++i) store(copy + i * ld_copy + k, v[i]);
    }
    FASTMLP_UNROLL
    for (int j = 0; j < m; ++j) {
      const Vec<T> w = load(M + j * ldm + k);
      FASTMLP_UNROLL
      for (int i = 0; i < n_rows; ++i) acc[j][i] += w * v[i];
    }
  };
  const int whole = smaller(to, n_in / W * W);
  for (int k = from; k < whole; k += W) add(k, [](const T* p) __attribute__((always_inline)) { return load(p); });
  if (whole < to) add(whole, [&](const T* p) { return load_first(p, n_in - whole); });
  FASTMLP_UNROLL
  for (int j = 0; j < m; ++j) {
    FASTMLP_UNROLL
    for (int i = 0; i < n_rows; ++i) store(sums + (j * W + i) * W, acc[j][i]);
  }
}

// Stripe by stripe, so that the weights and some rows stay in the level-1 cache together. The first neurons read the
// rows where they lie, and leave the copies that the others read.
template <class T>
void forward_of_rows(const DenseRows<T>& X, const PanelProduct<T>& p, T* copies, std::ptrdiff_t ld_copies, T* scratch) {
  constexpr int W = lane_count<T>, r = R<T>, n_rows = rows_at_once<T>, most = register_rows / 3;
  const RegisterTiles<most> neurons(p.n_out);
  const int registers = (p.n_in + W - 1) / W, n_stripes = (registers * W + row_stripe<T> - 1) / row_stripe<T>;
  const auto start = [&](int stripe) { return registers * stripe / n_stripes * W; };
  T *z = scratch, *sums = scratch + p.n_out * r;
  const T *x[r + W], *copied[r];
  locate(X, r, W, x, x + r);
  for (int i = 0; i < r; ++i) copied[i] = copies + i * ld_copies;
  for (int half = 0; half < r; half += W) {
    for (int i = 0; i < n_stripes; ++i) {
      const int from = start(i), to = start(i + 1), next = i + 1 < n_stripes ? i + 1 : 0;
      RowsAhead<T> ahead(x + half + (next ? 0 : W), start(next), start(next + 1), W, neurons.count * W / n_rows);
      neurons.for_each([&](int neuron, auto m) __attribute__((always_inline)) {
        for (int row = half; row < half + W; row += n_rows) {
          const T* const M = p.M + neuron * p.ldm;
          T* const to_sums = sums + (neuron * W + row - half) * W;
          ahead.next_part();
          if (neuron == 0)
            multiply_rows<m.value, true>(x + row, from, to, M, p.ldm, p.n_in, copies + row * ld_copies, ld_copies,
                                         to_sums);
          else
            multiply_rows<m.value, false, T>(copied + row, from, to, M, p.ldm, p.n_in, nullptr, 0, to_sums);
        }
      });
    }
    for (int neuron = 0; neuron < p.n_out; ++neuron) {
      Vec<T> of_rows[W];
      FASTMLP_UNROLL
      for (int i = 0; i < W; ++i) of_rows[i] = load(sums + (neuron * W + i) * W);
      store(z + neuron * r + half, sums_of_lanes<T>(of_rows) + splat<Vec<T>>(p.bias[neuron]));
    }
  }
  with_activation(p.activation, [&](auto activation) {
    const Activate<decltype(activation), T> finish(p, 0);
    for (int i = 0; i < p.n_out * r; i += W) finish(i, load(z + i));
  });
}

} // namespace
} // namespace FASTMLP_ISA
} // namespace fastmlp
