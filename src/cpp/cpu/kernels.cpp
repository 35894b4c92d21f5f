// The kernels, written once with vector extensions and compiled once per instruction set. CMake sets
//   FASTMLP_ISA           the namespace of this copy, e.g. avx2
//   FASTMLP_VECTOR_BYTES  the width of a register
//   FASTMLP_ACCUMULATORS  rows of the register tile: 2 vectors each, as many as fit without spilling
// Everything but the two table functions is local to the object: a weak symbol compiled with wider instructions could
// be picked by the linker for a machine that does not have them.
#include "kernels.hpp"

#include "../activations.hpp"
#include "../losses.hpp"
#include "../optimizers.hpp"

#include <type_traits>
#include <utility>

namespace fastmlp {
namespace FASTMLP_ISA {
namespace {

#define FASTMLP_UNROLL _Pragma("GCC unroll 16")

template <class T> struct Vector {
  typedef T type __attribute__((vector_size(FASTMLP_VECTOR_BYTES)));
  typedef T unaligned __attribute__((vector_size(FASTMLP_VECTOR_BYTES), aligned(alignof(T)), may_alias));
};
template <class T> using Vec = typename Vector<T>::type;

template <class T> constexpr int lane_count = FASTMLP_VECTOR_BYTES / int(sizeof(T));
template <class T> constexpr int R = 2 * lane_count<T>;
constexpr int register_rows = FASTMLP_ACCUMULATORS;
template <class T> constexpr int tile_rows = lane_count<T> <= 8 ? 24 : 48;

// Blocking: an input chunk of depth_chunk features stays in the level-1 cache, a block of weights in level 2.
constexpr int depth_chunk = 320;
template <class T> constexpr int row_block = sizeof(T) == 4 ? 96 : 48;

template <class T> FASTMLP_INLINE Vec<T> load(const T* p) {
  return *reinterpret_cast<const typename Vector<T>::unaligned*>(p);
}
template <class T> FASTMLP_INLINE void store(T* p, Vec<T> v) {
  *reinterpret_cast<typename Vector<T>::unaligned*>(p) = v;
}

template <class T> FASTMLP_INLINE T sum_of_lanes(Vec<T> v) {
  T sum = v[0];
  for (int i = 1; i < lane_count<T>; ++i) sum += v[i];
  return sum;
}

// --- transposing ----------------------------------------------------------------------------------------------------

// Butterfly network: stage `half` swaps, in each pair of rows `half` apart, the off-diagonal halves.
template <int half, int lanes, class V, std::size_t... i>
FASTMLP_INLINE void exchange(V& a, V& b, std::index_sequence<i...>) {
  const V low = __builtin_shufflevector(a, b, (int(i) & half ? int(i) - half + lanes : int(i))...);
  b = __builtin_shufflevector(a, b, (int(i) & half ? int(i) + lanes : int(i) + half)...);
  a = low;
}

template <class T, int half = 1> FASTMLP_INLINE void butterfly(Vec<T>* v) {
  constexpr int W = lane_count<T>;
  if constexpr (half < W) {
    FASTMLP_UNROLL
    for (int i = 0; i < W; ++i)
      if (!(i & half)) exchange<half, W>(v[i], v[i + half], std::make_index_sequence<W>{});
    butterfly<T, 2 * half>(v);
  }
}

// A lanes x lanes block from rows `ld` apart to rows `ld_out` apart.
template <class T> FASTMLP_INLINE void transpose_lanes(const T* in, std::ptrdiff_t ld, T* out, std::ptrdiff_t ld_out) {
  constexpr int W = lane_count<T>;
  Vec<T> v[W];
  FASTMLP_UNROLL
  for (int i = 0; i < W; ++i) v[i] = load(in + i * ld);
  butterfly<T>(v);
  FASTMLP_UNROLL
  for (int i = 0; i < W; ++i) store(out + i * ld_out, v[i]);
}

// A contiguous R x R block.
template <class T> FASTMLP_INLINE void transpose_block(const T* in, T* out) {
  constexpr int W = lane_count<T>, r = R<T>;
  for (int i = 0; i < 2; ++i)
    for (int j = 0; j < 2; ++j) transpose_lanes(in + (i * r + j) * W, r, out + (j * r + i) * W, r);
}

template <class T> void panel_to_columns(const T* panel, int k, T* columns, std::ptrdiff_t column_stride) {
  constexpr int r = R<T>;
  for (int f = 0; f < k; f += r, columns += column_stride) transpose_block(panel + std::ptrdiff_t(f) * r, columns);
}

template <class T> void panel_to_rows(const T* panel, int k, int n, T* out, std::ptrdiff_t ld) {
  constexpr int r = R<T>;
  T block[r * r];
  for (int f = 0; f < k; f += r) {
    transpose_block(panel + std::ptrdiff_t(f) * r, block);
    const int width = k - f < r ? k - f : r;
    for (int i = 0; i < n; ++i)
      for (int j = 0; j < width; ++j) out[i * ld + f + j] = block[i * r + j];
  }
}

template <class T>
FASTMLP_INLINE void columns_to_panel(const T* columns, std::ptrdiff_t column_stride, int k, T* panel) {
  constexpr int r = R<T>;
  for (int f = 0; f < k; f += r, columns += column_stride) transpose_block(columns, panel + std::ptrdiff_t(f) * r);
}

// --- gathering a batch ----------------------------------------------------------------------------------------------

FASTMLP_INLINE std::int64_t row_number(const std::int64_t* rows, std::int64_t first, int i) {
  return rows ? rows[first + i] : first + i;
}

template <class T>
void gather(const T* X, std::ptrdiff_t ld, const std::int64_t* rows, std::int64_t first, int n, int k, T* panel,
                  T* columns, std::ptrdiff_t column_stride) {
  constexpr int W = lane_count<T>, r = R<T>;
  const int whole = k / r * r;
  for (int i = 0; i < r; ++i) {
    const T* x = X + row_number(rows, first, i < n ? i : n - 1) * ld;
    T* out = columns + i * r;
    for (int f = 0; f < whole; f += r, out += column_stride) {
      store(out, load(x + f));
      store(out + W, load(x + f + W));
    }
    if (whole < k)
      for (int j = 0; j < r; ++j) out[j] = whole + j < k ? x[whole + j] : T(0);
  }
  columns_to_panel(columns, column_stride, k, panel);
}

// --- products -------------------------------------------------------------------------------------------------------

// C[m][R] (+)= sum_d M[m][d] P[d][R]: the one micro-kernel. `continues`: start from C, else from the bias or 0.
template <class T, int m_rows>
FASTMLP_INLINE void multiply(int depth, const T* M, std::ptrdiff_t ldm, const T* P, T* C, bool continues,
                             const T* bias) {
  constexpr int W = lane_count<T>, r = R<T>;
  Vec<T> acc[m_rows][2];
  FASTMLP_UNROLL
  for (int m = 0; m < m_rows; ++m) {
    acc[m][0] = continues ? load(C + m * r) : splat<Vec<T>>(bias ? bias[m] : T(0));
    acc[m][1] = continues ? load(C + m * r + W) : acc[m][0];
  }
  for (int d = 0; d < depth; ++d, P += r) {
    const Vec<T> p0 = load(P), p1 = load(P + W);
    FASTMLP_UNROLL
    for (int m = 0; m < m_rows; ++m) {
      const Vec<T> w = splat<Vec<T>>(M[m * ldm + d]);
      acc[m][0] += w * p0;
      acc[m][1] += w * p1;
    }
  }
  FASTMLP_UNROLL
  for (int m = 0; m < m_rows; ++m) {
    store(C + m * r, acc[m][0]);
    store(C + m * r + W, acc[m][1]);
  }
}

// Calls f(integral_constant m) for the row count m = 1 .. most.
template <int most, class F> FASTMLP_INLINE void with_row_count(int m, F&& f) {
  if constexpr (most > 1) {
    if (m < most) return with_row_count<most - 1>(m, f);
  }
  f(std::integral_constant<int, most>{});
}

// Splits n rows into equal tiles of at most `register_rows`: 10 is 5 + 5, not 6 + 4.
template <class F> FASTMLP_INLINE void for_register_tiles(int n, F&& f) {
  int tiles = (n + register_rows - 1) / register_rows;
  for (int row = 0; row < n; --tiles) {
    const int m = (n - row + tiles - 1) / tiles;
    f(row, m);
    row += m;
  }
}

template <class T> std::size_t scratch_size(int n_panels, int widest) {
  const std::size_t dense = std::size_t(n_panels) * row_block<T> * R<T>;
  const std::size_t sparse = std::size_t(widest + R<T> - 1) / R<T> * R<T> * R<T>;
  return dense > sparse ? dense : sparse;
}

// Blocked product; `epilogue(panel, row, n, C)` receives finished rows [row, row + n) of a panel in C[n][R].
template <class T, class Epilogue>
FASTMLP_INLINE void product(const PanelProduct<T>& p, T* scratch, Epilogue&& epilogue) {
  constexpr int r = R<T>;
  for (int row = 0; row < p.n_out; row += row_block<T>) {
    const int n = p.n_out - row < row_block<T> ? p.n_out - row : row_block<T>;
    for (int depth = 0; depth < p.n_in; depth += depth_chunk) {
      const int n_depth = p.n_in - depth < depth_chunk ? p.n_in - depth : depth_chunk;
      const bool last = depth + n_depth == p.n_in;
      for (int panel = 0; panel < p.n_panels; ++panel) {
        const T* in = p.in + panel * p.in_stride + std::ptrdiff_t(depth) * r;
        T* C = scratch + std::ptrdiff_t(panel) * row_block<T> * r;
        for_register_tiles(n, [&](int tile, int m) {
          const T* M = p.M + (row + tile) * p.ldm + depth;
          const T* bias = p.bias ? p.bias + row + tile : nullptr;
          with_row_count<register_rows>(m, [&](auto rows) {
            multiply<T, rows.value>(n_depth, M, p.ldm, in, C + tile * r, depth > 0, bias);
          });
          if (last) epilogue(panel, row + tile, m, C + tile * r);
        });
      }
    }
  }
}

// Finished pre-activations C of rows [row, row + n) of a panel through the activation, to the output panel.
template <class A, class T> FASTMLP_INLINE void activate(const PanelProduct<T>& p, int panel, int row, int n, const T* C) {
  constexpr int W = lane_count<T>, r = R<T>;
  T* out = p.out + panel * p.out_stride + std::ptrdiff_t(row) * r;
  T* z = p.z ? p.z + panel * p.out_stride + std::ptrdiff_t(row) * r : nullptr;
  for (int i = 0; i < n * r; i += W) {
    const Vec<T> v = load(C + i);
    if constexpr (!A::slope_from_output) {
      if (z) store(z + i, v);
    }
    store(out + i, A::value(v));
  }
}

template <class F> FASTMLP_INLINE void with_activation(int number, F&& f) {
  if (number < 0) return f(Identity{});
  Activations::visit(number, f);
}

template <class T> void forward(const PanelProduct<T>& p, T* scratch) {
  with_activation(p.activation, [&](auto activation) {
    product(p, scratch, [&](int panel, int row, int n, const T* C) {
      activate<decltype(activation)>(p, panel, row, n, C);
    });
  });
}

template <class T> void backward(const PanelProduct<T>& p, T* scratch) {
  constexpr int W = lane_count<T>, r = R<T>;
  Activations::visit(p.activation, [&](auto activation) {
    using A = decltype(activation);
    product(p, scratch, [&](int panel, int row, int n, const T* C) {
      T* out = p.out + panel * p.out_stride + std::ptrdiff_t(row) * r;
      const T* z = p.z ? p.z + panel * p.out_stride + std::ptrdiff_t(row) * r : out;
      for (int i = 0; i < n * r; i += W) store(out + i, load(C + i) * A::slope(load(z + i), load(out + i)));
    });
  });
}

template <class T, int m_rows>
FASTMLP_INLINE void weight_gradient_tile(const T* delta, std::ptrdiff_t delta_stride, const T* columns, int n_panels,
                                         T* G) {
  constexpr int W = lane_count<T>, r = R<T>;
  Vec<T> acc[m_rows][2];
  FASTMLP_UNROLL
  for (int m = 0; m < m_rows; ++m) {
    acc[m][0] = load(G + m * r);
    acc[m][1] = load(G + m * r + W);
  }
  for (int panel = 0; panel < n_panels; ++panel, delta += delta_stride) {
    for (int d = 0; d < r; ++d, columns += r) {
      const Vec<T> p0 = load(columns), p1 = load(columns + W);
      FASTMLP_UNROLL
      for (int m = 0; m < m_rows; ++m) {
        const Vec<T> w = splat<Vec<T>>(delta[m * r + d]);
        acc[m][0] += w * p0;
        acc[m][1] += w * p1;
      }
    }
  }
  FASTMLP_UNROLL
  for (int m = 0; m < m_rows; ++m) {
    store(G + m * r, acc[m][0]);
    store(G + m * r + W, acc[m][1]);
  }
}

template <class T>
void weight_gradient(const T* delta, std::ptrdiff_t delta_stride, const T* columns, int n_panels, int n, T* G) {
  constexpr int r = R<T>, chunk = 16; // 16 panels of one column block stay in the level-1 cache
  for (int panel = 0; panel < n_panels; panel += chunk) {
    const int panels = n_panels - panel < chunk ? n_panels - panel : chunk;
    for_register_tiles(n, [&](int row, int m) {
      with_row_count<register_rows>(m, [&](auto rows) {
        weight_gradient_tile<T, rows.value>(delta + panel * delta_stride + row * r, delta_stride,
                                            columns + std::ptrdiff_t(panel) * r * r, panels, G + row * r);
      });
    });
  }
}

// --- sparse input -----------------------------------------------------------------------------------------------------

template <class T> FASTMLP_INLINE std::int64_t stored_row(const SparseRows<T>& X, int i) {
  return row_number(X.rows, X.first, i);
}

template <class T> void forward_sparse(const SparseRows<T>& X, const PanelProduct<T>& p, T* scratch) {
  constexpr int W = lane_count<T>, r = R<T>;
  const std::ptrdiff_t width = (p.n_out + r - 1) / r * r;
  for (int i = 0; i < r; ++i) { // missing rows repeat the last one
    const std::int64_t row = stored_row(X, i < X.n ? i : X.n - 1);
    T* z = scratch + i * width;
    for (std::ptrdiff_t k = 0; k < width; ++k) z[k] = p.bias[k]; // biases are padded to whole rows of R
    for (std::int64_t e = X.indptr[row]; e < X.indptr[row + 1]; ++e) {
      const T* w = p.M + X.indices[e] * p.ldm;
      const Vec<T> x = splat<Vec<T>>(X.values[e]);
      for (std::ptrdiff_t k = 0; k < width; k += W) store(z + k, load(z + k) + load(w + k) * x);
    }
  }
  T block[r * r];
  with_activation(p.activation, [&](auto activation) {
    for (int row = 0; row < p.n_out; row += r) {
      for (int i = 0; i < r; i += W)
        for (int j = 0; j < r; j += W) transpose_lanes(scratch + i * width + row + j, width, block + j * r + i, r);
      activate<decltype(activation)>(p, 0, row, p.n_out - row < r ? p.n_out - row : r, block);
    }
  });
}

template <class T>
void weight_gradient_sparse(const SparseRows<T>& X, const T* deltas, int block, T* G, std::ptrdiff_t ldt, int n_in) {
  constexpr int W = lane_count<T>, r = R<T>;
  G += std::ptrdiff_t(block) * r;
  for (int k = 0; k < n_in; ++k)
    for (int j = 0; j < r; j += W) store(G + k * ldt + j, splat<Vec<T>>(T(0)));
  for (int i = 0; i < X.n; ++i, deltas += r) {
    const Vec<T> d0 = load(deltas), d1 = load(deltas + W);
    const std::int64_t row = stored_row(X, i);
    for (std::int64_t e = X.indptr[row]; e < X.indptr[row + 1]; ++e) {
      T* g = G + X.indices[e] * ldt;
      const Vec<T> x = splat<Vec<T>>(X.values[e]);
      store(g, load(g) + d0 * x);
      store(g + W, load(g + W) + d1 * x);
    }
  }
}

template <class T>
void bias_gradient(const T* delta, std::ptrdiff_t delta_stride, int n_panels, int n, T* g) {
  constexpr int W = lane_count<T>, r = R<T>;
  for (int i = 0; i < n; ++i) {
    Vec<T> sum = splat<Vec<T>>(T(0));
    for (int panel = 0; panel < n_panels; ++panel) {
      const T* d = delta + panel * delta_stride + i * r;
      sum += load(d) + load(d + W);
    }
    g[i] = sum_of_lanes<T>(sum);
  }
}

// --- loss -----------------------------------------------------------------------------------------------------------

template <class T> void link(int loss, T* z, int n_outputs) {
  constexpr int W = lane_count<T>;
  Losses::visit(loss, [&](auto entry) {
    for (int half = 0; half < 2; ++half) entry.link(reinterpret_cast<Vec<T>*>(z + half * W), n_outputs, 2);
  });
}

template <class T> double loss(int number, T* z, const T* y, const T* weights, int n_outputs) {
  constexpr int W = lane_count<T>, r = R<T>;
  double total = 0;
  Losses::visit(number, [&](auto entry) {
    for (int half = 0; half < 2; ++half) {
      const Vec<T> weight = load(weights + half * W);
      const Vec<T> rows = weight * entry.row(reinterpret_cast<Vec<T>*>(z + half * W),
                                             reinterpret_cast<const Vec<T>*>(y + half * W), n_outputs, 2);
      for (int k = 0; k < n_outputs; ++k) {
        T* delta = z + std::ptrdiff_t(k) * r + half * W;
        store(delta, load(delta) * weight);
      }
      for (int i = 0; i < W; ++i) total += double(rows[i]);
    }
  });
  return total;
}

// --- optimizer ------------------------------------------------------------------------------------------------------

template <class T> void transpose_weights(const UpdateTile<T>& t) {
  constexpr int W = lane_count<T>;
  for (int row = 0; row < t.n; row += W)
    for (int column = 0; column < t.n_columns; column += W)
      transpose_lanes(t.w + row * t.ldw + column, t.ldw, t.wt + column * t.ldt + row, t.ldt);
}

template <class T> double finish_gradient(T alpha, T scale, T* G, const UpdateTile<T>& t) {
  constexpr int W = lane_count<T>, r = R<T>;
  Vec<T> squares = splat<Vec<T>>(T(0));
  const Vec<T> decay = splat<Vec<T>>(alpha), factor = splat<Vec<T>>(scale);
  for (int row = 0; row < t.n; ++row) {
    for (int half = 0; half < 2; ++half) {
      const Vec<T> w = load(t.w + row * t.ldw + half * W);
      T* g = G + row * r + half * W;
      store(g, (load(g) + decay * w) * factor);
      squares += w * w;
    }
  }
  return double(sum_of_lanes<T>(squares));
}

template <class T> double update(int number, const T* c, T alpha, T scale, T* G, const UpdateTile<T>& t) {
  constexpr int W = lane_count<T>, r = R<T>;
  const double squares = finish_gradient(alpha, scale, G, t);
  Optimizers::visit(number, [&](auto entry) {
    using Entry = decltype(entry);
    constexpr int n_slots = int(sizeof(Entry::slots) / sizeof(*Entry::slots));
    for (int row = 0; row < t.n; ++row) {
      for (int half = 0; half < 2; ++half) {
        const std::ptrdiff_t at = row * t.ldw + half * W;
        Vec<T> w = load(t.w + at), slot[max_slots];
        for (int s = 0; s < n_slots; ++s) slot[s] = load(t.slots[s] + at);
        Entry::update(w, load(G + row * r + half * W), slot, c);
        for (int s = 0; s < n_slots; ++s) store(t.slots[s] + at, slot[s]);
        store(t.w + at, w);
      }
    }
  });
  if (t.wt) transpose_weights(t);
  return squares;
}

// --- one row --------------------------------------------------------------------------------------------------------

template <class T>
void forward_row(const T* M, const T* b, const T* x, int n_in, int n_out, int activation, T* out) {
  constexpr int W = lane_count<T>, block = 8 * W;
  int n = 0;
  for (; n + block <= n_out; n += block) {
    Vec<T> acc[8];
    FASTMLP_UNROLL
    for (int j = 0; j < 8; ++j) acc[j] = load(b + n + j * W);
    for (int k = 0; k < n_in; ++k) {
      const T* w = M + std::ptrdiff_t(k) * n_out + n;
      const Vec<T> v = splat<Vec<T>>(x[k]);
      FASTMLP_UNROLL
      for (int j = 0; j < 8; ++j) acc[j] += load(w + j * W) * v;
    }
    FASTMLP_UNROLL
    for (int j = 0; j < 8; ++j) store(out + n + j * W, acc[j]);
  }
  for (; n < n_out; n += W) { // the last, narrower blocks; lanes beyond the end start from 0 and stay unused
    T lanes[W] = {};
    const int width = n_out - n < W ? n_out - n : W;
    for (int j = 0; j < width; ++j) lanes[j] = b[n + j];
    Vec<T> acc = load(lanes);
    for (int k = 0; k < n_in; ++k) {
      const T* w = M + std::ptrdiff_t(k) * n_out + n;
      if (width == W) {
        acc += load(w) * splat<Vec<T>>(x[k]);
      } else {
        for (int j = 0; j < width; ++j) lanes[j] = w[j];
        acc += load(lanes) * splat<Vec<T>>(x[k]);
      }
    }
    store(out + n, acc); // out is padded to whole vectors
  }
  if (activation < 0) return;
  Activations::visit(activation, [&](auto entry) {
    for (int i = 0; i < n_out; i += W) store(out + i, entry.value(load(out + i)));
  });
}

template <class T> void link_row(int loss, T* z, int n_outputs) {
  Losses::visit(loss, [&](auto entry) { entry.link(z, n_outputs, 1); });
}

// --- catalogues on arrays -------------------------------------------------------------------------------------------

template <class T> void apply_activation(int number, const T* z, std::ptrdiff_t n, T* value, T* slope) {
  constexpr int W = lane_count<T>;
  Activations::visit(number, [&](auto entry) {
    for (std::ptrdiff_t i = 0; i < n; i += W) {
      const std::ptrdiff_t width = n - i < W ? n - i : W;
      Vec<T> v = splat<Vec<T>>(T(0));
      for (std::ptrdiff_t j = 0; j < width; ++j) v[j] = z[i + j];
      const Vec<T> a = entry.value(v), s = entry.slope(entry.slope_from_output ? a : v, a);
      for (std::ptrdiff_t j = 0; j < width; ++j) value[i + j] = a[j], slope[i + j] = s[j];
    }
  });
}

template <class T>
void apply_loss(int number, const T* z, const T* y, std::ptrdiff_t n, int m, T* prediction, T* row_loss, T* grad) {
  Losses::visit(number, [&](auto entry) {
    for (std::ptrdiff_t i = 0; i < n; ++i) {
      for (int k = 0; k < m; ++k) prediction[i * m + k] = grad[i * m + k] = z[i * m + k];
      entry.link(prediction + i * m, m, 1);
      row_loss[i] = entry.row(grad + i * m, y + i * m, m, 1);
    }
  });
}

// --- the machine's limit ----------------------------------------------------------------------------------------------

template <class T> double multiply_adds(long rounds) {
  constexpr int chains = 10; // enough independent multiply-adds to cover their latency
  Vec<T> acc[chains], a = splat<Vec<T>>(T(0.999)), b = splat<Vec<T>>(T(1e-3));
  for (int j = 0; j < chains; ++j) acc[j] = splat<Vec<T>>(T(j));
  for (long i = 0; i < rounds; ++i) {
    FASTMLP_UNROLL
    for (int j = 0; j < chains; ++j) acc[j] = acc[j] * a + b;
  }
  for (int j = 0; j < chains; ++j) __asm__ volatile("" : : "m"(acc[j]));
  return 2.0 * double(rounds) * chains * lane_count<T>;
}

template <class T>
constexpr Kernels<T> kernels = {
    FASTMLP_ISA_NAME, R<T>, tile_rows<T>, gather<T>, panel_to_columns<T>, panel_to_rows<T>,
    forward<T>, backward<T>, forward_sparse<T>, weight_gradient_sparse<T>,
    scratch_size<T>, link<T>, loss<T>, weight_gradient<T>, bias_gradient<T>, finish_gradient<T>, update<T>,
    transpose_weights<T>, forward_row<T>, link_row<T>, apply_activation<T>, apply_loss<T>, multiply_adds<T>};

} // namespace

const Kernels<float>* float_kernels() { return &kernels<float>; }
const Kernels<double>* double_kernels() { return &kernels<double>; }

} // namespace FASTMLP_ISA
} // namespace fastmlp
