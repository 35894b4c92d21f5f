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
#include "tiles.hpp"

#include <cmath>

namespace fastmlp {

namespace {

template <class T> class CpuEngine final : public Engine<T> {
public:
  CpuEngine(const Network& network, int n_threads)
      : network(network), kernels(fastmlp::kernels<T>()), R(kernels.rows), requested_threads(n_threads),
        propagation(this->network, kernels), layers(propagation.layers), tiles(propagation) {
    std::ptrdiff_t per_row = 0; // elements of workspace
    for (int l = 0; l < network.n_layers(); ++l) {
      flops_per_row += 2.0 * network.sizes[l] * network.sizes[l + 1];
      per_row += 2 * round_up(network.sizes[l], R);
    }
    // Larger batches are taken in chunks of this many rows; a function of the network alone, as sums depend on it.
    constexpr std::ptrdiff_t workspace_elements = std::ptrdiff_t(1) << 24;
    const int block = panels_per_block * R;
    max_rows = int(std::clamp<std::ptrdiff_t>(workspace_elements / per_row / block * block, block, 1 << 16));
    for (const Layer<T>& layer : layers)
      if (layer.statistics == Statistics::of_units) cuts.push_back(int(&layer - layers.data()) + 1);
    if (cuts.size() > 1) max_rows = 1 << 30; // statistics are those of the whole batch
    cuts.push_back(network.n_layers());
    unit_sums = AlignedArray<T>(
        cuts.size() > 2 ? 2 * std::size_t(*std::max_element(network.sizes.begin(), network.sizes.end())) : 0);
  }

  std::ptrdiff_t parameter_count() const override { return network.n_parameters; }

  void set_parameters(const T* flat) override { propagation.read(flat); }
  void get_parameters(T* flat) const override { propagation.write(flat); }

  void set_slots(const std::vector<T*>& lent) override { tiles.lend(lent); }
  void get_slots() override { tiles.give_back(); }

  EpochResult epoch(const Dataset<T>& data, const std::int64_t* order, std::int64_t n, std::int64_t batch_size,
                    double alpha, Rule& rule, Poll& poll) override {
    if (std::min(n, batch_size) > max_rows) return Engine<T>::epoch(data, order, n, batch_size, alpha, rule, poll);
    const int n_threads = prepare(std::min(n, batch_size), data.X);
    EpochResult result;
    std::int64_t next = 0;
    while (next < n && result.failed_batch == 0) {
      if (poll()) {
        result.interrupted = true;
        break;
      }
      next = some_steps(data, order, next, n, batch_size, alpha, rule, n_threads, result);
    }
    return result;
  }

  double loss_and_gradient(const Dataset<T>& data, const std::int64_t* rows, std::int64_t n, double alpha,
                           RandomKey dropout, double& penalty_out, T* gradient) override {
    const int n_threads = prepare(std::min<std::int64_t>(n, max_rows), data.X);
    const double weight = sum_of_weights(data, rows, 0, n);
    double loss = 0;
    const double scale = weight != 0 ? 1 / weight : 0;
    std::fill(gradient + network.n_trainable, gradient + network.n_parameters, T(0));
    parallel(n_threads, [&](const Team& team) {
      const FlushDenormals mode;
      for (std::int64_t first = 0; first < n; first += max_rows) {
        const Batch batch = batch_of(data, rows, first, std::min<std::int64_t>(max_rows, n - first));
        compute_deltas(batch, first > 0 ? dropout.of(std::uint64_t(first)) : dropout, team);
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
    tiles.plan(0);
    parallel(n_threads, [&](const Team& team) {
      const FlushDenormals mode;
      const Step<T> step(rule, rule.t);
      T* G = scratch[team.thread].data();
      tiles.for_each_of(team, [&](std::size_t i, const Tile& tile) {
        std::fill_n(G, tiles.gradient_size(), T(0)); // padding has no gradient
        for_each_number(tiles.parameter_of(tile), tile, R,
                        [&](std::ptrdiff_t flat, int in_tile) { G[in_tile] = gradient[flat]; });
        tiles.update(i, rule.optimizer, step, 0, 1, G);
      });
    });
  }

  void predict(const T* parameters, const Matrix<T>& X, const std::int64_t* rows, std::int64_t n, int layer,
               T* out) override {
    if (layer == 0) return copy_rows(X, {rows, 0, n}, out);
    if (parameters && n <= few_rows && !X.indptr && network.is_plain())
      return predict_by_row(network, kernels, parameters, X, {rows, 0, n}, layer, out);
    if (parameters) set_parameters(parameters);
    if (X.indptr) layers[0].keep_transpose(R);
    propagation.use_running_statistics();
    const PanelPrediction<T> prediction{network, propagation};
    prediction.run(X, {rows, 0, n}, layer, choose_threads(requested_threads, flops_per_row * double(n)), out);
  }

private:
  struct Batch {
    const Dataset<T>& data;
    RowRange rows;
    int n_panels;
    double weight; // sum of the rows' weights
  };

  // Buffers for steps of `rows` rows; returns how many threads to use.
  int prepare(std::int64_t rows, const Matrix<T>& X) {
    const bool sparse = X.indptr != nullptr;
    if (sparse && network.dropout[0] > 0) throw std::invalid_argument("dropout of the inputs needs a dense X");
    if (space.capacity < rows || space.sparse != sparse)
      space = Workspace<T>(network, layers, R, int(rows), sparse, true);
    if (sparse) layers[0].keep_transpose(R);
    const int n_threads =
        int(std::min<std::int64_t>(choose_threads(requested_threads, 3 * flops_per_row * double(rows)),
                                   std::max<std::int64_t>((rows + R - 1) / R, 1)));
    make_scratch(n_threads);
    tiles.plan(double(rows));
    return n_threads;
  }

  void make_scratch(int n_threads) {
    const std::size_t size = std::max(propagation.scratch_size(), tiles.gradient_size());
    while (int(scratch.size()) < n_threads) scratch.emplace_back(size);
  }

  // Steps for some milliseconds in one region, from the batch that begins with row `next`; returns where the batch
  // after them begins. Between regions the number of threads may change, and the caller may ask whether to stop.
  std::int64_t some_steps(const Dataset<T>& data, const std::int64_t* order, std::int64_t next, std::int64_t n,
                          std::int64_t batch_size, double alpha, Rule& rule, int n_threads, EpochResult& result) {
    constexpr double seconds = 0.02;
    const std::int64_t look =
        1 + std::int64_t(2e6 / (3 * flops_per_row * double(batch_size))); // steps from look to look
    const double start = wall_seconds();
    bool end = false, failed = false; // written before a step's first barrier, read between its two
    parallel(n_threads, [&](const Team& team) {
      const FlushDenormals mode;
      for (std::int64_t first = next, t = rule.t; first < n; first += batch_size) {
        const Batch batch = batch_of(data, order, first, std::min(batch_size, n - first));
        compute_deltas(batch, rule.dropout_key(t + 1), team);
        const std::int64_t number = first / batch_size;
        if (team.thread == 0 && number % look == 0) end = wall_seconds() - start > seconds;
        team.barrier();
        if (failed) break;
        const bool last = end;
        const double weight = batch.weight;
        if (weight != 0) {
          const std::int64_t after = std::min(first + batch_size, n);
          step(batch, batch_of(data, order, after, std::min(batch_size, n - after)), rule, ++t, alpha, 1 / weight,
               team);
        }
        // Row losses must be read before the barrier, behind which others start the next batch; squares are ready
        // after.
        const double loss = team.thread == 0 && weight != 0 ? batch_loss(batch) / weight : 0;
        team.barrier();
        if (team.thread == 0) {
          const double l2 = weight != 0 ? penalty(alpha) / weight : 0;
          result.loss += loss * double(batch.rows.n);
          result.penalty += l2 * double(batch.rows.n);
          if (std::isnan(loss + l2)) {
            result.failed_batch = number + 1;
            failed = true;
          }
          rule.t = t;
          next = first + batch_size;
        }
        if (last) break;
      }
    });
    return next;
  }

  // --- phase 1 -------------------------------------------------------------------------------------------------------

  Batch batch_of(const Dataset<T>& data, const std::int64_t* numbers, std::int64_t first, std::int64_t n) const {
    return {data, {numbers, first, n}, int((n + R - 1) / R), sum_of_weights(data, numbers, first, n)};
  }

  // Block by block through all layers and back. Statistics of units, which need all rows, cut this into pieces.
  void compute_deltas(const Batch& batch, RandomKey dropout, const Team& team) {
    const int last = int(cuts.size()) - 1;
    const auto for_each_block = [&](auto&& visit) {
      const int end = int(part(batch.n_panels, team, 1));
      for (int p = int(part(batch.n_panels, team)); p < end; p += panels_per_block)
        visit(Block<T>{p, std::min(panels_per_block, end - p), scratch[team.thread].data(), dropout});
    };
    for (int i = 0; i < last; ++i) {
      for_each_block([&](const Block<T>& block) {
        if (i == 0) enter(batch, block);
        forward(block, cuts[i], cuts[i + 1]);
        if (i + 1 < last) return moments(block, cuts[i + 1]);
        loss(block);
        backward(block, cuts[i + 1], cuts[i]);
      });
      if (i + 1 < last) combine_moments(batch, cuts[i + 1], team);
    }
    for (int i = last - 1; i > 0; --i) {
      combine_gradients(batch, cuts[i], team);
      for_each_block([&](const Block<T>& block) {
        propagation.centre(space, cuts[i], block, unit_sums.data(), unit_sums.data() + network.sizes[cuts[i]]);
        backward(block, cuts[i], cuts[i - 1]);
      });
    }
  }

  void enter(const Batch& batch, const Block<T>& block) {
    for (int panel = block.first; panel < block.first + block.count; ++panel) {
      propagation.enter_targets(space, batch.data, batch.rows, panel);
      propagation.enter(space, batch.data.X, batch.rows, panel, panel, block);
    }
    if (cuts.size() == 2) return;
    const T share = T(batch.weight != 0 ? 1 / batch.weight : 0);
    for (int i = block.first * R; i < (block.first + block.count) * R; ++i)
      space.shares.data()[i] = space.weights.data()[i] * share;
  }

  // From the sums of layer `from`, or the input, to those of layer `to`.
  void forward(const Block<T>& block, int from, int to) {
    for (int l = from; l < to; ++l) {
      propagation.activate(space, l, block);
      if (l > 0) propagation.to_columns(space, space.panels[l], l, block, space.columns[l]);
      propagation.forward(space, l, block);
    }
  }

  void loss(const Block<T>& block) {
    const RowLoss loss = network.row_loss();
    for (int panel = block.first; panel < block.first + block.count; ++panel)
      space.panel_loss[panel] = kernels.loss(loss, propagation.panel_of(space, network.n_layers(), panel),
                                             space.targets.data() + std::ptrdiff_t(panel) * loss.n_targets * R,
                                             space.weights.data() + panel * R);
  }

  // From the deltas of layer `from` to those of layer `to`, or of the first.
  void backward(const Block<T>& block, int from, int to) {
    for (int l = from - 1; l > 0 && l >= to; --l) propagation.backward(space, l, block);
    if (to == 0 && space.sparse) propagation.to_columns(space, space.panels[1], 1, block, space.first_deltas.data());
  }

  // --- statistics of units over the rows of a batch, each thread for some units; sums in the order of the panels
  // ------

  void moments(const Block<T>& block, int l) {
    for (int panel = block.first; panel < block.first + block.count; ++panel)
      kernels.moments(space.z[l] + panel * space.panel_stride[l], space.weights.data() + panel * R, network.sizes[l],
                      propagation.sums_of(space, l, panel));
  }

  // Chan, Golub, LeVeque 1979: moments of the panels to those of the batch.
  void combine_moments(const Batch& batch, int l, const Team& team) {
    team.barrier();
    Layer<T>& layer = layers[l - 1];
    const int n = layer.n_out, end = int(part(n, team, 1));
    const double weight = batch.weight != 0 ? batch.weight : 1, others = weight > 1 ? weight - 1 : weight;
    const auto over_panels = [&](auto&& f) {
      double sum = 0;
      for (int panel = 0; panel < batch.n_panels; ++panel) {
        double share = 0;
        for (int i = 0; i < R; ++i) share += double(space.weights.data()[panel * R + i]);
        sum += f(propagation.sums_of(space, l, panel), share);
      }
      return sum;
    };
    for (int j = int(part(n, team)); j < end; ++j) {
      const double mean = over_panels([&](const T* m, double share) { return share * double(m[j]); }) / weight;
      const double squares = over_panels([&](const T* m, double share) {
        return double(m[n + j]) + share * (double(m[j]) - mean) * (double(m[j]) - mean);
      });
      layer.unit_statistics.data()[j] = T(mean);
      layer.unit_statistics.data()[n + j] = T(1 / std::sqrt(squares / weight + normalization_epsilon));
      layer.running_mean[j] += T(running_share * (mean - double(layer.running_mean[j])));
      layer.running_variance[j] += T(running_share * (squares / others - double(layer.running_variance[j])));
    }
    team.barrier();
  }

  // What `centre` takes off: the sums over the batch of the deltas, and of the deltas times the normalised z.
  void combine_gradients(const Batch& batch, int l, const Team& team) {
    team.barrier();
    const Layer<T>& layer = layers[l - 1];
    const int n = layer.n_out, end = int(part(n, team, 1));
    for (int j = int(part(n, team)); j < end; ++j) {
      T with_z = 0, alone = 0;
      for (int panel = 0; panel < batch.n_panels; ++panel) {
        with_z += propagation.sums_of(space, l, panel)[j];
        alone += propagation.sums_of(space, l, panel)[n + j];
      }
      unit_sums.data()[j] = alone * layer.scale[j];
      unit_sums.data()[n + j] = with_z * layer.scale[j];
    }
    team.barrier();
  }

  // --- phase 2 -------------------------------------------------------------------------------------------------------

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

  // Rows that will be gathered soon.
  void prefetch(const Batch& batch, std::int64_t first, std::int64_t end) const {
    const Matrix<T>& X = batch.data.X;
    constexpr int line = 64 / int(sizeof(T));
    for (std::int64_t row = first; row < end; ++row) {
      const T* x = X.data + batch.rows[row] * X.stride;
      for (int column = 0; column < X.n_columns; column += line) __builtin_prefetch(x + column, 0, 2);
    }
  }

  // With each tile the next one is fetched, and some of the rows that this thread will gather for the next batch.
  void step(const Batch& batch, const Batch& next, const Rule& rule, long long t, double alpha, double scale,
            const Team& team) {
    const Step<T> step(rule, t);
    sparse_gradient(batch, team);
    const std::int64_t n_tiles = std::int64_t(tiles.first(team, 1) - tiles.first(team));
    std::int64_t row = part(next.n_panels, team) * R;
    const std::int64_t end = next.data.X.indptr ? row : std::min(part(next.n_panels, team, 1) * R, next.rows.n),
                       n_rows = n_tiles ? (end - row + n_tiles - 1) / n_tiles : 0;
    T* G = scratch[team.thread].data();
    tiles.for_each_of(team, [&](std::size_t i, const Tile& tile) {
      tiles.prefetch(i + 1);
      prefetch(next, row, std::min(row + n_rows, end));
      row += n_rows;
      tiles.gradient(space, int(batch.rows.n), tile, G);
      tiles.update(i, rule.optimizer, step, alpha, scale, G);
    });
  }

  void write_gradient(const Batch& batch, double alpha, double scale, bool last, T* gradient, const Team& team) {
    sparse_gradient(batch, team);
    T* G = scratch[team.thread].data();
    tiles.for_each_of(team, [&](std::size_t i, const Tile& tile) {
      const Parameter<T>& p = tiles.parameter_of(tile);
      tiles.gradient(space, int(batch.rows.n), tile, G);
      if (batch.rows.first > 0)
        for_each_number(p, tile, R, [&](std::ptrdiff_t flat, int in_tile) { G[in_tile] += gradient[flat]; });
      if (last) tiles.finish_gradient(i, alpha, scale, G);
      for_each_number(p, tile, R, [&](std::ptrdiff_t flat, int in_tile) { gradient[flat] = G[in_tile]; });
    });
  }

  // --- sums, always in the same order --------------------------------------------------------------------------------

  double batch_loss(const Batch& batch) const {
    double sum = 0;
    for (int p = 0; p < batch.n_panels; ++p) sum += space.panel_loss[p];
    return sum;
  }

  double penalty(double alpha) const { return 0.5 * alpha * tiles.sum_of_squares(); }

  const Network network;
  const Kernels<T>& kernels;
  const int R;
  const int requested_threads;
  double flops_per_row = 0;
  int max_rows = 0;
  Propagation<T> propagation;
  std::vector<Layer<T>>& layers; // of `propagation`
  std::vector<int> cuts{0};      // layers whose statistics need all rows of a batch, between the input and the output
  AlignedArray<T> unit_sums;
  Tiles<T> tiles;
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
