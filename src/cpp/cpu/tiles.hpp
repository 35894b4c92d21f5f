// The second phase of a step: parameters in tiles, each with its gradient over all rows and its share of the optimizer.
//
// Where the batch of a small network has many more units and deltas than there are weights, and work for two threads,
// the gradient is the sum of those of its two halves: two threads need not read each other's rows then, see
// replicas.hpp. Whether a batch is halved depends on the network and on its rows, never on the number of threads, so
// that all get the same sums.
#pragma once

#include "outside_loss.hpp"
#include "propagation.hpp"
#include "threads.hpp"

#include <limits>

namespace fastmlp {

// A part of one array of parameters: of a matrix `n` neurons from `first` by R inputs from `column`; of a vector the
// `n` numbers from `first`.
struct Tile {
  int parameter, first, n, column;
};

// visit(offset in the flat buffer, offset in the tile) for each number of a tile.
template <class T, class F> void for_each_number(const Parameter<T>& parameter, const Tile& tile, int R, F&& visit) {
  if (!parameter.is_matrix()) {
    for (int i = 0; i < tile.n; ++i) visit(parameter.flat + tile.first + i, i);
    return;
  }
  const int width = std::min(R, parameter.columns - tile.column);
  for (int j = 0; j < width; ++j)
    for (int i = 0; i < tile.n; ++i)
      visit(parameter.flat + std::ptrdiff_t(tile.column + j) * parameter.rows + tile.first + i, i * R + j);
}

// What the optimizer keeps for a small network, padded like its parameters: there, the single numbers at the end of
// each row would take longer than the copy.
template <class T> class PaddedSlots {
public:
  PaddedSlots() = default;
  PaddedSlots(const std::vector<Parameter<T>>& parameters, int R, std::size_t n_slots)
      : n_parameters(parameters.size()), used(true) {
    std::vector<std::size_t> sizes;
    for (std::size_t s = 0; s < n_slots; ++s)
      for (const Parameter<T>& p : parameters)
        sizes.push_back(std::size_t(p.is_matrix() ? round_up(p.rows, R) : 1) * p.ld);
    memory = AlignedPieces<T>(sizes);
  }
  explicit operator bool() const { return used; }
  void copy(const PaddedSlots& other) { memory.copy(other.memory); }
  T* of(std::size_t s, std::size_t parameter) const { return memory[s * n_parameters + parameter]; }

  void read(const std::vector<Parameter<T>>& parameters, const std::vector<T*>& slots) const {
    for_each_row(parameters, slots, [](T* flat, T* here, int n) { std::copy_n(flat, n, here); });
  }
  void write(const std::vector<Parameter<T>>& parameters, const std::vector<T*>& slots) const {
    for_each_row(parameters, slots, [](T* flat, T* here, int n) { std::copy_n(here, n, flat); });
  }

private:
  template <class F>
  void for_each_row(const std::vector<Parameter<T>>& parameters, const std::vector<T*>& slots, F&& copy) const {
    for (std::size_t s = 0; s < slots.size(); ++s)
      for (std::size_t i = 0; i < n_parameters; ++i) {
        const Parameter<T>& p = parameters[i];
        for (std::ptrdiff_t row = 0; row < p.rows; ++row)
          copy(slots[s] + p.flat + row * p.columns, of(s, i) + row * p.ld, p.columns);
      }
  }

  std::size_t n_parameters = 0;
  bool used = false;
  AlignedPieces<T> memory;
};

template <class T> class Tiles {
public:
  explicit Tiles(const Propagation<T>& propagation)
      : propagation(propagation), kernels(propagation.kernels), layers(propagation.layers),
        parameters(propagation.parameters), R(kernels.rows), most_rows(kernels.tile_rows * 3 / 2) {
    const int vector_tile = 16 * R;
    for (int i = 0; i < int(parameters.size()); ++i) {
      const Parameter<T>& p = parameters[i];
      if (!p.is_trained()) continue;
      if (!p.is_matrix()) {
        for (int first = 0; first < p.columns; first += vector_tile)
          list.push_back({i, first, std::min(vector_tile, p.columns - first), 0});
        continue;
      }
      for (int row = 0, n; row < p.rows; row += n) { // a rest of fewer than half a tile joins the last one
        n = p.rows - row < most_rows ? p.rows - row : kernels.tile_rows;
        for (int column = 0; column < p.columns; column += R) list.push_back({i, row, n, column});
      }
    }
    place();
    double flops_per_row = 0, read_per_row = 0; // by the gradient: numbers
    for (const Layer<T>& layer : layers) {
      flops_per_row += 6.0 * layer.n_in * layer.n_out;
      read_per_row += layer.n_in + layer.n_out;
    }
    constexpr double least_rows = 64, many = 3; // measured: a gain with two threads and no loss with one
    const double n_parameters = double(propagation.network.n_parameters);
    if (n_parameters <= few_parameters)
      least_halved = std::max({least_rows, worth_a_second_thread / flops_per_row, many * n_parameters / read_per_row});
    squares.resize(list.size());
    gradient_squares.resize(list.size());
    gradient_starts.assign(1, 0);
    for (const Tile& tile : list) // kernels write whole registers
      gradient_starts.push_back(gradient_starts.back() +
                                std::size_t(round_up(tile.n, R) * (parameter_of(tile).is_matrix() ? R : 1)));
  }

  // --- what the optimizer keeps

  void lend(const std::vector<T*>& lent) {
    slots = lent;
    padded = PaddedSlots<T>();
    if (propagation.network.n_parameters <= few_parameters) { // above, slots are used where they lie
      padded = PaddedSlots<T>(parameters, R, slots.size());
      padded.read(parameters, slots);
    }
    place();
  }
  void give_back() {
    if (padded) padded.write(parameters, slots);
  }
  // The same in room of its own, of a small network.
  void copy_slots(const Tiles& other) {
    if (slots.size() != other.slots.size() || !padded) padded = PaddedSlots<T>(parameters, R, other.slots.size());
    slots = other.slots;
    padded.copy(other.padded);
    place();
  }

  // Swaps all weights and biases with the last slot.
  void exchange_last_slot() {
    for (const UpdateTile<T>& u : places) {
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
      const bool is_matrix = parameters[tile.parameter].is_matrix();
      const double width = is_matrix ? columns_of(tile) : 1;
      const double cycles_per_row = is_matrix ? width > lanes ? 1 : 0.5 : 1 / lanes;
      work.push_back(work.back() + tile.n * (n_rows * cycles_per_row + width * 11 / lanes) + 80);
    }
  }

  // Where this thread's share begins, or that of the thread `offset` after it: equal parts of the work.
  std::size_t first(const Team& team, int offset = 0) const {
    const int cut = team.thread + offset;
    if (cut == 0 || cut == team.threads) return cut ? list.size() : 0;
    const double before = work.back() * cut / team.threads;
    return std::size_t(std::lower_bound(work.begin(), work.end(), before) - work.begin());
  }

  template <class F> void for_each_of(const Team& team, F&& use) const {
    const std::size_t end = first(team, 1);
    for (std::size_t i = first(team); i < end; ++i) use(i, list[i]);
  }

  std::size_t size() const { return list.size(); }
  const Parameter<T>& parameter_of(const Tile& tile) const { return parameters[tile.parameter]; }

  // --- one tile; G holds its gradient: [n][R], or [n] of a vector

  std::size_t gradient_size() const { return std::size_t(round_up(most_rows, R)) * R; } // room for G
  // Where each tile has room for its own, if all are kept, and room for all.
  std::size_t gradient_start(std::size_t i) const { return gradient_starts[i]; }
  std::size_t all_gradients_size() const { return gradient_starts.back(); }

  // The panels of the first half of a batch; 0 if it is not halved.
  int first_half(int n_rows) const { return n_rows >= least_halved ? (n_rows + R - 1) / R / 2 : 0; }
  // The most rows that one of two threads has of batches of up to n_rows, if each takes a half.
  int most_rows_apart(int n_rows) const {
    return std::max(n_rows - first_half(n_rows) * R, int(std::min<double>(n_rows, least_halved)));
  }

  // Of tile i, the sum over the n_rows of the batch; for sparse input `space.first_gradient` holds the first layer's.
  // The next tile is fetched meanwhile.
  void gradient(const Workspace<T>& space, int n_rows, std::size_t i, T* G) const {
    if (const int half = first_half(n_rows)) {
      gradient_of(space, 0, half * R, list[i], nullptr, false, G);
      gradient_of(space, half * R, n_rows, list[i], after(i), true, G);
    } else {
      gradient_of(space, 0, n_rows, list[i], after(i), false, G);
    }
  }

  // The same of a batch that is itself a half.
  void gradient_of_half(const Workspace<T>& space, int n_rows, std::size_t i, T* G) const {
    gradient_of(space, 0, n_rows, list[i], nullptr, false, G);
  }

  // G = (G + alpha w) * scale; only matrices are penalised.
  void finish_gradient(std::size_t i, double alpha, double scale, T* G) {
    const bool penalised = parameter_of(list[i]).is_matrix();
    const double sum = kernels.finish_gradient(penalised ? T(alpha) : T(0), T(scale), G, places[i]);
    squares[i] = penalised ? sum : 0;
  }

  // The same, and notes the squares of G.
  void keep_gradient(std::size_t i, double alpha, double scale, T* G) {
    finish_gradient(i, alpha, scale, G);
    const UpdateTile<T>& u = places[i];
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
  void update(std::size_t i, const Step<T>& step, double alpha, double scale, const T* G, bool streams = false) {
    const Tile& tile = list[i];
    const Parameter<T>& p = parameter_of(tile);
    const bool decays = p.is_matrix();
    const UpdateRule<T> rule{decays ? step.weights : step.others, decays ? T(alpha) : T(0), T(scale), step.clip_value,
                             step.ema_decay};
    const Layer<T>& layer = layers[p.layer];
    const bool transposes = p.role == Parameter<T>::weights && layer.wt.data(); // reads them at once
    const double sum = kernels.update(step.optimizer, rule, G, places[i], streams && !transposes);
    squares[i] = decays ? sum : 0;
    if (transposes)
      kernels.transpose(layer.w + tile.first * layer.ldw + tile.column, layer.ldw, tile.n, columns_of(tile),
                        layer.wt.data() + tile.column * layer.ldt + tile.first, layer.ldt);
  }

  // Of the weights as they were before the last update, always in the same order.
  double sum_of_squares() const {
    double sum = 0;
    for (double s : squares) sum += s;
    return sum;
  }

private:
  int columns_of(const Tile& tile) const { return std::min(R, parameters[tile.parameter].columns - tile.column); }

  // The tile to be fetched; none of small networks, which are in the cache.
  const UpdateTile<T>* after(std::size_t i) const { return padded || i + 1 == list.size() ? nullptr : &places[i + 1]; }

  // Sum over the rows from `first`, where a panel begins, to `end`; with `adds` on top of G.
  void gradient_of(const Workspace<T>& space, int first, int end, const Tile& tile, const UpdateTile<T>* next,
                   bool adds, T* G) const {
    using P = Parameter<T>;
    const P& p = parameters[tile.parameter];
    const int above = p.layer + 1, first_panel = first / R, n_panels = (end - first + R - 1) / R;
    const std::ptrdiff_t stride = space.panel_stride[above];
    const T* delta = space.deltas[above] + first_panel * stride + std::ptrdiff_t(tile.first) * R;
    if (p.role == P::bias) // units beyond the last have deltas of 0
      return kernels.bias_gradient(delta, stride, n_panels, int(round_up(tile.n, R / 2)), adds, G);
    if (!p.is_matrix()) {
      const std::ptrdiff_t at = (p.role == P::offset ? p.columns : 0) + tile.first;
      for (int i = 0; i < round_up(tile.n, R / 2); ++i) {
        T sum = 0;
        for (int panel = first_panel; i < tile.n && panel < first_panel + n_panels; ++panel)
          sum += propagation.sums_of(space, above, panel)[at + i];
        G[i] = adds ? G[i] + sum : sum;
      }
      return;
    }
    if (p.layer == 0 && space.sparse) { // all at once, see `sparse_gradient`
      if (adds) return;
      const std::ptrdiff_t ldt = layers[0].ldt;
      const T* g = space.first_gradient.data() + tile.column * ldt + tile.first;
      return kernels.transpose(g, ldt, columns_of(tile), tile.n, G, R);
    }
    if (p.layer == 0 && space.in_place)
      return kernels.weight_gradient(delta, stride, space.row_copy(first) + tile.column, space.ld_rows, end - first,
                                     tile.n, columns_of(tile), adds, next, tile.column == 0, G);
    if (p.role == P::weights && layers[p.layer].is_narrow) {
      const std::ptrdiff_t input_stride = space.panel_stride[p.layer];
      const T* inputs = space.panels[p.layer] + first_panel * input_stride + std::ptrdiff_t(tile.column) * R;
      return kernels.weight_gradient_along_rows(delta, stride, inputs, input_stride, n_panels, tile.n, columns_of(tile),
                                                adds, G);
    }
    const AlignedPieces<T>& columns = p.role == P::projection ? space.z_columns : space.columns;
    const T* inputs = columns[p.layer] + tile.column / R * space.column_stride + std::ptrdiff_t(first) * R;
    kernels.weight_gradient(delta, stride, inputs, R, end - first, tile.n, columns_of(tile), adds, next,
                            tile.column == 0, G);
  }

  void place() {
    places.clear();
    for (const Tile& tile : list) places.push_back(update_tile(tile));
  }

  UpdateTile<T> update_tile(const Tile& tile) const {
    const Parameter<T>& p = parameters[tile.parameter];
    const std::ptrdiff_t here = p.is_matrix() ? tile.first * p.ld + tile.column : tile.first;
    UpdateTile<T> u{};
    u.w = p.data + here;
    u.ldw = p.ld;
    u.n = p.is_matrix() ? tile.n : 1;
    u.n_columns = p.is_matrix() ? columns_of(tile) : tile.n;
    if (padded) { // with whole registers
      u.ld_slots = p.ld;
      u.n_columns = int(round_up(u.n_columns, R / 2));
      for (std::size_t s = 0; s < slots.size(); ++s) u.slots[s] = padded.of(s, std::size_t(tile.parameter)) + here;
      return u;
    }
    u.ld_slots = p.columns;
    const std::ptrdiff_t at =
        p.flat + (p.is_matrix() ? std::ptrdiff_t(tile.first) * p.columns + tile.column : tile.first);
    for (std::size_t s = 0; s < slots.size(); ++s) u.slots[s] = slots[s] + at;
    return u;
  }

  const Propagation<T>& propagation;
  const Kernels<T>& kernels;
  const std::vector<Layer<T>>& layers;
  const std::vector<Parameter<T>>& parameters;
  const int R, most_rows;                                        // neurons in a tile at most
  double least_halved = std::numeric_limits<double>::infinity(); // rows of a batch
  std::vector<Tile> list;
  std::vector<UpdateTile<T>> places; // of the weights and slots of each tile
  std::vector<double> work;          // of the tiles up to each one
  std::vector<double> squares;       // of each tile's weights
  std::vector<double> gradient_squares;
  std::vector<std::size_t> gradient_starts;
  std::vector<T*> slots; // lent
  PaddedSlots<T> padded; // of small networks
};

} // namespace fastmlp
