// Gradients of weights and biases: the matrix products of the second phase. Included into each kernel object, local to
// it.
#pragma once

#include "products.hpp"

namespace fastmlp {
namespace FASTMLP_ISA {
namespace {

// Asks for the weights and slots of a tile, which will be written, in equal parts. A few lines at a time, by few
// instructions: while they pass, the multiply-adds have nothing new to do.
template <class T> class TileAhead {
public:
  TileAhead(const UpdateTile<T>* tile, int n_parts) {
    if (!tile) return;
    at[0] = tile->w;
    step[0] = tile->ldw;
    for (; n_arrays < most && tile->slots[n_arrays - 1]; ++n_arrays) {
      at[n_arrays] = tile->slots[n_arrays - 1];
      step[n_arrays] = tile->ld_slots;
    }
    rows_left = tile->n;
    rows_a_part = (tile->n + n_parts - 1) / n_parts;
  }

  bool asks() const { return rows_a_part > 0; }

  __attribute__((always_inline)) void next_part() {
    for (int i = 0; i < rows_a_part && rows_left > 0; ++i, --rows_left)
      for (int a = 0; a < n_arrays; ++a) {
        FASTMLP_UNROLL
        for (int j = 0; j < R<T>; j += line<T>) prefetch_to_write(at[a] + j);
        at[a] += step[a];
      }
  }

private:
  static constexpr int most = 1 + int(std::size(UpdateTile<T>{}.slots));
  int rows_left = 0, rows_a_part = 0, n_arrays = 1;
  const T* at[most];
  std::ptrdiff_t step[most];
};

// G[m][R] (+)= delta . columns for m rows and `halves` registers of columns, over consecutive panels. `continues`: the
// sum begins with G; `adds`: what it comes to is added to G. `ld`: from row to row of the columns, R unless `apart`. Of
// deltas that are not new this core has read the lines for the tile before: asking again would only take time.
template <int halves, bool apart, int m_rows, class T>
FASTMLP_INLINE void weight_gradient_tile(const T* delta, std::ptrdiff_t delta_stride, const T* columns,
                                         std::ptrdiff_t ld, int n_rows, bool continues, bool adds, bool new_deltas,
                                         TileAhead<T>& ahead, T* G) {
  constexpr int W = lane_count<T>, r = R<T>, distance = 8;
  Vec<T> acc[m_rows][halves];
  FASTMLP_UNROLL
  for (int m = 0; m < m_rows; ++m) {
    FASTMLP_UNROLL
    for (int h = 0; h < halves; ++h) acc[m][h] = continues ? load(G + m * r + h * W) : splat<Vec<T>>(T(0));
  }
  for (int row = 0; row < n_rows; row += r, delta += delta_stride) {
    const int depth = smaller(r, n_rows - row);
    if (ahead.asks()) { // else all is in the cache
      ahead.next_part();
      if (new_deltas) {
        FASTMLP_UNROLL
        for (int i = 0; i < m_rows * r; i += line<T>) __builtin_prefetch(delta + delta_stride + i);
      }
    }
    for (int d = 0; d < depth; ++d, columns += apart ? ld : r) {
      Vec<T> p[halves];
      FASTMLP_UNROLL
      for (int h = 0; h < halves; ++h) {
        p[h] = load(columns + h * W);
        if (apart) __builtin_prefetch(columns + distance * ld + h * W); // no hardware sees what comes next
      }
      FASTMLP_UNROLL
      for (int m = 0; m < m_rows; ++m) {
        const Vec<T> w = splat<Vec<T>>(delta[m * r + d]);
        FASTMLP_UNROLL
        for (int h = 0; h < halves; ++h) acc[m][h] += w * p[h];
      }
    }
  }
  FASTMLP_UNROLL
  for (int m = 0; m < m_rows; ++m) {
    FASTMLP_UNROLL
    for (int h = 0; h < halves; ++h) {
      T* const g = G + m * r + h * W;
      store(g, adds ? load(g) + acc[m][h] : acc[m][h]);
    }
  }
}

template <class T> void add(const T* a, const T* b, std::ptrdiff_t n, T* sum) {
  for (std::ptrdiff_t i = 0; i < n; i += lane_count<T>) store(sum + i, load(a + i) + load(b + i));
}

template <int halves, bool apart, class T>
FASTMLP_INLINE void weight_gradient_of(const T* delta, std::ptrdiff_t delta_stride, const T* columns, std::ptrdiff_t ld,
                                       int n_rows, int n, bool adds, const UpdateTile<T>* next, bool new_deltas, T* G) {
  constexpr int r = R<T>, chunk = gradient_chunk<T>, most = register_rows * 2 / halves;
  const RegisterTiles<most> tiles(n);
  TileAhead<T> ahead(next, tiles.count * ((n_rows + r - 1) / r));
  for (int row = 0; row < n_rows; row += chunk, delta += chunk / r * delta_stride, columns += chunk * ld)
    tiles.for_each([&](int neuron, auto count) __attribute__((always_inline)) {
      weight_gradient_tile<halves, apart, count.value>(delta + neuron * r, delta_stride, columns, ld,
                                                       smaller(chunk, n_rows - row), row > 0, adds, new_deltas, ahead,
                                                       G + neuron * r);
    });
}

template <class T>
void weight_gradient(const T* delta, std::ptrdiff_t delta_stride, const T* columns, std::ptrdiff_t ld, int n_rows,
                     int n, int n_columns, bool adds, const UpdateTile<T>* next, bool new_deltas, T* G) {
  if (adds && n_rows > gradient_chunk<T>) { // the sums of later chunks begin with those of earlier ones
    T sums[tile_rows<T> * 3 / 2 * R<T>];
    weight_gradient(delta, delta_stride, columns, ld, n_rows, n, n_columns, false, next, new_deltas, sums);
    return add(G, sums, std::ptrdiff_t(n) * R<T>, G);
  }
  const auto of = [&](auto halves, auto apart) __attribute__((always_inline)) {
    weight_gradient_of<halves.value, apart.value>(delta, delta_stride, columns, ld, n_rows, n, adds, next, new_deltas,
                                                  G);
  };
  const auto with = [&](auto halves) __attribute__((always_inline)) {
    ld == R<T> ? of(halves, std::false_type()) : of(halves, std::true_type());
  };
  n_columns <= lane_count<T> ? with(std::integral_constant<int, 1>()) : with(std::integral_constant<int, 2>());
}

// Sums over the rows of the products of `few` features with as many others as fill registers, one lane for each pair.
template <int few, class T> struct Pairs {
  static constexpr int W = lane_count<T>, many = few < 4 ? (few == 1 ? W : W / 2) : W >= 4 ? W / 4 : 1;
  static constexpr int registers = (few * many + W - 1) / W * W;
  T lanes[registers];

  void sum(const T* first, std::ptrdiff_t first_stride, const T* second, std::ptrdiff_t second_stride, int n_panels) {
    constexpr int r = R<T>;
    Vec<T> sums[registers];
    FASTMLP_UNROLL
    for (int k = 0; k < registers; ++k) sums[k] = splat<Vec<T>>(T(0));
    for (int panel = 0; panel < n_panels; ++panel, first += first_stride, second += second_stride) {
      FASTMLP_UNROLL
      for (int half = 0; half < r; half += W) {
        Vec<T> a[few];
        FASTMLP_UNROLL
        for (int i = 0; i < few; ++i) a[i] = load(first + i * r + half);
        FASTMLP_UNROLL
        for (int j = 0; j < many; ++j) {
          const Vec<T> b = load(second + j * r + half);
          FASTMLP_UNROLL
          for (int i = 0; i < few; ++i) sums[j * few + i] += a[i] * b;
        }
      }
    }
    FASTMLP_UNROLL
    for (int k = 0; k < registers; k += W) store(lanes + k, sums_of_lanes<T>(sums + k));
  }
};

template <class T>
void weight_gradient_along_rows(const T* delta, std::ptrdiff_t delta_stride, const T* inputs,
                                std::ptrdiff_t input_stride, int n_panels, int n, int n_columns, bool adds, T* G) {
  constexpr int W = lane_count<T>, r = R<T>;
  const bool few_inputs = n_columns < n;
  const int width = (n_columns + W - 1) / W * W; // the optimizer takes whole registers
  if (!adds)
    for (int i = 0; i < n; ++i)
      for (int j = 0; j < width; j += W) store(G + i * r + j, splat<Vec<T>>(T(0)));
  with_row_count<few_units>(few_inputs ? n_columns : n, [&](auto few) {
    Pairs<few.value, T> pairs; // features beyond the last are 0, up to a whole panel
    for (int at = 0; at < (few_inputs ? n : n_columns); at += pairs.many) {
      if (few_inputs)
        pairs.sum(inputs, input_stride, delta + at * r, delta_stride, n_panels);
      else
        pairs.sum(delta, delta_stride, inputs + at * r, input_stride, n_panels);
      const int end = smaller(pairs.many, (few_inputs ? n : n_columns) - at);
      for (int j = 0; j < end; ++j)
        for (int i = 0; i < few.value; ++i)
          G[few_inputs ? (at + j) * r + i : i * r + at + j] += pairs.lanes[j * few.value + i];
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

// A register of neurons at a time; panels have room for whole ones.
template <class T>
void bias_gradient(const T* delta, std::ptrdiff_t delta_stride, int n_panels, int n, bool adds, T* g) {
  constexpr int W = lane_count<T>, r = R<T>;
  for (int first = 0; first < n; first += W) {
    Vec<T> sums[W];
    FASTMLP_UNROLL
    for (int i = 0; i < W; ++i) sums[i] = splat<Vec<T>>(T(0));
    const T* d = delta + first * r;
    for (int panel = 0; panel < n_panels; ++panel, d += delta_stride) {
      FASTMLP_UNROLL
      for (int i = 0; i < W; ++i) sums[i] += load(d + i * r) + load(d + i * r + W);
    }
    const Vec<T> sum = sums_of_lanes<T>(sums);
    store(g + first, adds ? load(g + first) + sum : sum);
  }
}

} // namespace
} // namespace FASTMLP_ISA
} // namespace fastmlp
