// The CPU engine: a step in two phases.
//
//   phase 1   rows split over threads: gather, forward, loss, backward, panel by panel
//   barrier
//   phase 2   weights split over threads in tiles: gradient of the tile over ALL rows in fixed order, and the
//             optimizer on the tile while it is in the cache
//   barrier
//
// Two threads on a small network go another way (replicas.hpp). No sum depends on how rows or tiles are split, so
// results are the same bits for any number of threads. The plain path (loss_and_gradient, apply) runs the same kernels
// and writes the gradient instead of applying it.
#include "../engine.hpp"

#include "blas.hpp"
#include "deltas.hpp"
#include "input_gradient.hpp"
#include "kernels.hpp"
#include "prediction.hpp"
#include "replicas.hpp"
#include "shared_lines.hpp"
#include "team_size.hpp"

#include <cmath>

namespace fastmlp {

namespace {

template <class T> class CpuEngine final : public Engine<T> {
public:
  CpuEngine(const Network& network, int n_threads)
      : network(network), kernels(kernels_for<T>(network.n_parameters)), R(kernels.rows), requested_threads(n_threads),
        own(this->network, kernels) {
    std::ptrdiff_t per_row = 0; // elements of workspace
    for (int l = 0; l < network.n_layers(); ++l) {
      flops_per_row += 2.0 * network.sizes[l] * network.sizes[l + 1];
      per_row += 2 * round_up(network.sizes[l], R);
    }
    // Larger batches are taken in chunks of this many rows; a function of the network alone, as sums depend on it.
    constexpr std::ptrdiff_t workspace_elements = std::ptrdiff_t(1) << 24;
    const int block = panels_per_block * R;
    max_rows = int(std::clamp<std::ptrdiff_t>(workspace_elements / per_row / block * block, block, 1 << 16));
    if (deltas.needs_all_rows()) max_rows = 1 << 30;
  }

  std::ptrdiff_t parameter_count() const override { return network.n_parameters; }

  void set_parameters(const T* flat) override {
    propagation.read(flat);
    are_alike = false;
  }
  void get_parameters(T* flat) const override { propagation.write(flat); }

  void set_slots(const std::vector<T*>& lent) override {
    tiles.lend(lent);
    are_alike = false;
  }
  void get_slots() override { tiles.give_back(); }
  void exchange_average() override {
    tiles.exchange_last_slot();
    are_alike = false;
  }

  EpochResult epoch(const Dataset<T>& data, const std::int64_t* order, std::int64_t n, std::int64_t batch_size,
                    double alpha, Rule& rule, Poll& poll) override {
    if (std::min(n, batch_size) > max_rows) return Engine<T>::epoch(data, order, n, batch_size, alpha, rule, poll);
    if (rule.clip_norm < infinity && !gradients.data()) gradients = AlignedArray<T>(tiles.all_gradients_size());
    const int n_threads = prepare(std::min(n, batch_size), data, std::min(n, batch_size));
    EpochResult result;
    Stretch<T> steps{data, order, n, batch_size, alpha, rule, result};
    while (steps.next < n && result.failed_batch == 0 && !result.interrupted) {
      if (poll()) {
        result.interrupted = true;
        break;
      }
      some_steps(steps, n_threads);
      result.interrupted = data.loss && data.loss->failed();
    }
    return result;
  }

  double loss_and_gradient(const Dataset<T>& data, const std::int64_t* rows, std::int64_t n, double alpha,
                           RandomKey dropout, double& penalty_out, T* gradient) override {
    using Way = typename Deltas<T>::Way;
    const int n_threads = prepare(std::min<std::int64_t>(n, max_rows), data, n);
    const Batch<T> all(data, {rows, 0, n}, R);
    const double scale = all.weight != 0 ? 1 / all.weight : 0;
    const bool in_parts = n > max_rows;
    double loss = 0;
    std::fill(gradient + network.n_trainable, gradient + network.n_parameters, T(0));
    const auto steps = [&](const Team& team) {
      const FlushDenormals mode;
      const auto go = [&](const Batch<T>& batch, Way way) {
        const RandomKey key = batch.rows.first > 0 ? dropout.of(std::uint64_t(batch.rows.first)) : dropout;
        const bool went = deltas.compute(batch, key, scratch[team.thread].data(), team, way);
        if (went) team.barrier();
        return went;
      };
      const auto for_each_part = [&](auto&& visit) {
        for (std::int64_t first = 0; first < n; first += max_rows)
          visit(Batch<T>(data, {rows, first, std::min<std::int64_t>(max_rows, n - first)}, R));
      };
      const bool asks_before = data.loss && in_parts;
      if (asks_before) for_each_part([&](const Batch<T>& batch) { go(batch, Way::to_outputs); });
      if (asks_before && !deltas.ask(all, team)) return;
      for_each_part([&](const Batch<T>& batch) {
        if (!go(batch, asks_before ? Way::with_known_gradients : Way::there_and_back)) return;
        if (team.thread == 0) loss += deltas.sum_of_losses(batch);
        write_gradient(batch, alpha, scale, batch.rows.first + batch.rows.n == n, gradient, team);
        team.barrier();
      });
    };
    parallel(n_threads, steps, !data.loss);
    penalty_out = penalty(alpha) * scale;
    return loss * scale;
  }

  void apply(const T* gradient, Rule& rule) override {
    ++rule.t;
    const int n_threads = choose_threads(requested_threads, 10 * double(network.n_parameters));
    make_scratch(n_threads);
    tiles.plan(0);
    are_alike = false;
    parallel(n_threads, [&](const Team& team) {
      const FlushDenormals mode;
      const Step<T> step(rule, rule.t);
      T* G = scratch[team.thread].data();
      tiles.for_each_of(team, [&](std::size_t i, const Tile& tile) {
        std::fill_n(G, tiles.gradient_size(), T(0)); // padding has no gradient
        for_each_number(tiles.parameter_of(tile), tile, R,
                        [&](std::ptrdiff_t flat, int in_tile) { G[in_tile] = gradient[flat]; });
        tiles.update(i, step, 0, 1, G);
      });
    });
  }

  void predict(const T* parameters, const Matrix<T>& X, const std::int64_t* rows, std::int64_t n, int layer,
               T* out) override {
    if (layer == 0) return copy_rows(X, {rows, 0, n}, out);
    if (parameters && n <= few_rows && !X.indptr)
      return predict_by_row(network, kernels, parameters, X, {rows, 0, n}, layer, out);
    prepare_inference(parameters, X);
    const PanelPrediction<T> prediction{network, propagation};
    const auto all = [](std::int64_t, int) { return true; };
    prediction.run(X, {rows, 0, n}, layer, choose_threads(requested_threads, flops_per_row * double(n)), out, all);
  }

  double evaluate(const Dataset<T>& data, const std::int64_t* rows, std::int64_t n, T* out) override {
    prepare_inference(nullptr, data.X);
    return PanelPrediction<T>{network, propagation}.evaluate(
        data, {rows, 0, n}, choose_threads(requested_threads, flops_per_row * double(n)), out);
  }

  void input_gradient(const T* parameters, const Matrix<T>& X, const T* vectors, int n_vectors, T* out) override {
    prepare_inference(parameters, X);
    const double flops = flops_per_row * double(X.n_rows) * (1 + n_vectors);
    InputGradient<T>(network, propagation).run(X, vectors, n_vectors, choose_threads(requested_threads, flops), out);
  }

private:
  void prepare_inference(const T* parameters, const Matrix<T>& X) {
    if (parameters) set_parameters(parameters);
    if (propagation.enters_sparse(X)) layers[0].keep_transpose(R);
    propagation.use_running_statistics();
  }

  // Buffers for steps of `rows` rows, parts of batches of `n_rows`; returns how many threads to use.
  int prepare(std::int64_t rows, const Dataset<T>& data, std::int64_t n_rows) {
    const bool sparse = propagation.enters_sparse(data.X);
    if (data.X.indptr && network.dropout[0] > 0) throw std::invalid_argument("dropout of the inputs needs a dense X");
    deltas.prepare(int(rows), data.X, data.loss ? n_rows : 0);
    const int n_threads =
        int(std::min<std::int64_t>(choose_threads(requested_threads, 3 * flops_per_row * double(rows)),
                                   std::max<std::int64_t>((rows + R - 1) / R, 1)));
    make_scratch(n_threads);
    tiles.plan(double(rows));
    if (sparse && tiles.first_half(int(rows)) > 0)
      first_half_gradient = AlignedArray<T>(std::size_t(round_up(layers[0].n_in, R) * layers[0].ldt));
    return n_threads;
  }

  void make_scratch(int n_threads) {
    const std::size_t size = std::max(propagation.scratch_size(), tiles.gradient_size());
    while (int(scratch.size()) < n_threads) scratch.emplace_back(size);
  }

  // Steps for some milliseconds in one region. Between regions the number of threads may change, and the caller may ask
  // whether to stop.
  void some_steps(Stretch<T>& steps, int n_threads) {
    constexpr double surely_worth_all = 1e8; // flops
    const double flops = 3 * flops_per_row * double(steps.batch_size);
    const bool is_measured = requested_threads == 0 && n_threads > 1 && flops < surely_worth_all && !steps.data.loss &&
                             !has_steady_threads();
    const auto [size, seconds] = is_measured ? choose_team(flops, n_threads) : TeamChoice{n_threads, 0.02};
    const bool apart = size == 2 && can_be_apart(steps);
    if (apart && !replicas) replicas = std::make_unique<TwoReplicas<T>>(network, kernels, own);
    if (apart) replicas->prepare(int(steps.largest_batch()), steps.data.X, are_alike);
    const double start = wall_seconds();
    const std::int64_t begin = steps.next;
    steps.look = 1 + std::int64_t(2e6 / flops);
    steps.until = start + seconds;
    // Of `run_together`: thread 0 writes each where no other reads it.
    bool end = false, failed = false;
    const bool measures = shared_lines.are_due(size, start);
    const auto run = [&](const Team& team) {
      const FlushDenormals mode;
      if (measures) shared_lines.measure(team);
      const bool with_replicas = apart && team.threads == 2;
      const Team member = shared_lines.streaming(team, with_replicas);
      if (with_replicas)
        replicas->run(steps, member, scratch[team.thread].data());
      else
        run_together(steps, member, end, failed);
    };
    const int n_came = parallel(size, run, !steps.data.loss);
    if (is_measured && is_warm) report_team(flops, n_came, double(steps.next - begin), wall_seconds() - start);
    is_warm = true;
    are_alike = apart && n_came == 2;
  }

  // One thread's part of the steps, all on the same parameters.
  void run_together(Stretch<T>& steps, const Team& team, bool& end, bool& failed) {
    std::int64_t until_look = steps.look;
    for (std::int64_t first = steps.next, t = steps.rule.t; first < steps.n; first += steps.batch_size) {
      const Batch<T> batch = steps.batch(first, R);
      if (!deltas.compute(batch, steps.rule.dropout_key(t + 1), scratch[team.thread].data(), team)) break;
      if (team.thread == 0 && --until_look == 0) {
        end = wall_seconds() > steps.until;
        until_look = steps.look;
      }
      team.barrier();
      if (failed) break;
      const bool last = end;
      // Row losses must be read before the barrier, behind which others start the next batch; squares are ready after.
      const double weight = batch.weight, loss = weight != 0 ? finite_or_nan(deltas.sum_of_losses(batch) / weight) : 0;
      if (weight != 0 && !std::isnan(loss)) step(batch, steps.rule, ++t, steps.alpha, 1 / weight, team);
      team.barrier();
      if (team.thread == 0) {
        const double l2 = weight != 0 ? penalty(steps.alpha) / weight : 0;
        steps.result.add(loss, l2, batch.rows.n);
        failed = steps.result.failed_batch > 0;
        steps.rule.t = t;
        steps.next = first + steps.batch_size;
      }
      if (last) break;
    }
  }

  // Whether two threads may have a replica each.
  bool can_be_apart(const Stretch<T>& steps) const {
    return tiles.first_half(int(steps.largest_batch())) > 0 && steps.rule.clip_norm == infinity && !steps.data.loss &&
           !deltas.space.sparse && !deltas.needs_all_rows();
  }

  // --- phase 2 -------------------------------------------------------------------------------------------------------

  // Sparse input: the first layer's gradient, all tiles at once, split over threads by neurons.
  void sparse_gradient(const Batch<T>& batch, const Team& team) {
    if (!deltas.space.sparse) return;
    const Matrix<T>& X = batch.data.X;
    const RowRange& rows = batch.rows;
    const int blocks = int(round_up(layers[0].n_out, R)) / R, half = tiles.first_half(int(rows.n)) * R;
    const int end = int(part(blocks, team, 1));
    for (int block = int(part(blocks, team)); block < end; ++block) {
      const auto gradient_of = [&](int first, int n, T* G) {
        const T* deltas_of_block = deltas.space.first_deltas.data() + block * deltas.space.column_stride;
        kernels.weight_gradient_sparse({X.data, X.indices, X.indptr, rows.numbers, rows.first + first, n},
                                       deltas_of_block + first * R, block, G, layers[0].ldt, layers[0].n_in);
      };
      T* const G = deltas.space.first_gradient.data();
      gradient_of(half, int(rows.n) - half, G);
      if (half == 0) continue;
      gradient_of(0, half, first_half_gradient.data());
      for (int k = 0; k < layers[0].n_in; ++k) {
        const std::ptrdiff_t at = k * layers[0].ldt + block * R;
        kernels.add(G + at, first_half_gradient.data() + at, R, G + at);
      }
    }
    team.barrier();
  }

  // Where the length of the gradient matters, all tiles are kept until it is known.
  void step(const Batch<T>& batch, const Rule& rule, long long t, double alpha, double scale, const Team& team) {
    const Step<T> step(rule, t);
    sparse_gradient(batch, team);
    const bool clips = rule.clip_norm < infinity;
    tiles.for_each_of(team, [&](std::size_t i, const Tile&) {
      T* G = clips ? gradients.data() + tiles.gradient_start(i) : scratch[team.thread].data();
      tiles.gradient(deltas.space, int(batch.rows.n), i, G);
      if (clips)
        tiles.keep_gradient(i, alpha, scale, G);
      else
        tiles.update(i, step, alpha, scale, G, team.streams);
    });
    if (!clips) return;
    team.barrier();
    const double norm = tiles.gradient_norm(), shortened = norm > rule.clip_norm ? rule.clip_norm / norm : 1;
    tiles.for_each_of(team, [&](std::size_t i, const Tile&) {
      tiles.update(i, step, 0, shortened, gradients.data() + tiles.gradient_start(i), team.streams);
    });
  }

  void write_gradient(const Batch<T>& batch, double alpha, double scale, bool last, T* gradient, const Team& team) {
    sparse_gradient(batch, team);
    T* G = scratch[team.thread].data();
    tiles.for_each_of(team, [&](std::size_t i, const Tile& tile) {
      const Parameter<T>& p = tiles.parameter_of(tile);
      tiles.gradient(deltas.space, int(batch.rows.n), i, G);
      if (batch.rows.first > 0)
        for_each_number(p, tile, R, [&](std::ptrdiff_t flat, int in_tile) { G[in_tile] += gradient[flat]; });
      if (last) tiles.finish_gradient(i, alpha, scale, G);
      for_each_number(p, tile, R, [&](std::ptrdiff_t flat, int in_tile) { gradient[flat] = G[in_tile]; });
    });
  }

  // --- sums, always in the same order --------------------------------------------------------------------------------

  double penalty(double alpha) const { return 0.5 * alpha * tiles.sum_of_squares(); }

  const Network network;
  const Kernels<T>& kernels;
  const int R;
  const int requested_threads;
  double flops_per_row = 0;
  int max_rows = 0;
  bool is_warm = false; // its memory has been used
  Replica<T> own;
  Propagation<T>& propagation = own.propagation;
  std::vector<Layer<T>>& layers = propagation.layers;
  Deltas<T>& deltas = own.deltas;
  Tiles<T>& tiles = own.tiles;
  SharedLines shared_lines;
  std::unique_ptr<TwoReplicas<T>> replicas; // for two threads on halved batches
  bool are_alike = false;                   // both have learned the same
  std::vector<AlignedArray<T>> scratch;     // per thread
  AlignedArray<T> gradients;                // of all tiles, where steps depend on their length
  AlignedArray<T> first_half_gradient;      // of sparse input
};

} // namespace

template <class T> std::unique_ptr<Engine<T>> make_cpu_engine(const Network& network, int n_threads) {
  if (use_blas()) return make_blas_engine<T>(network);
  return std::make_unique<CpuEngine<T>>(network, n_threads);
}
template std::unique_ptr<Engine<float>> make_cpu_engine(const Network&, int);
template std::unique_ptr<Engine<double>> make_cpu_engine(const Network&, int);

} // namespace fastmlp
