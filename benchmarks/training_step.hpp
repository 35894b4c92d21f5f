// A training for measurements: data, the step as users get it, and the same step with a clock after each part.
#pragma once

#include "../src/cpp/cpu/tiles.hpp"

#include <map>
#include <numeric>
#include <random>

namespace fastmlp {

namespace {

using T = float;
using Found = std::map<std::string, std::vector<double>>; // one number a round

constexpr int most_steps = 1000; // in a burst

struct Data {
  const int batch_size, n_batches; // of an epoch
  AlignedArray<T> X, y;
  std::vector<std::int32_t> labels;
  std::vector<std::int64_t> order; // all rows shuffled, again and again
  Dataset<T> set;

  Data(const Network& network, int n_rows, int batch_size)
      : batch_size(batch_size), n_batches(n_rows / batch_size), X(std::size_t(n_rows) * network.n_inputs()), y(n_rows),
        labels(n_rows) {
    std::mt19937 random(0);
    std::normal_distribution<T> normal;
    std::generate_n(X.data(), std::size_t(n_rows) * network.n_inputs(), [&] { return normal(random); });
    std::generate_n(y.data(), n_rows, [&] { return normal(random); });
    for (int i = 0; i < n_rows; ++i) labels[i] = i % network.n_outputs();
    std::vector<std::int64_t> rows(n_rows);
    std::iota(rows.begin(), rows.end(), 0);
    std::shuffle(rows.begin(), rows.end(), random);
    rows.resize(n_batches * batch_size);
    while (int(order.size()) < (n_batches + most_steps + 2) * batch_size)
      order.insert(order.end(), rows.begin(), rows.end());
    set = {{n_rows, network.n_inputs(), X.data(), network.n_inputs()}, y.data(), nullptr, nullptr};
    if (network.n_outputs() > 1) set.labels = labels.data();
  }
  const std::int64_t* batch(int number) const { return order.data() + number * batch_size; }
};

Rule adam() { return {Optimizers::find("adam", "optimizer"), {0.9, 0.999, 1e-8}, 1e-3, 0}; }

// What a training changes; the batch that comes next.
struct State {
  const Network& network;
  const Data& data;
  AlignedArray<T> parameters, m, v;
  Rule rule = adam();
  int position = 0;

  State(const Network& network, const Data& data)
      : network(network), data(data), parameters(network.n_parameters), m(network.n_parameters),
        v(network.n_parameters) {
    std::mt19937 random(1);
    for (int l = 0; l < network.n_layers(); ++l) {
      std::normal_distribution<T> normal(0, std::sqrt(T(2) / T(network.sizes[l])));
      std::generate_n(parameters.data() + network.coefs[l], network.sizes[l] * network.sizes[l + 1],
                      [&] { return normal(random); });
    }
  }
  void advance(int n) { position = (position + n) % data.n_batches; }
};

// The step as users get it.
class WholeStep {
public:
  WholeStep(const Network& network, const Data& data, int n_threads)
      : state(network, data), engine(make_cpu_engine<T>(network, n_threads)) {
    engine->set_parameters(state.parameters.data());
    engine->set_slots({state.m.data(), state.v.data()});
  }
  double seconds(int n) {
    run(1);
    const double start = wall_seconds();
    run(n);
    return (wall_seconds() - start) / n;
  }

private:
  void run(int n) {
    const int batch_size = state.data.batch_size;
    engine->epoch(state.data.set, state.data.batch(state.position), n * batch_size, batch_size, 1e-4, state.rule, poll);
    state.advance(n);
  }
  State state;
  std::unique_ptr<Engine<T>> engine;
  Poll poll{nullptr};
};

// --- a step, part by part -------------------------------------------------------------------------------------------

// The processor's own clock: reading it costs a few nanoseconds.
std::uint64_t ticks() {
#if defined(__x86_64__)
  return __builtin_ia32_rdtsc();
#else
  return std::uint64_t(wall_seconds() * 1e9);
#endif
}

// Time of one thread by parts: what passed since the last lap goes to the part named.
struct Laps {
  std::vector<double> spent = std::vector<double>(1000);
  double cost = 0;
  std::uint64_t last = 0;
  void operator()(int part) {
    const std::uint64_t now = ticks();
    spent[part] += double(now - last) - cost;
    last = now;
  }
};

// The step of engine.cpp with a lap after each part. Layers of the same shape share their parts.
class StepInParts {
public:
  StepInParts(const Network& network, const Data& data)
      : network(network), kernels(fastmlp::kernels<T>()), R(kernels.rows), batch_size(data.batch_size),
        state(network, data), propagation(network, kernels), tiles(propagation),
        space(network, propagation.layers, R, batch_size, false, true) {
    propagation.read(state.parameters.data());
    tiles.lend({state.m.data(), state.v.data()});
    tiles.plan(batch_size);
    const std::size_t size = std::max(kernels.scratch_size(panels_per_block, network.sizes[1]), tiles.gradient_size());
    for (int i = 0; i < 2; ++i) scratch.emplace_back(size);
    for (int i = 0; i < 1000; ++i) {
      const std::uint64_t before = ticks();
      cost = std::min(cost, double(ticks() - before));
    }
  }

  // `n` steps on so many threads; adds the seconds a step of each part to `found`.
  void measure(int n, int n_threads, Found& found) {
    std::vector<Laps> laps(n_threads);
    double rate = 0; // of the clock
    parallel(n_threads, [&](const Team& team) {
      const FlushDenormals mode;
      Laps& lap = laps[team.thread];
      run(team, 0, lap); // warms up
      lap = Laps();
      lap.cost = cost;
      const double start = wall_seconds();
      const std::uint64_t first = ticks();
      for (int i = 1; i <= n; ++i) run(team, i, lap);
      if (team.thread == 0) rate = double(ticks() - first) / (wall_seconds() - start);
    });
    state.advance(n + 1);
    for (int part = 0; part < int(names.size()); ++part) {
      double sum = 0;
      for (const Laps& lap : laps) sum += lap.spent[part];
      found[names[part]].push_back(sum / rate / n_threads / n);
    }
  }

  std::string name(const char* what, int layer) const {
    return what + (" " + std::to_string(network.sizes[layer])) + "-" + std::to_string(network.sizes[layer + 1]);
  }
  template <class F> void for_each_matrix_tile(F&& use) const {
    Barrier nobody;
    tiles.for_each_of({0, 1, nobody}, [&](std::size_t, const Tile& tile) {
      if (tiles.parameter_of(tile).is_matrix()) use(tiles.parameter_of(tile).layer, tile);
    });
  }
  enum class Inputs { in_columns, in_panels, in_place }; // of the weight gradient
  Inputs inputs(int layer) const {
    if (layer == 0 && space.in_place) return Inputs::in_place;
    return propagation.layers[layer].is_narrow ? Inputs::in_panels : Inputs::in_columns;
  }

  const Network& network;
  const Kernels<T>& kernels;
  const int R, batch_size;

private:
  int number(const std::string& name) {
    const auto at = std::find(names.begin(), names.end(), name);
    const int found = int(at - names.begin());
    if (at == names.end()) names.push_back(name);
    return found;
  }
  std::vector<int> numbers(const char* what) {
    std::vector<int> found;
    for (int l = 0; l < network.n_layers(); ++l) found.push_back(number(name(what, l)));
    return found;
  }

  void run(const Team& team, int i, Laps& lap) {
    T* const own = scratch[team.thread].data();
    const std::int64_t* rows = state.data.batch(state.position + i);
    const int n_panels = (batch_size + R - 1) / R, end = int(part(n_panels, team, 1));
    const Batch<T> batch(state.data.set, {rows, 0, batch_size}, R);
    lap.last = ticks();
    for (int p = int(part(n_panels, team)); p < end; p += panels_per_block)
      compute_deltas(batch.rows, p, std::min(panels_per_block, end - p), own, lap);
    lap(gradient[0]); // of all layers
    team.barrier();
    lap(wait);
    const Step<T> step(state.rule, 1000);
    tiles.for_each_of(team, [&](std::size_t at, const Tile& tile) {
      tiles.gradient(space, batch, at, own);
      const Parameter<T>& parameter = tiles.parameter_of(tile);
      lap(parameter.is_matrix() ? gradient[parameter.layer] : bias);
      tiles.update(at, step, 1e-4, 1.0 / batch_size, own);
      lap(parameter.is_matrix() ? update[parameter.layer] : bias);
    });
    team.barrier();
    lap(wait);
  }

  void compute_deltas(const RowRange& rows, int first, int count, T* own, Laps& lap) {
    const int last = network.n_layers(), end = first + count;
    const Block<T> block{first, count, end * R - batch_size >= R / 2, own, {}};
    const RowLoss row_loss = network.row_loss();
    for (int panel = first; panel < end; ++panel) {
      propagation.enter_targets(space, state.data.set, rows, panel);
      lap(loss);
      propagation.enter(space, state.data.set.X, rows, panel, panel, block);
      lap(space.in_place ? forward[0] : gather);
    }
    for (int l = 0; l < last; ++l) {
      propagation.forward(space, l, block);
      lap(forward[l]);
      if (l + 1 == last) break;
      propagation.keep_inputs(space, l + 1, block);
      lap(columns);
    }
    for (int panel = first; panel < end; ++panel)
      kernels.loss(row_loss, propagation.panel_of(space, last, panel),
                   space.targets.data() + std::ptrdiff_t(panel) * row_loss.n_targets * R,
                   space.weights.data() + panel * R);
    lap(loss);
    for (int l = last - 1; l > 0; --l) {
      propagation.backward(space, l, block);
      lap(backward[l]);
    }
  }

  State state;
  Propagation<T> propagation;
  Tiles<T> tiles;
  Workspace<T> space;
  std::vector<AlignedArray<T>> scratch;
  double cost = 1e9; // ticks that reading the clock takes
  std::vector<std::string> names;
  const int gather = number("gather"), loss = number("loss"), columns = number("columns"), bias = number("bias"),
            wait = number("wait");
  const std::vector<int> forward = numbers("forward"), backward = numbers("backward"), gradient = numbers("gradient"),
                         update = numbers("update");
};

} // namespace
} // namespace fastmlp
