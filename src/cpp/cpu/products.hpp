// Forward and backward: the matrix products of the first phase on panels, dense and sparse. Included into each kernel
// object, local to it.
#pragma once

#include "../activations.hpp"
#include "gather.hpp"
#include "kernels.hpp"
#include "simd.hpp"

#include <type_traits>

namespace fastmlp {
namespace FASTMLP_ISA {
namespace {

// C[m][R] (+)= sum_d M[m][d] P[d][R]: the one micro-kernel. `continues`: start from C, else from the bias or 0.
// `transposed`: M[d][m] is stored instead. If they are the `last`, `finish(i, sums)` takes the sums from their
// registers, unless it wants them later. Of one register instead of two `halves`, the other gets sums of 0.
template <bool transposed, int m_rows, int halves, class T, class Finish>
FASTMLP_INLINE void multiply(int depth, const T* M, std::ptrdiff_t ldm, const T* P, T* C, bool continues, const T* bias,
                             bool last, const Finish finish) {
  constexpr int W = lane_count<T>, r = R<T>;
  Vec<T> acc[m_rows][halves];
  FASTMLP_UNROLL
  for (int m = 0; m < m_rows; ++m) {
    FASTMLP_UNROLL
    for (int h = 0; h < halves; ++h)
      acc[m][h] = continues ? load(C + m * r + h * W) : splat<Vec<T>>(bias ? bias[m] : T(0));
  }
  for (int d = 0; d < depth; ++d, P += r) {
    Vec<T> p[halves];
    FASTMLP_UNROLL
    for (int h = 0; h < halves; ++h) p[h] = load(P + h * W);
    if (transposed) __builtin_prefetch(M + (d + 8) * ldm); // each step reads from another line, far away
    FASTMLP_UNROLL
    for (int m = 0; m < m_rows; ++m) {
      const Vec<T> w = splat<Vec<T>>(transposed ? M[d * ldm + m] : M[m * ldm + d]);
      FASTMLP_UNROLL
      for (int h = 0; h < halves; ++h) acc[m][h] += w * p[h];
    }
  }
  const auto for_each = [&](auto&& use) __attribute__((always_inline)) {
    FASTMLP_UNROLL
    for (int m = 0; m < m_rows; ++m) {
      FASTMLP_UNROLL
      for (int h = 0; h < 2; ++h) use(m * r + h * W, h < halves ? acc[m][h % halves] : splat<Vec<T>>(T(0)));
    }
  };
  if constexpr (Finish::in_registers) {
    if (last) return for_each(finish);
  }
  for_each([&](int i, Vec<T> sums) __attribute__((always_inline)) { store(C + i, sums); });
}

// Calls f(integral_constant m) for the row count m = 1 .. most.
template <int most, class F> FASTMLP_INLINE void with_row_count(int m, F&& f) {
  if constexpr (most > 1) {
    if (m < most) return with_row_count<most - 1>(m, f);
  }
  f(std::integral_constant<int, most>{});
}

// All sizes of tile in one function run fastest; builds for checks compile them apart, in half the time or less.
#ifdef FASTMLP_SEPARATE_TILES
#define FASTMLP_TILE_CODE __attribute__((noinline))
#else
#define FASTMLP_TILE_CODE __attribute__((always_inline))
#endif

// n rows in equal tiles of at most `most`, larger ones first: 10 is 5 + 5, not 6 + 4. A division takes longer than the
// rest of a short tile, so that the cut is made once for all panels.
template <int most> struct RegisterTiles {
  int n, count, rows, larger; // the first `larger` tiles have one row more

  explicit RegisterTiles(int n)
      : n(n), count((n + most - 1) / most), rows(count ? n / count : 0), larger(n - count * rows) {}

  // f(first row, integral_constant of the number of rows) for each tile.
  template <class F> __attribute__((always_inline)) void for_each(F&& f) const {
    int row = 0, tiles = larger ? larger : count;
    for (int m = rows + (larger > 0); row < n; --m, tiles = count - larger)
      with_row_count<most>(m, [&](auto n_rows) FASTMLP_TILE_CODE {
        for (int i = 0; i < tiles; ++i, row += n_rows.value) f(row, n_rows);
      });
  }
};

template <class T> std::size_t scratch_size(int n_panels, int widest) {
  const std::size_t dense = std::size_t(n_panels) * row_block<T> * R<T>;
  const std::size_t sparse = std::size_t(widest + R<T> - 1) / R<T> * R<T> * R<T>;
  return dense > sparse ? dense : sparse;
}

// Asks for a region in equal parts, so that the memory works while the processor multiplies.
template <class T> struct Ahead {
  const Region<T>& region;
  const int rows_a_part;
  int row = 0;

  Ahead(const Region<T>& region, int n_parts) : region(region), rows_a_part((region.rows + n_parts - 1) / n_parts) {}

  __attribute__((always_inline)) void next_part() {
    for (const int end = smaller(row + rows_a_part, region.rows); row < end; ++row)
      for (int column = 0; column < region.columns; column += line<T>)
        prefetch(region.first + row * region.ld + column);
  }
};

// Blocked product. `Finish{p, at}(i, sums)` takes finished sums, to be stored i from `at` in the output panels: from
// their registers, or those of a block together. Not inlined: it is there once for all branches that call it.
template <bool transposed, class Finish, int halves, class T>
__attribute__((noinline)) void product_of_panels(const PanelProduct<T>& p, T* scratch) {
  constexpr int half_rows = 12; // so many sums, one register each, hide the time of a multiply-add
  constexpr int r = R<T>, chunk = transposed ? transposed_chunk : depth_chunk;
  const auto block_of = [&](int row, int depth) -> Region<T> {
    const int n = smaller(p.n_out - row, row_block<T>), n_depth = smaller(p.n_in - depth, chunk);
    if (transposed) return {p.M + depth * p.ldm + row, p.ldm, n_depth, n};
    return {p.M + row * p.ldm + depth, p.ldm, n, n_depth};
  };
  for (int row = 0; row < p.n_out; row += row_block<T>) {
    for (int depth = 0; depth < p.n_in; depth += chunk) {
      const Region<T> block = block_of(row, depth);
      const int n = transposed ? block.columns : block.rows, n_depth = transposed ? block.rows : block.columns;
      const bool last = depth + n_depth == p.n_in;
      const Region<T> next = !last                          ? block_of(row, depth + chunk)
                             : row + row_block<T> < p.n_out ? block_of(row + row_block<T>, 0)
                                                            : p.next;
      const RegisterTiles<halves == 2 ? register_rows : half_rows> tiles(n);
      Ahead<T> ahead(next, tiles.count * p.n_panels);
      for (int panel = 0; panel < p.n_panels; ++panel) {
        const T* in = p.in + panel * p.in_stride + std::ptrdiff_t(depth) * r;
        T* C = scratch + std::ptrdiff_t(panel) * row_block<T> * r;
        tiles.for_each([&](int tile, auto rows) __attribute__((always_inline)) {
          const T* M = transposed ? block.first + tile : block.first + tile * p.ldm;
          const T* bias = p.bias ? p.bias + row + tile : nullptr;
          ahead.next_part();
          const Finish finish(p, panel * p.out_stride + (row + tile) * std::ptrdiff_t(r));
          multiply<transposed, rows.value, halves>(n_depth, M, p.ldm, in, C + tile * r, depth > 0, bias, last, finish);
        });
        if constexpr (!Finish::in_registers)
          if (last) Finish(p, panel * p.out_stride + row * std::ptrdiff_t(r)).block(C, n * r);
      }
    }
  }
}

// Pre-activations through the activation, to the output panel.
template <class A, class T> struct Activate {
  static constexpr bool in_registers = true;
  T *out, *z;
  Activate(const PanelProduct<T>& p, std::ptrdiff_t at) : out(p.out + at), z(p.z ? p.z + at : nullptr) {}
  __attribute__((always_inline)) void operator()(int i, Vec<T> sums) const {
    if constexpr (!A::slope_from_output)
      if (z) store(z + i, sums);
    store(out + i, A::value(sums));
  }
};

// Sums of deltas times the slope.
template <class A, class T> struct Differentiate {
  static constexpr bool in_registers = true;
  T* out;
  const T *a, *z;
  Differentiate(const PanelProduct<T>& p, std::ptrdiff_t at)
      : out(p.out + at), a(p.a + at), z(p.z ? p.z + at : nullptr) {}
  __attribute__((always_inline)) void operator()(int i, Vec<T> sums) const {
    const Vec<T> value = load(a + i), input = z ? load(z + i) : value;
    store(out + i, sums * A::slope(input, value));
  }
};

// Sums on top of other panels.
template <class T> struct Add {
  static constexpr bool in_registers = true;
  T* out;
  const T* addend;
  Add(const PanelProduct<T>& p, std::ptrdiff_t at) : out(p.out + at), addend(p.addend + at) {}
  __attribute__((always_inline)) void operator()(int i, Vec<T> sums) const { store(out + i, sums + load(addend + i)); }
};

template <class F> FASTMLP_INLINE void with_activation(int number, F&& f) {
  if (number < 0) return f(Identity{});
  Activations::visit(number, f);
}

template <class X> struct Type {
  using type = X;
};

// Calls use(type, from_registers) with what finishes the sums of a product.
template <bool transposed, class T, class F> FASTMLP_INLINE void with_finish(const PanelProduct<T>& p, F&& use) {
  if (p.addend) return use(Type<Add<T>>(), std::true_type());
  if (p.activation < 0) return use(Type<Activate<Identity, T>>(), std::true_type());
  Activations::visit(p.activation, [&](auto activation) {
    using A = decltype(activation);
    if constexpr (transposed)
      use(Type<Differentiate<A, T>>(), std::bool_constant<has_cheap_slope<A>>());
    else
      use(Type<Activate<A, T>>(), std::bool_constant<is_cheap<A>>());
  });
}

// Any of them for a block of sums in the level-1 cache. Code of many instructions is not worth repeating for each
// activation and size of tile: compiling it would take longer than all the rest.
template <bool transposed, class T> struct Later {
  static constexpr bool in_registers = false;
  const PanelProduct<T>& p;
  const std::ptrdiff_t at;
  Later(const PanelProduct<T>& p, std::ptrdiff_t at) : p(p), at(at) {}
  void block(const T* sums, int n) const {
    with_finish<transposed>(p, [&](auto type, auto) {
      const typename decltype(type)::type finish(p, at);
      for (int i = 0; i < n; i += lane_count<T>) finish(i, load(sums + i));
    });
  }
};

// The last panel may have rows for one register only. Only then is `p` copied: in registers wider than what has just
// been written to it, a copy takes as long as many multiply-adds.
template <bool transposed, class T> FASTMLP_INLINE void product(const PanelProduct<T>& p, T* scratch) {
  const auto of_whole_panels = [&](const PanelProduct<T>& whole) __attribute__((always_inline)) {
    with_finish<transposed>(whole, [&](auto type, auto from_registers) {
      using Finish = typename decltype(type)::type;
      using Chosen = std::conditional_t<from_registers.value, Finish, Later<transposed, T>>;
      product_of_panels<transposed, Chosen, 2>(whole, scratch);
    });
  };
  if (!p.ends_in_half) return of_whole_panels(p);
  PanelProduct<T> part = p;
  part.n_panels -= 1;
  if (part.n_panels > 0) of_whole_panels(part);
  const std::ptrdiff_t skipped = part.n_panels * p.out_stride;
  part.in += part.n_panels * p.in_stride;
  part.out += skipped;
  if (part.a) part.a += skipped;
  if (part.z) part.z += skipped;
  if (part.addend) part.addend += skipped;
  part.n_panels = 1;
  product_of_panels<transposed, Later<transposed, T>, 1>(part, scratch);
}

template <class T> void forward(const PanelProduct<T>& p, T* scratch) { product<false>(p, scratch); }
template <class T> void backward(const PanelProduct<T>& p, T* scratch) { product<true>(p, scratch); }

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
      const Activate<decltype(activation), T> finish(p, row * std::ptrdiff_t(r));
      for (int i = 0; i < smaller(p.n_out - row, r) * r; i += W) finish(i, load(block + i));
    }
  });
}

} // namespace
} // namespace FASTMLP_ISA
} // namespace fastmlp
