// The second phase of a step: weights in tiles, each with its gradient over all rows and its share of the optimizer.
#pragma once

#include "propagation.hpp"
#include "threads.hpp"

namespace fastmlp {

// `n` neurons of a layer from `first` by R inputs from `column`; biases if column < 0.
struct Tile {
  int layer, first, n, column;
  bool is_bias() const { return column < 0; }
};

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

template <class T> class Tiles {
public:
  Tiles(const Network& network, const Propagation<T>& propagation)
      : network(network), kernels(propagation.kernels), layers(propagation.layers), R(kernels.rows),
        most_rows(kernels.tile_rows * 3 / 2) {
    const int bias_tile = 16 * R;
    for (int l = 0; l < int(layers.size()); ++l) {
      const int n_out = layers[l].n_out;
      for (int row = 0, n; row < n_out; row += n) { // a rest of fewer than half a tile joins the last one
        n = n_out - row < most_rows ? n_out - row : kernels.tile_rows;
        for (int column = 0; column < layers[l].n_in; column += R) list.push_back({l, row, n, column});
      }
      for (int row = 0; row < n_out; row += bias_tile) list.push_back({l, row, std::min(bias_tile, n_out - row), -1});
    }
    squares.resize(list.size());
    gradient_squares.resize(list.size());
    gradient_starts.assign(1, 0);
    for (const Tile& tile : list) // kernels write whole registers
      gradient_starts.push_back(gradient_starts.back() + std::size_t(round_up(tile.n, R) * (tile.is_bias() ? 1 : R)));
  }

  // --- what the optimizer keeps

  void lend(const std::vector<T*>& lent) {
    slots = lent;
    constexpr std::ptrdiff_t few = 1 << 15; // parameters: above, slots are used where they lie
    padded = PaddedSlots<T>();
    if (network.n_parameters > few) return;
    padded = PaddedSlots<T>(layers, R, slots.size());
    padded.read(network, layers, slots);
  }
  void give_back() {
    if (padded) padded.write(network, layers, slots);
  }

  // Swaps all weights and biases with the last slot.
  void exchange_last_slot() {
    for (const Tile& tile : list) {
      const UpdateTile<T> u = update_tile(tile);
      for (int row = 0; row < u.n; ++row) {
        T* w = u.w + row * u.ldw;
        std::swap_ranges(w, w + u.n_columns, u.slots[slots.size() - 1] + row * u.ld_slots);
      }
    }
  }

  // --- who does what

  // Work of the tiles up to each one, for batches of n_rows: in processor cycles, roughly, multiply-adds, updates, and
  // what every tile costs.
  void plan(double n_rows) {
    const double lanes = R / 2;
    work.assign(1, 0.0);
    for (const Tile& tile : list) {
      const double width = tile.is_bias() ? 1 : columns_of(tile);
      const double cycles_per_row = tile.is_bias() ? 1 / lanes : width > lanes ? 1 : 0.5;
      work.push_back(work.back() + tile.n * (n_rows * cycles_per_row + width * 11 / lanes) + 80);
    }
  }

  // Where this thread's share begins, or that of the thread `offset` after it: equal parts of the work.
  std::size_t first(const Team& team, int offset = 0) const {
    const double before = work.back() * (team.thread + offset) / team.threads;
    return std::size_t(std::lower_bound(work.begin(), work.end(), before) - work.begin());
  }

  template <class F> void for_each_of(const Team& team, F&& use) const {
    const std::size_t end = first(team, 1);
    for (std::size_t i = first(team); i < end; ++i) use(i, list[i]);
  }

  // --- one tile; G holds its gradient: [n][R], or [n] for biases

  std::size_t gradient_size() const { return std::size_t(most_rows) * R; } // room for G
  // Where each tile has room for its own, if all are kept, and room for all.
  std::size_t gradient_start(std::size_t i) const { return gradient_starts[i]; }
  std::size_t all_gradients_size() const { return gradient_starts.back(); }

  // Sum over the rows of the batch; for sparse input `space.first_gradient` holds the first layer's.
  void gradient(const Workspace<T>& space, int n_rows, const Tile& tile, T* G) const {
    const std::ptrdiff_t stride = space.panel_stride[tile.layer + 1];
    const T* delta = space.panels[tile.layer + 1] + std::ptrdiff_t(tile.first) * R;
    if (tile.is_bias()) // units beyond the last have deltas of 0
      return kernels.bias_gradient(delta, stride, (n_rows + R - 1) / R, int(round_up(tile.n, R / 2)), G);
    if (tile.layer == 0 && space.sparse) {
      const std::ptrdiff_t ldt = layers[0].ldt;
      const T* g = space.first_gradient.data() + tile.column * ldt + tile.first;
      return kernels.transpose(g, ldt, columns_of(tile), tile.n, G, R);
    }
    kernels.weight_gradient(delta, stride, space.columns[tile.layer] + tile.column / R * space.column_stride, n_rows,
                            tile.n, columns_of(tile), G);
  }

  // G = (G + alpha w) * scale; biases are not penalised.
  void finish_gradient(std::size_t i, double alpha, double scale, T* G) {
    const Tile& tile = list[i];
    const double sum = kernels.finish_gradient(tile.is_bias() ? T(0) : T(alpha), T(scale), G, update_tile(tile));
    squares[i] = tile.is_bias() ? 0 : sum;
  }

  // The same, and notes the squares of G.
  void keep_gradient(std::size_t i, double alpha, double scale, T* G) {
    finish_gradient(i, alpha, scale, G);
    const UpdateTile<T> u = update_tile(list[i]);
    double lanes[8] = {};
    for (int row = 0; row < u.n; ++row)
      for (int j = 0; j < u.n_columns; ++j) lanes[j % 8] += double(G[row * R + j]) * double(G[row * R + j]);
    gradient_squares[i] = std::accumulate(lanes, lanes + 8, 0.0);
  }

  // Length of the whole gradient, after every tile has noted its squares; always the same sum.
  double gradient_norm() const {
    return std::sqrt(std::accumulate(gradient_squares.begin(), gradient_squares.end(), 0.0));
  }

  // A step of the optimizer with (G + alpha w) * scale; G stays as it is.
  void update(std::size_t i, const Step<T>& step, double alpha, double scale, const T* G) {
    const Tile& tile = list[i];
    const bool bias = tile.is_bias();
    const UpdateRule<T> rule{bias ? step.biases : step.weights, bias ? T(0) : T(alpha), T(scale), step.clip_value,
                             step.ema_decay};
    const double sum = kernels.update(step.optimizer, rule, G, update_tile(tile));
    squares[i] = bias ? 0 : sum;
    const Layer<T>& layer = layers[tile.layer];
    if (!bias && layer.wt.data())
      kernels.transpose(layer.w + tile.first * layer.ldw + tile.column, layer.ldw, tile.n, columns_of(tile),
                        layer.wt.data() + tile.column * layer.ldt + tile.first, layer.ldt);
  }

  void prefetch(std::size_t i) const {
    if (padded || i >= list.size()) return; // small networks are in the cache
    const UpdateTile<T> u = update_tile(list[i]);
    for (int row = 0; row < u.n; ++row) {
      __builtin_prefetch(u.w + row * u.ldw, 1);
      for (std::size_t s = 0; s < slots.size(); ++s) __builtin_prefetch(u.slots[s] + row * u.ld_slots, 1);
    }
  }

  // Of the weights as they were before the last update, always in the same order.
  double sum_of_squares() const {
    double sum = 0;
    for (double s : squares) sum += s;
    return sum;
  }

private:
  int columns_of(const Tile& tile) const { return std::min(R, layers[tile.layer].n_in - tile.column); }

  UpdateTile<T> update_tile(const Tile& tile) const {
    const Layer<T>& layer = layers[tile.layer];
    const std::ptrdiff_t in_layer = tile.is_bias() ? tile.first : tile.first * layer.ldw + tile.column;
    UpdateTile<T> u{};
    u.w = (tile.is_bias() ? layer.b : layer.w) + in_layer;
    u.ldw = layer.ldw;
    u.n = tile.is_bias() ? 1 : tile.n;
    u.n_columns = tile.is_bias() ? tile.n : columns_of(tile);
    if (padded) { // with whole registers
      u.ld_slots = layer.ldw;
      u.n_columns = int(round_up(u.n_columns, R / 2));
      for (std::size_t s = 0; s < slots.size(); ++s) u.slots[s] = padded.of(s, tile.layer, tile.is_bias()) + in_layer;
      return u;
    }
    u.ld_slots = layer.n_in;
    const std::ptrdiff_t at = tile.is_bias() ? network.biases[tile.layer] + tile.first
                                             : network.coefs[tile.layer] + tile.first * u.ld_slots + tile.column;
    for (std::size_t s = 0; s < slots.size(); ++s) u.slots[s] = slots[s] + at;
    return u;
  }

  const Network& network;
  const Kernels<T>& kernels;
  const std::vector<Layer<T>>& layers;
  const int R, most_rows; // neurons in a tile at most
  std::vector<Tile> list;
  std::vector<double> work;    // of the tiles up to each one
  std::vector<double> squares; // of each tile's weights
  std::vector<double> gradient_squares;
  std::vector<std::size_t> gradient_starts;
  std::vector<T*> slots; // lent
  PaddedSlots<T> padded; // of small networks
};

} // namespace fastmlp
