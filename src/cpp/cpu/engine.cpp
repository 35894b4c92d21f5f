// The CPU engine: a step in two phases.
//
//   phase 1   rows split over threads: gather, forward, loss, backward, panel by panel
//   barrier
//   phase 2   weights split over threads in tiles: gradient of the tile over ALL rows in fixed order, and the
//             optimizer on the tile while it is in the cache
//   barrier
//
// No sum depends on how rows or tiles are split, so results are the same bits for any number of threads. The plain path
// (loss_and_gradient, apply) runs the same kernels and writes the gradient instead of applying it.
#include "../engine.hpp"

#include "blas.hpp"
#include "kernels.hpp"
#include "prediction.hpp"
#include "threads.hpp"

#include <cmath>

namespace fastmlp {

namespace {

template <class T> class CpuEngine final : public Engine<T> {
public:
  CpuEngine(const Network& network, int n_threads)
      : network(network), kernels(fastmlp::kernels<T>()), R(kernels.rows), requested_threads(n_threads),
        propagation(network, kernels), layers(propagation.layers) {
    std::ptrdiff_t per_row = 0; // elements of workspace
    for (int l = 0; l < network.n_layers(); ++l) {
      flops_per_row += 2.0 * network.sizes[l] * network.sizes[l + 1];
      per_row += 2 * round_up(network.sizes[l], R);
    }
    tiles = make_tiles(layers, kernels);
    tile_squares.resize(tiles.size());
    // Larger batches are taken in chunks of this many rows; a function of the network alone, as sums depend on it.
    constexpr std::ptrdiff_t workspace_elements = std::ptrdiff_t(1) << 24;
    const int block = panels_per_block * R;
    max_rows = int(std::clamp<std::ptrdiff_t>(workspace_elements / per_row / block * block, block, 1 << 16));
  }

  std::ptrdiff_t parameter_count() const override { return network.n_parameters; }

  void set_parameters(const T* flat) override {
    for (std::size_t l = 0; l < layers.size(); ++l) layers[l].read(flat + network.coefs[l], flat + network.biases[l]);
  }

  void get_parameters(T* flat) const override {
    for (std::size_t l = 0; l < layers.size(); ++l) layers[l].write(flat + network.coefs[l], flat + network.biases[l]);
  }

  void set_slots(const std::vector<T*>& lent) override {
    slots = lent;
    constexpr std::ptrdiff_t few = 1 << 15; // parameters: above, slots are used where they lie
    padded = PaddedSlots<T>();
    if (network.n_parameters > few) return;
    padded = PaddedSlots<T>(layers, R, slots.size());
    padded.read(network, layers, slots);
  }

  void get_slots() override {
    if (padded) padded.write(network, layers, slots);
  }

  EpochResult epoch(const Dataset<T>& data, const std::int64_t* order, std::int64_t n, std::int64_t batch_size,
                    double alpha, Rule& rule, Poll& poll) override {
    if (std::min(n, batch_size) > max_rows) return Engine<T>::epoch(data, order, n, batch_size, alpha, rule, poll);
    const int n_threads = prepare(std::min(n, batch_size), data.X);
    EpochResult result;
    bool stop = false;
    const long long first_step = rule.t;
    parallel(n_threads, [&](const Team& team) {
      const FlushDenormals mode;
      long long t = first_step;
      std::int64_t number = 0;
      for (std::int64_t first = 0; first < n; first += batch_size) {
        const Batch batch = batch_of(data, order, first, std::min(batch_size, n - first));
        compute_deltas(batch, team);
        if (team.thread == 0 && poll()) result.interrupted = stop = true;
        team.barrier();
        if (stop) break;
        const double weight = sum_of_weights(data, order, first, batch.rows.n);
        if (weight != 0) {
          const std::int64_t next = std::min(first + batch_size, n);
          step(batch, batch_of(data, order, next, std::min(batch_size, n - next)), rule, ++t, alpha, 1 / weight, team);
        }
        // Row losses must be read before the barrier, behind which others start the next batch; squares are ready
        // after.
        const double loss = team.thread == 0 && weight != 0 ? batch_loss(batch) / weight : 0;
        team.barrier();
        ++number;
        if (team.thread == 0 && weight != 0) {
          const double l2 = penalty(alpha) / weight;
          result.loss += loss * double(batch.rows.n);
          result.penalty += l2 * double(batch.rows.n);
          if (std::isnan(loss + l2)) {
            result.failed_batch = number;
            stop = true; // seen by the others after the next barrier
          }
        }
      }
      if (team.thread == 0) rule.t = t;
    });
    return result;
  }

  double loss_and_gradient(const Dataset<T>& data, const std::int64_t* rows, std::int64_t n, double alpha,
                           double& penalty_out, T* gradient) override {
    const int n_threads = prepare(std::min<std::int64_t>(n, max_rows), data.X);
    const double weight = sum_of_weights(data, rows, 0, n);
    double loss = 0;
    const double scale = weight != 0 ? 1 / weight : 0;
    parallel(n_threads, [&](const Team& team) {
      const FlushDenormals mode;
      for (std::int64_t first = 0; first < n; first += max_rows) {
        const Batch batch = batch_of(data, rows, first, std::min<std::int64_t>(max_rows, n - first));
        compute_deltas(batch, team);
        team.barrier();
        if (team.thread == 0) loss += batch_loss(batch);
        write_gradient(batch, alpha, scale, first + batch.rows.n == n, gradient, team);
        team.barrier();
      }
    });
    penalty_out = penalty(alpha) * scale;
    return loss * scale;
  }

  void apply(const T* gradient, Rule& rule) override {
    ++rule.t;
    const int n_threads = choose_threads(requested_threads, 10 * double(network.n_parameters));
    make_scratch(n_threads);
    work = tile_work(tiles, layers, kernels, 0);
    parallel(n_threads, [&](const Team& team) {
      const FlushDenormals mode;
      T c[max_coefficients];
      step_coefficients(rule, rule.t, c);
      for_my_tiles(team, [&](std::size_t, const Tile& tile, T* G) {
        std::fill_n(G, most_tile_rows(kernels) * R, T(0)); // padding has no gradient
        for_each_weight(network, tile, R, [&](std::ptrdiff_t flat, int in_tile) { G[in_tile] = gradient[flat]; });
        update(rule, c, T(0), T(1), G, tile);
      });
    });
  }

  void predict(const T* parameters, const Matrix<T>& X, const std::int64_t* rows, std::int64_t n, int layer,
               T* out) override {
    if (layer == 0) return copy_rows(X, {rows, 0, n}, out);
    const Prediction<T> prediction{network, propagation};
    constexpr int few = 4; // packing the weights for panels costs about as much as so many rows one by one
    if (parameters && n <= few && !X.indptr) return prediction.by_row(parameters, X, {rows, 0, n}, layer, out);
    if (parameters) set_parameters(parameters);
    if (X.indptr) layers[0].keep_transpose(R);
    prediction.by_panel(X, {rows, 0, n}, layer, choose_threads(requested_threads, flops_per_row * double(n)), out);
  }

private:
  struct Batch {
    const Dataset<T>& data;
    RowRange rows;
    int n_panels;
  };

  // Buffers for steps of `rows` rows; returns how many threads to use.
  int prepare(std::int64_t rows, const Matrix<T>& X) {
    const bool sparse = X.indptr != nullptr;
    if (space.capacity < rows || space.sparse != sparse)
      space = Workspace<T>(network, layers, R, int(rows), sparse, true);
    if (sparse) layers[0].keep_transpose(R);
    const int n_threads =
        int(std::min<std::int64_t>(choose_threads(requested_threads, 3 * flops_per_row * double(rows)),
                                   std::max<std::int64_t>((rows + R - 1) / R, 1)));
    make_scratch(n_threads);
    work = tile_work(tiles, layers, kernels, double(rows));
    return n_threads;
  }

  void make_scratch(int n_threads) {
    const std::size_t product = kernels.scratch_size(panels_per_block, network.sizes[1]),
                      tile = std::size_t(most_tile_rows(kernels)) * R;
    while (int(scratch.size()) < n_threads) scratch.emplace_back(std::max(product, tile));
  }

  // --- phase 1 -------------------------------------------------------------------------------------------------------

  Batch batch_of(const Dataset<T>& data, const std::int64_t* numbers, std::int64_t first, std::int64_t n) const {
    return {data, {numbers, first, n}, int((n + R - 1) / R)};
  }

  void compute_deltas(const Batch& batch, const Team& team) {
    const int end = int(part(batch.n_panels, team, 1));
    for (int p = int(part(batch.n_panels, team)); p < end; p += panels_per_block)
      compute_block(batch, p, std::min(panels_per_block, end - p), scratch[team.thread].data());
  }

  void compute_block(const Batch& batch, int first, int count, T* scratch) {
    const int last = network.n_layers();
    for (int panel = first; panel < first + count; ++panel) {
      propagation.enter_targets(space, batch.data, batch.rows, panel);
      propagation.enter(space, batch.data.X, batch.rows, panel, panel, scratch);
    }
    for (int l = 0; l < last; ++l) {
      propagation.forward(space, l, first, count, scratch);
      if (l + 1 < last) to_columns(l + 1, first, count, space.columns[l + 1]);
    }
    const int m = network.n_outputs();
    for (int panel = first; panel < first + count; ++panel)
      space.panel_loss[panel] =
          kernels.loss(network.loss, space.panels[last] + panel * space.panel_stride[last],
                       space.targets.data() + std::ptrdiff_t(panel) * m * R, space.weights.data() + panel * R, m);
    for (int l = last - 1; l > 0; --l) propagation.backward(space, l, first, count, scratch);
    if (space.sparse) to_columns(1, first, count, space.first_deltas.data());
  }

  void to_columns(int layer, int first, int count, T* columns) const {
    for (int panel = first; panel < first + count; ++panel)
      kernels.panel_to_columns(space.panels[layer] + panel * space.panel_stride[layer], network.sizes[layer],
                               columns + std::ptrdiff_t(panel) * R * R, space.column_stride);
  }

  // --- phase 2 -------------------------------------------------------------------------------------------------------

  // Where this thread's share of the tiles begins, or that of the thread `offset` after it: equal parts of the work.
  std::size_t first_tile(const Team& team, int offset = 0) const {
    const double before = work.back() * (team.thread + offset) / team.threads;
    return std::size_t(std::lower_bound(work.begin(), work.end(), before) - work.begin());
  }

  template <class F> void for_my_tiles(const Team& team, F&& use) {
    const std::size_t end = first_tile(team, 1);
    for (std::size_t i = first_tile(team); i < end; ++i) use(i, tiles[i], scratch[team.thread].data());
  }

  // Sparse input: the first layer's gradient, all tiles at once, split over threads by neurons.
  void sparse_gradient(const Batch& batch, const Team& team) {
    if (!space.sparse) return;
    const Matrix<T>& X = batch.data.X;
    const int blocks = int(round_up(layers[0].n_out, R)) / R;
    const int end = int(part(blocks, team, 1));
    for (int block = int(part(blocks, team)); block < end; ++block)
      kernels.weight_gradient_sparse(
          {X.data, X.indices, X.indptr, batch.rows.numbers, batch.rows.first, int(batch.rows.n)},
          space.first_deltas.data() + block * space.column_stride, block, space.first_gradient.data(), layers[0].ldt,
          layers[0].n_in);
    team.barrier();
  }

  // Gradient of a tile's sum over the batch: G[n][R], or [n] for biases.
  void tile_gradient(const Batch& batch, const Tile& tile, T* G) const {
    const std::ptrdiff_t stride = space.panel_stride[tile.layer + 1];
    const T* delta = space.panels[tile.layer + 1] + std::ptrdiff_t(tile.first) * R;
    if (tile.column < 0) // units beyond the last have deltas of 0
      return kernels.bias_gradient(delta, stride, batch.n_panels, int(round_up(tile.n, R / 2)), G);
    const int width = std::min(R, layers[tile.layer].n_in - tile.column);
    if (tile.layer == 0 && space.sparse) {
      const std::ptrdiff_t ldt = layers[0].ldt;
      const T* g = space.first_gradient.data() + tile.column * ldt + tile.first;
      return kernels.transpose(g, ldt, width, tile.n, G, R);
    }
    kernels.weight_gradient(delta, stride, space.columns[tile.layer] + tile.column / R * space.column_stride,
                            int(batch.rows.n), tile.n, width, G);
  }

  UpdateTile<T> update_tile(const Tile& tile) const {
    const Layer<T>& layer = layers[tile.layer];
    const bool bias = tile.column < 0;
    UpdateTile<T> u{};
    const std::ptrdiff_t in_layer = bias ? tile.first : tile.first * layer.ldw + tile.column;
    u.w = (bias ? layer.b : layer.w) + in_layer;
    u.ldw = layer.ldw;
    u.n = bias ? 1 : tile.n;
    u.n_columns = bias ? tile.n : std::min(R, layer.n_in - tile.column);
    if (padded) { // with whole registers
      u.ld_slots = layer.ldw;
      u.n_columns = int(round_up(u.n_columns, R / 2));
      for (std::size_t s = 0; s < slots.size(); ++s) u.slots[s] = padded.of(s, tile.layer, bias) + in_layer;
      return u;
    }
    u.ld_slots = layer.n_in;
    const std::ptrdiff_t at = bias ? network.biases[tile.layer] + tile.first
                                   : network.coefs[tile.layer] + tile.first * u.ld_slots + tile.column;
    for (std::size_t s = 0; s < slots.size(); ++s) u.slots[s] = slots[s] + at;
    return u;
  }

  void prefetch(const Tile& tile) const {
    const UpdateTile<T> u = update_tile(tile);
    for (int row = 0; row < u.n; ++row) {
      __builtin_prefetch(u.w + row * u.ldw, 1);
      for (std::size_t s = 0; s < slots.size(); ++s) __builtin_prefetch(u.slots[s] + row * u.ld_slots, 1);
    }
  }

  void prefetch_rows(const Batch& batch, std::int64_t first, std::int64_t end) const {
    const Matrix<T>& X = batch.data.X;
    constexpr int line = 64 / int(sizeof(T));
    for (std::int64_t row = first; row < end; ++row) {
      const T* x = X.data + batch.rows[row] * X.stride;
      for (int column = 0; column < X.n_columns; column += line) __builtin_prefetch(x + column, 0, 2);
    }
  }

  double update(const Rule& rule, const T* c, T alpha, T scale, const T* G, const Tile& tile) {
    const double squares = kernels.update(rule.optimizer, c, alpha, scale, G, update_tile(tile));
    const Layer<T>& layer = layers[tile.layer];
    if (tile.column >= 0 && layer.wt.data())
      kernels.transpose(layer.w + tile.first * layer.ldw + tile.column, layer.ldw, tile.n,
                        std::min(R, layer.n_in - tile.column), layer.wt.data() + tile.column * layer.ldt + tile.first,
                        layer.ldt);
    return squares;
  }

  void step(const Batch& batch, const Batch& next, const Rule& rule, long long t, double alpha, double scale,
            const Team& team) {
    T c[max_coefficients];
    step_coefficients(rule, t, c);
    sparse_gradient(batch, team);
    // With each tile the next one is fetched, and some of the rows that this thread will gather for the next batch.
    const std::int64_t n_tiles = std::int64_t(first_tile(team, 1) - first_tile(team));
    std::int64_t row = part(next.n_panels, team) * R;
    const std::int64_t end = next.data.X.indptr ? row : std::min(part(next.n_panels, team, 1) * R, next.rows.n),
                       n_rows = n_tiles ? (end - row + n_tiles - 1) / n_tiles : 0;
    for_my_tiles(team, [&](std::size_t i, const Tile& tile, T* G) {
      if (i + 1 < tiles.size()) prefetch(tiles[i + 1]);
      prefetch_rows(next, row, std::min(row + n_rows, end));
      row += n_rows;
      tile_gradient(batch, tile, G);
      const bool bias = tile.column < 0; // biases are not penalised
      const double squares = update(rule, c, bias ? T(0) : T(alpha), T(scale), G, tile);
      tile_squares[i] = bias ? 0 : squares;
    });
  }

  void write_gradient(const Batch& batch, double alpha, double scale, bool last, T* gradient, const Team& team) {
    sparse_gradient(batch, team);
    for_my_tiles(team, [&](std::size_t i, const Tile& tile, T* G) {
      tile_gradient(batch, tile, G);
      if (batch.rows.first > 0)
        for_each_weight(network, tile, R, [&](std::ptrdiff_t flat, int in_tile) { G[in_tile] += gradient[flat]; });
      if (last) {
        const bool bias = tile.column < 0;
        const double squares = kernels.finish_gradient(bias ? T(0) : T(alpha), T(scale), G, update_tile(tile));
        tile_squares[i] = bias ? 0 : squares;
      }
      for_each_weight(network, tile, R, [&](std::ptrdiff_t flat, int in_tile) { gradient[flat] = G[in_tile]; });
    });
  }

  // --- sums, always in the same order --------------------------------------------------------------------------------

  double batch_loss(const Batch& batch) const {
    double sum = 0;
    for (int p = 0; p < batch.n_panels; ++p) sum += space.panel_loss[p];
    return sum;
  }

  double penalty(double alpha) const {
    double sum = 0;
    for (double squares : tile_squares) sum += squares;
    return 0.5 * alpha * sum;
  }

  const Network network;
  const Kernels<T>& kernels;
  const int R;
  const int requested_threads;
  double flops_per_row = 0;
  int max_rows = 0;
  Propagation<T> propagation;
  std::vector<Layer<T>>& layers; // of `propagation`
  std::vector<T*> slots;         // lent
  PaddedSlots<T> padded;         // of small networks
  std::vector<Tile> tiles;
  std::vector<double> work;         // of the tiles up to each one
  std::vector<double> tile_squares; // sum of w^2 per tile, before the last step
  Workspace<T> space;
  std::vector<AlignedArray<T>> scratch; // per thread
};

} // namespace

template <class T> std::unique_ptr<Engine<T>> make_cpu_engine(const Network& network, int n_threads) {
  if (use_blas()) return make_blas_engine<T>(network);
  return std::make_unique<CpuEngine<T>>(network, n_threads);
}
template std::unique_ptr<Engine<float>> make_cpu_engine(const Network&, int);
template std::unique_ptr<Engine<double>> make_cpu_engine(const Network&, int);

} // namespace fastmlp
