// How the CPU engine lays out parameters and a batch in memory; the panel layout itself is described in kernels.hpp.
#pragma once

#include "../engine.hpp"
#include "kernels.hpp"
#include "memory.hpp"

#include <algorithm>
#include <iterator>

namespace fastmlp {

inline std::ptrdiff_t round_up(std::ptrdiff_t n, int multiple) { return (n + multiple - 1) / multiple * multiple; }

// Rows `n` elements long, rounded up to `R`; one R more when rows would otherwise fall on the same cache sets.
template <class T> std::ptrdiff_t leading_dimension(std::ptrdiff_t n, int R) {
  const std::ptrdiff_t ld = round_up(n, R);
  return ld * std::ptrdiff_t(sizeof(T)) % 512 == 0 ? ld + R : ld;
}

// B[j][i] = A[i][j].
template <class T> void transpose(const T* A, std::ptrdiff_t lda, int rows, int columns, T* B, std::ptrdiff_t ldb) {
  const Kernels<T>& kernels = fastmlp::kernels<T>();
  const int R = kernels.rows, whole_rows = rows / R * R, whole_columns = columns / R * R;
  for (int i = 0; i < whole_rows; i += R) kernels.transpose(A + i * lda, lda, R, whole_columns, B + i, ldb);
  for (int i = 0; i < rows; ++i)
    for (int j = i < whole_rows ? whole_columns : 0; j < columns; ++j) B[j * ldb + i] = A[i * lda + j];
}

// Rows first .. first + n, by number if `numbers` is given.
struct RowRange {
  const std::int64_t* numbers;
  std::int64_t first, n;
  std::int64_t operator[](std::int64_t i) const { return numbers ? numbers[first + i] : first + i; }
};

// Those rows of X, dense, to out (n, n_columns).
template <class T> void copy_rows(const Matrix<T>& X, const RowRange& rows, T* out) {
  for (std::int64_t i = 0; i < rows.n; ++i, out += X.n_columns) {
    if (!X.indptr) {
      std::copy_n(X.data + rows[i] * X.stride, X.n_columns, out);
      continue;
    }
    std::fill_n(out, X.n_columns, T(0));
    for (std::int64_t e = X.indptr[rows[i]]; e < X.indptr[rows[i] + 1]; ++e) out[X.indices[e]] += X.data[e];
  }
}

inline int n_slots(const Rule& rule) {
  int n = 0;
  Optimizers::visit(rule.optimizer, [&](auto entry) { n = int(std::size(entry.slots)); });
  return n;
}

// What the optimizer's step number `t` has in common for all weights.
template <class T> void step_coefficients(const Rule& rule, long long t, T* c) {
  double wide[max_coefficients] = {};
  Optimizers::visit(rule.optimizer,
                    [&](auto entry) { entry.prepare(rule.hyperparameters.data(), rule.learning_rate, t, wide); });
  for (int i = 0; i < max_coefficients; ++i) c[i] = T(wide[i]);
}

// The parameters of one layer.
template <class T> struct Layer {
  int n_in, n_out;
  int activation; // number in Activations; -1 at the output, where the loss owns the link
  bool keeps_z;   // the slope needs the pre-activation
  std::ptrdiff_t ldw, ldt;
  T *w, *b;           // [n_out][ldw], [n_out], rows padded to R with zeros
  AlignedArray<T> wt; // W's transpose [n_in][ldt], kept beside it for the first layer of sparse input only

  // From and to the flat buffer, where this layer's weights [n_in][n_out] and biases stand at these addresses.
  void read(const T* weights, const T* biases) {
    fastmlp::transpose(weights, n_out, n_in, n_out, w, ldw);
    std::copy_n(biases, n_out, b);
    if (wt.data())
      for (int k = 0; k < n_in; ++k) std::copy_n(weights + std::ptrdiff_t(k) * n_out, n_out, wt.data() + k * ldt);
  }
  void write(T* weights, T* biases) const {
    fastmlp::transpose(w, ldw, n_out, n_in, weights, n_out);
    std::copy_n(b, n_out, biases);
  }
  void keep_transpose(int R) {
    if (wt.data()) return;
    wt = AlignedArray<T>(std::size_t(round_up(n_in, R) * ldt));
    fastmlp::transpose(w, ldw, n_out, n_in, wt.data(), ldt);
  }
};

// What the optimizer keeps for a small network, padded like its weights: there, the single numbers at the end of each
// row would take longer than the copy.
template <class T> class PaddedSlots {
public:
  PaddedSlots() = default;
  PaddedSlots(const std::vector<Layer<T>>& layers, int R, std::size_t n_slots) : n_layers(layers.size()), used(true) {
    std::vector<std::size_t> sizes;
    for (std::size_t s = 0; s < n_slots; ++s)
      for (const Layer<T>& layer : layers) {
        sizes.push_back(std::size_t(round_up(layer.n_out, R) * layer.ldw));
        sizes.push_back(std::size_t(round_up(layer.n_out, R)));
      }
    memory = AlignedPieces<T>(sizes);
  }
  explicit operator bool() const { return used; }
  T* of(std::size_t s, int layer, bool bias) const { return memory[2 * (s * n_layers + std::size_t(layer)) + bias]; }

  void read(const Network& network, const std::vector<Layer<T>>& layers, const std::vector<T*>& slots) const {
    for_each_row(network, layers, slots, [](T* flat, T* here, int n) { std::copy_n(flat, n, here); });
  }
  void write(const Network& network, const std::vector<Layer<T>>& layers, const std::vector<T*>& slots) const {
    for_each_row(network, layers, slots, [](T* flat, T* here, int n) { std::copy_n(here, n, flat); });
  }

private:
  template <class F>
  void for_each_row(const Network& network, const std::vector<Layer<T>>& layers, const std::vector<T*>& slots,
                    F&& copy) const {
    for (std::size_t s = 0; s < slots.size(); ++s)
      for (int l = 0; l < int(n_layers); ++l) {
        const Layer<T>& layer = layers[std::size_t(l)];
        for (std::ptrdiff_t i = 0; i < layer.n_out; ++i)
          copy(slots[s] + network.coefs[l] + i * layer.n_in, of(s, l, false) + i * layer.ldw, layer.n_in);
        copy(slots[s] + network.biases[l], of(s, l, true), layer.n_out);
      }
  }

  std::size_t n_layers = 0;
  bool used = false;
  AlignedPieces<T> memory;
};

// A piece of work of the second phase: `n` neurons from `first` by R inputs from `column`; biases if column < 0.
struct Tile {
  int layer, first, n, column;
};

// Most neurons in a tile: a rest of fewer than half a tile joins the last one.
template <class T> int most_tile_rows(const Kernels<T>& kernels) { return kernels.tile_rows * 3 / 2; }

template <class T> std::vector<Tile> make_tiles(const std::vector<Layer<T>>& layers, const Kernels<T>& kernels) {
  std::vector<Tile> tiles;
  const int bias_tile = 16 * kernels.rows, most = most_tile_rows(kernels);
  for (int l = 0; l < int(layers.size()); ++l) {
    const int n_out = layers[l].n_out;
    for (int row = 0, n; row < n_out; row += n) {
      n = n_out - row < most ? n_out - row : kernels.tile_rows;
      for (int column = 0; column < layers[l].n_in; column += kernels.rows) tiles.push_back({l, row, n, column});
    }
    for (int row = 0; row < n_out; row += bias_tile) tiles.push_back({l, row, std::min(bias_tile, n_out - row), -1});
  }
  return tiles;
}

// The work of the tiles up to each one, for a batch of n_rows: in processor cycles, roughly, multiply-adds, updates,
// and what every tile costs.
template <class T>
std::vector<double> tile_work(const std::vector<Tile>& tiles, const std::vector<Layer<T>>& layers,
                              const Kernels<T>& kernels, double n_rows) {
  const double lanes = kernels.rows / 2;
  std::vector<double> sums(1, 0.0);
  for (const Tile& tile : tiles) {
    const double width = tile.column < 0 ? 1 : std::min(kernels.rows, layers[tile.layer].n_in - tile.column);
    const double cycles_per_row = tile.column < 0 ? 1 / lanes : width > lanes ? 1 : 0.5;
    sums.push_back(sums.back() + tile.n * (n_rows * cycles_per_row + width * 11 / lanes) + 80);
  }
  return sums;
}

// visit(offset in the flat buffer, offset in the tile) for each number of a tile.
template <class F> void for_each_weight(const Network& network, const Tile& tile, int R, F&& visit) {
  if (tile.column < 0) {
    for (int i = 0; i < tile.n; ++i) visit(network.biases[tile.layer] + tile.first + i, i);
    return;
  }
  const std::ptrdiff_t n_out = network.sizes[tile.layer + 1], start = network.coefs[tile.layer] + tile.first;
  const int width = std::min(R, network.sizes[tile.layer] - tile.column);
  for (int j = 0; j < width; ++j)
    for (int i = 0; i < tile.n; ++i) visit(start + (tile.column + j) * n_out + i, i * R + j);
}

// Buffers for up to `capacity` rows of a batch.
template <class T> struct Workspace {
  int capacity = 0;         // rows, a multiple of R
  AlignedPieces<T> panels;  // per layer of units, input first
  AlignedPieces<T> z;       // pre-activations, where kept
  AlignedPieces<T> columns; // per layer of weights: its input, transposed
  std::vector<std::ptrdiff_t> panel_stride;
  std::ptrdiff_t column_stride = 0;
  AlignedArray<T> targets, weights;
  AlignedArray<T> first_deltas, first_gradient; // sparse input only: columns of layer 1's deltas; G[n_in][ldt]
  std::vector<double> panel_loss;
  bool sparse = false, training = false; // without training there is no room for what only gradients need

  Workspace() = default;
  // Sparse input is read where it lies: it gets no panels, but room for the first layer's whole gradient.
  Workspace(const Network& network, const std::vector<Layer<T>>& layers, int R, int rows, bool sparse, bool training)
      : capacity(int(round_up(rows, R))), column_stride(std::ptrdiff_t(capacity) * R), panel_loss(capacity / R),
        sparse(sparse), training(training) {
    std::vector<std::size_t> panel_sizes, z_sizes, column_sizes;
    for (std::size_t l = 0; l < network.sizes.size(); ++l) {
      const std::ptrdiff_t padded = round_up(network.sizes[l], R);
      panel_stride.push_back(l == 0 && sparse ? 0 : padded * R);
      const std::size_t size = l == 0 && sparse ? 0 : std::size_t(capacity) * padded;
      panel_sizes.push_back(size);
      z_sizes.push_back(training && l > 0 && layers[l - 1].keeps_z ? size : 0);
      column_sizes.push_back(training && l < layers.size() ? size : 0);
    }
    panels = AlignedPieces<T>(panel_sizes);
    z = AlignedPieces<T>(z_sizes);
    columns = AlignedPieces<T>(column_sizes);
    if (!training) return;
    targets = AlignedArray<T>(std::size_t(capacity) * network.n_outputs());
    weights = AlignedArray<T>(capacity);
    if (!sparse) return;
    first_deltas = AlignedArray<T>(std::size_t(capacity) * round_up(layers[0].n_out, R));
    first_gradient = AlignedArray<T>(std::size_t(round_up(layers[0].n_in, R) * layers[0].ldt));
  }
};

} // namespace fastmlp
