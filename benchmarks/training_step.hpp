// A training for measurements: data, the step as users get it, and the same step with a clock after each part.
#pragma once

#include "../src/cpp/cpu/replicas.hpp"
#include "../src/cpp/cpu/shared_lines.hpp"

#include <deque>
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
  AlignedArray<T> memory, y;
  T* const X; // 16 bytes behind the start of a line of the cache, as NumPy's arrays are
  std::vector<std::int32_t> labels;
  std::vector<std::int64_t> order; // all rows shuffled, again and again
  Dataset<T> set;

  Data(const Network& network, int n_rows, int batch_size)
      : batch_size(batch_size), n_batches(n_rows / batch_size), memory(std::size_t(n_rows) * network.n_inputs() + 4),
        y(n_rows), X(memory.data() + 4), labels(n_rows) {
    std::mt19937 random(0);
    std::normal_distribution<T> normal;
    std::generate_n(X, std::size_t(n_rows) * network.n_inputs(), [&] { return normal(random); });
    for (int i = 0; i < n_rows; ++i) {
      labels[i] = i % network.n_outputs();
      y.data()[i] = T(i % 2); // the label of a single output, or its number
    }
    std::vector<std::int64_t> rows(n_rows);
    std::iota(rows.begin(), rows.end(), 0);
    std::shuffle(rows.begin(), rows.end(), random);
    rows.resize(n_batches * batch_size);
    while (int(order.size()) < (n_batches + most_steps + 2) * batch_size)
      order.insert(order.end(), rows.begin(), rows.end());
    set = {{n_rows, network.n_inputs(), X, network.n_inputs()}, y.data(), nullptr, nullptr};
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
        state(network, data), other_state(network, data) {
    for (State* kept : {&state, &other_state}) {
      Member& member = members.emplace_back(network, kernels);
      member.propagation.read(kept->parameters.data());
      member.tiles.lend({kept->m.data(), kept->v.data()});
      member.tiles.plan(batch_size);
      member.deltas.prepare(batch_size, data.set.X, 0);
    }
    const Tiles<T>& tiles = members.front().tiles;
    const std::size_t size = std::max(kernels.scratch_size(panels_per_block, network.sizes[1]), tiles.gradient_size());
    for (int i = 0; i < 2; ++i) scratch.emplace_back(size);
    for (int i = 0; i < 6; ++i) handed_over.emplace_back(tiles.all_gradients_size());
    for (int i = 0; i < 1000; ++i) {
      const std::uint64_t before = ticks();
      cost = std::min(cost, double(ticks() - before));
    }
  }

  // `n` steps on so many threads; adds the seconds a step of each part to `found`.
  void measure(int n, int n_threads, Found& found) {
    std::vector<Laps> laps(n_threads);
    double rate = 0; // of the clock
    const bool halves = n_threads == 2 && members.front().tiles.first_half(batch_size) > 0;
    shared_lines.are_due(n_threads, wall_seconds());
    parallel(n_threads, [&](const Team& region) {
      const FlushDenormals mode;
      shared_lines.measure(region);
      const Team team = shared_lines.streaming(region, halves);
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
    const Tiles<T>& tiles = members.front().tiles;
    tiles.for_each_of({0, 1, nobody}, [&](std::size_t, const Tile& tile) {
      if (tiles.parameter_of(tile).is_matrix()) use(tiles.parameter_of(tile).layer, tile);
    });
  }
  enum class Inputs { in_columns, in_panels, in_place }; // of the weight gradient
  Inputs inputs(int layer) const {
    if (layer == 0 && members.front().deltas.space.in_place) return Inputs::in_place;
    return members.front().propagation.layers[layer].is_narrow ? Inputs::in_panels : Inputs::in_columns;
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

  using Member = Replica<T>;

  void run(const Team& team, int i, Laps& lap) {
    T* const G = scratch[team.thread].data();
    const std::int64_t* rows = state.data.batch(state.position + i);
    const int half = team.threads == 2 ? members.front().tiles.first_half(batch_size) : 0; // panels, if it is halved
    const bool apart = half > 0;
    const int first = apart && team.thread == 1 ? half * R : 0, end = apart && team.thread == 0 ? half * R : batch_size;
    const RowRange all{rows, 0, 2 * batch_size};
    const Batch<T> batch(state.data.set, all.part(first, end - first), R, all.part(batch_size + first, end - first));
    Member& own = members[apart ? team.thread : 0];
    Tiles<T>& tiles = own.tiles;
    const auto handed = [&](int thread, std::size_t at) {
      return handed_over[2 * (i % 2) + thread].data() + tiles.gradient_start(at);
    };
    const auto kept = [&](std::size_t at) {
      return team.streams ? handed_over[4 + team.thread].data() + tiles.gradient_start(at) : handed(team.thread, at);
    };
    const Team share = apart ? Team{0, 1, team.meeting} : team;
    lap.last = ticks();
    const int last_panel = int(part(batch.n_panels, share, 1));
    for (int p = int(part(batch.n_panels, share)); p < last_panel; p += panels_per_block)
      compute_deltas(own, batch, p, std::min(panels_per_block, last_panel - p), share, G, lap);
    const auto lap_of = [&](const std::vector<int>& parts, const Tile& tile) {
      const Parameter<T>& parameter = tiles.parameter_of(tile);
      lap(parameter.is_matrix() ? parts[parameter.layer] : bias);
    };
    if (apart)
      tiles.for_each_of(share, [&](std::size_t at, const Tile& tile) {
        tiles.gradient_of_half(own.deltas.space, int(batch.rows.n), at, kept(at));
        const std::size_t size = tiles.gradient_start(at + 1) - tiles.gradient_start(at);
        if (team.streams) kernels.stream(kept(at), std::ptrdiff_t(size), handed(team.thread, at));
        lap_of(gradient, tile);
      });
    team.barrier();
    lap(wait);
    const Step<T> step(state.rule, 1000);
    tiles.for_each_of(share, [&](std::size_t at, const Tile& tile) {
      if (apart) {
        const std::size_t size = tiles.gradient_start(at + 1) - tiles.gradient_start(at);
        kernels.add(kept(at), handed(1 - team.thread, at), std::ptrdiff_t(size), G);
      } else {
        tiles.gradient(own.deltas.space, int(batch.rows.n), at, G);
        lap_of(gradient, tile);
      }
      tiles.update(at, step, 1e-4, 1.0 / batch_size, G, share.streams);
      lap_of(update, tile);
    });
    if (!apart) team.barrier();
    lap(wait);
  }

  void compute_deltas(Member& own, const Batch<T>& batch, int first, int count, const Team& share, T* scratch,
                      Laps& lap) {
    const Propagation<T>& propagation = own.propagation;
    Workspace<T>& space = own.deltas.space;
    const int last = network.n_layers(), end = first + count;
    const Block<T> block{first, count, batch.rows_of(end - 1) <= R / 2, scratch, {}, 0, share.streams};
    const RowLoss row_loss = network.row_loss();
    for (int panel = first; panel < end; ++panel) {
      propagation.enter_targets(space, state.data.set, batch.rows, panel);
      lap(loss);
      propagation.enter(space, state.data.set.X, batch.rows.panel(panel, R), batch.panel_after(panel, share), panel,
                        block);
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

  State state, other_state;
  std::deque<Member> members;                        // the second one for two threads on halved batches
  std::vector<AlignedArray<T>> scratch, handed_over; // two of each thread by turns, then what it keeps
  SharedLines shared_lines;
  double cost = 1e9; // ticks that reading the clock takes
  std::vector<std::string> names;
  const int gather = number("gather"), loss = number("loss"), columns = number("columns"), bias = number("bias"),
            wait = number("wait");
  const std::vector<int> forward = numbers("forward"), backward = numbers("backward"), gradient = numbers("gradient"),
                         update = numbers("update");
};

} // namespace
} // namespace fastmlp
