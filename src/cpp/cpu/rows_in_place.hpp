// A first layer of few neurons on wide rows, which it reads where they lie: with so few sums for each number read, a
// panel of them would take longer to make than to use. Features are the SIMD dimension here. Included into each kernel
// object, local to it.
#pragma once

#include "weight_gradients.hpp"

namespace fastmlp {
namespace FASTMLP_ISA {
namespace {

template <class T> constexpr int rows_at_once = smaller(4, lane_count<T>);

template <class T> FASTMLP_INLINE const T* row_of(const DenseRows<T>& X, int i) {
  return X.data + row_number(X.rows, X.first, i) * X.ld;
}

// sums[neuron][row], a register each, of m neurons and some rows x. `n_next` rows in `next` are asked for meanwhile.
template <int m, class T>
FASTMLP_INLINE void multiply_rows(const T* const* x, const T* const* next, int n_next, const T* M, std::ptrdiff_t ldm,
                                  int n_in, T* sums) {
  constexpr int W = lane_count<T>;
  Vec<T> acc[m][rows_at_once<T>];
  FASTMLP_UNROLL
  for (int j = 0; j < m; ++j) {
    FASTMLP_UNROLL
    for (int i = 0; i < rows_at_once<T>; ++i) acc[j][i] = splat<Vec<T>>(T(0));
  }
  const auto add = [&](int k, auto&& load_from) __attribute__((always_inline)) {
    Vec<T> v[rows_at_once<T>];
    FASTMLP_UNROLL
    for (int i = 0; i < rows_at_once<T>; ++i) v[i] = load_from(x[i] + k);
    FASTMLP_UNROLL
    for (int j = 0; j < m; ++j) {
      const Vec<T> w = load(M + j * ldm + k);
      FASTMLP_UNROLL
      for (int i = 0; i < rows_at_once<T>; ++i) acc[j][i] += w * v[i];
    }
  };
  const int whole = n_in / W * W;
  for (int k = 0; k < whole; k += W) {
    for (int i = 0; i < n_next; ++i) __builtin_prefetch(next[i] + k);
    add(k, [](const T* p) __attribute__((always_inline)) { return load(p); });
  }
  if (whole < n_in) add(whole, [&](const T* p) { return load_first(p, n_in - whole); });
  FASTMLP_UNROLL
  for (int j = 0; j < m; ++j) {
    FASTMLP_UNROLL
    for (int i = 0; i < rows_at_once<T>; ++i) store(sums + (j * W + i) * W, acc[j][i]);
  }
}

// Some rows x to lie one after the other, `ld` apart, where their registers begin at whole ones; x becomes where they
// are.
template <class T> FASTMLP_INLINE void copy_rows(const T** x, int n_in, T* to, std::ptrdiff_t ld) {
  constexpr int W = lane_count<T>;
  for (int i = 0; i < rows_at_once<T>; ++i, to += ld) {
    for (int k = 0; k < n_in; k += W) store(to + k, k + W <= n_in ? load(x[i] + k) : load_first(x[i] + k, n_in - k));
    x[i] = to;
  }
}

template <class T>
void forward_of_rows(const DenseRows<T>& X, const PanelProduct<T>& p, T* copies, std::ptrdiff_t ld_copies, T* scratch) {
  constexpr int W = lane_count<T>, r = R<T>, most = register_rows / 3;
  const RegisterTiles<most> neurons(p.n_out);
  T *z = scratch, *sums = scratch + p.n_out * r;
  const T* x[r + rows_at_once<T>];
  for (int i = 0; i < r + rows_at_once<T>; ++i) { // missing rows repeat the last one
    const int last = i < r ? X.n - 1 : X.n + X.n_next - 1;
    x[i] = row_of(X, smaller(i, last));
  }
  for (int half = 0; half < r; half += W) {
    for (int i = 0; i < W; i += rows_at_once<T>) {
      const T** const here = x + half + i;
      if (copies) copy_rows(here, p.n_in, copies + (half + i) * ld_copies, ld_copies);
      neurons.for_each([&](int neuron, auto m) __attribute__((always_inline)) {
        const int asked = rows_at_once<T> * neuron / p.n_out, end = rows_at_once<T> * (neuron + m.value) / p.n_out;
        multiply_rows<m.value>(here, here + rows_at_once<T> + asked, end - asked, p.M + neuron * p.ldm, p.ldm, p.n_in,
                               sums + (neuron * W + i) * W);
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

// As `weight_gradient_tile`; `rest` numbers of the last register are there, the others are 0.
template <int halves, int m, class T>
FASTMLP_INLINE void rows_gradient_tile(const T* delta, std::ptrdiff_t delta_stride, const DenseRows<T>& X, int rest,
                                       bool adds, TileAhead<T>& ahead, T* G) {
  constexpr int W = lane_count<T>, r = R<T>, distance = 8;
  Vec<T> acc[m][halves];
  FASTMLP_UNROLL
  for (int i = 0; i < m; ++i) {
    FASTMLP_UNROLL
    for (int h = 0; h < halves; ++h) acc[i][h] = splat<Vec<T>>(T(0));
  }
  for (int row = 0; row < X.n; row += r, delta += delta_stride) {
    const int depth = smaller(r, X.n - row);
    if (ahead.tile) ahead.next_part();
    for (int d = 0; d < depth; ++d) {
      const T *x = row_of(X, row + d), *later = row_of(X, smaller(row + d + distance, X.n - 1));
      Vec<T> v[halves];
      FASTMLP_UNROLL
      for (int h = 0; h < halves; ++h) {
        __builtin_prefetch(later + h * W);
        v[h] = h + 1 < halves ? load(x + h * W) : load_first(x + h * W, rest);
      }
      FASTMLP_UNROLL
      for (int i = 0; i < m; ++i) {
        const Vec<T> w = splat<Vec<T>>(delta[i * r + d]);
        FASTMLP_UNROLL
        for (int h = 0; h < halves; ++h) acc[i][h] += w * v[h];
      }
    }
  }
  FASTMLP_UNROLL
  for (int i = 0; i < m; ++i) {
    FASTMLP_UNROLL
    for (int h = 0; h < halves; ++h) {
      T* const g = G + i * r + h * W;
      store(g, adds ? load(g) + acc[i][h] : acc[i][h]);
    }
  }
}

template <int halves, class T>
FASTMLP_INLINE void rows_gradient_of(const T* delta, std::ptrdiff_t delta_stride, const DenseRows<T>& X, int n,
                                     int n_columns, bool adds, const UpdateTile<T>* next, T* G) {
  constexpr int W = lane_count<T>, r = R<T>;
  const RegisterTiles<register_rows * 2 / halves> tiles(n);
  TileAhead<T> ahead(next, tiles.count * ((X.n + r - 1) / r));
  tiles.for_each([&](int neuron, auto count) __attribute__((always_inline)) {
    rows_gradient_tile<halves, count.value>(delta + neuron * r, delta_stride, X, n_columns - (halves - 1) * W, adds,
                                            ahead, G + neuron * r);
  });
}

template <class T>
void weight_gradient_of_rows(const T* delta, std::ptrdiff_t delta_stride, const DenseRows<T>& X, int n, int n_columns,
                             bool adds, const UpdateTile<T>* next, T* G) {
  if (n_columns <= lane_count<T>)
    rows_gradient_of<1>(delta, delta_stride, X, n, n_columns, adds, next, G);
  else
    rows_gradient_of<2>(delta, delta_stride, X, n, n_columns, adds, next, G);
}

} // namespace
} // namespace FASTMLP_ISA
} // namespace fastmlp
