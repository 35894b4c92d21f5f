// What bounds a training step, measured without Python: the parts of a step as the CPU engine runs them, the same
// products and the optimizer with all their data in the first-level cache, and the machine itself. limits.py builds and
// runs it, and says what the numbers mean:
//
//   limits_avx2 ROUNDS BATCH_SIZE N_ROWS LOSS SIZE SIZE ...     prints JSON: seconds a step in each round
//
// Each round measures everything once, in short bursts one after the other: a slow moment hits all of them.
#include "../src/cpp/cpu/simd.hpp"
#include "../src/cpp/cpu/tiles.hpp"

#include <chrono>
#include <cstdio>
#include <cstring>
#include <map>
#include <numeric>
#include <random>

namespace fastmlp {

namespace {

using T = float;
using Seconds = std::map<std::string, std::vector<double>>; // one number a round

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// --- laps -----------------------------------------------------------------------------------------------------------

// The processor's own clock: reading it costs a few nanoseconds.
std::uint64_t ticks() {
#if defined(__x86_64__)
  return __builtin_ia32_rdtsc();
#else
  return std::uint64_t(std::chrono::steady_clock::now().time_since_epoch().count());
#endif
}

// How many ticks a second has, and how many of them a lap costs.
struct Clock {
  double rate, lap;
  Clock() {
    const double start = now();
    const std::uint64_t first = ticks();
    while (now() - start < 0.02) {
    }
    rate = double(ticks() - first) / (now() - start);
    constexpr int n = 1000;
    lap = INFINITY;
    for (int i = 0; i < 50; ++i) {
      const std::uint64_t before = ticks();
      for (int j = 1; j < n; ++j) ticks();
      lap = std::min(lap, double(ticks() - before) / n);
    }
  }
};

// Time of one thread by parts: what passed since the last lap goes to the part named.
class Laps {
public:
  explicit Laps(int n_parts) : spent(n_parts), count(n_parts) {}
  void start() { last = ticks(); }
  void operator()(int part) {
    const std::uint64_t t = ticks();
    spent[part] += double(t - last);
    ++count[part];
    last = t;
  }
  double seconds(int part, const Clock& clock) const { return (spent[part] - count[part] * clock.lap) / clock.rate; }

private:
  std::uint64_t last = 0;
  std::vector<double> spent, count;
};

// --- a step, part by part -------------------------------------------------------------------------------------------

struct Data {
  AlignedArray<T> X, y;
  std::vector<std::int32_t> labels;
  std::vector<std::int64_t> order;
  Dataset<T> set;

  Data(const Network& network, int n_rows)
      : X(std::size_t(n_rows) * network.n_inputs()), y(std::size_t(n_rows)), labels(n_rows), order(n_rows) {
    std::mt19937 random(0);
    std::normal_distribution<T> normal;
    for (std::ptrdiff_t i = 0; i < std::ptrdiff_t(n_rows) * network.n_inputs(); ++i) X.data()[i] = normal(random);
    for (int i = 0; i < n_rows; ++i) y.data()[i] = normal(random);
    for (int i = 0; i < n_rows; ++i) labels[i] = i % network.n_outputs();
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), random);
    const bool regression = network.n_outputs() == 1;
    set = {{n_rows, network.n_inputs(), X.data(), network.n_inputs()},
           regression ? y.data() : nullptr,
           regression ? nullptr : labels.data(),
           nullptr};
  }
};

// Parameters and what Adam keeps of them.
struct Model {
  AlignedArray<T> parameters, m, v;
  explicit Model(const Network& network)
      : parameters(network.n_parameters), m(network.n_parameters), v(network.n_parameters) {
    std::mt19937 random(1);
    for (int l = 0; l < network.n_layers(); ++l) {
      std::normal_distribution<T> normal(0, std::sqrt(T(2) / network.sizes[l]));
      const std::ptrdiff_t n = std::ptrdiff_t(network.sizes[l]) * network.sizes[l + 1];
      for (std::ptrdiff_t i = 0; i < n; ++i) parameters.data()[network.coefs[l] + i] = normal(random);
    }
  }
};

Rule adam() { return {Optimizers::find("adam", "optimizer"), {0.9, 0.999, 1e-8}, 1e-3, 0}; }

// The step of engine.cpp with a lap after each part. Layers of the same shape share their parts.
class Step {
public:
  Step(const Network& network, const Data& data, int batch_size)
      : network(network), data(data), batch_size(batch_size), kernels(fastmlp::kernels<T>()), R(kernels.rows),
        model(network), propagation(network, kernels), tiles(this->network, propagation),
        space(network, propagation.layers, R, batch_size, false, true) {
    for (int l = 0; l < network.n_layers(); ++l)
      propagation.layers[l].read(model.parameters.data() + network.coefs[l],
                                 model.parameters.data() + network.biases[l]);
    tiles.lend({model.m.data(), model.v.data()});
    tiles.plan(batch_size);
    const std::size_t size = std::max(kernels.scratch_size(panels_per_block, network.sizes[1]), tiles.gradient_size());
    for (int i = 0; i < 2; ++i) scratch.emplace_back(size);
  }

  // `n` steps on so many threads; adds the seconds a step of each part to `found`.
  void measure(int n, int n_threads, const Clock& clock, Seconds& found) {
    std::vector<Laps> laps(n_threads, Laps(int(names.size())));
    int threads_there = 1;
    parallel(n_threads, [&](const Team& team) {
      const FlushDenormals mode;
      if (team.thread == 0) threads_there = team.threads;
      for (int i = -1; i < n; ++i) { // the first one warms up
        if (i == 0) laps[team.thread] = Laps(int(names.size()));
        run(team, batch(i), batch(i + 1), laps[team.thread]);
      }
    });
    for (int part = 0; part < int(names.size()); ++part) {
      double sum = 0;
      for (const Laps& of_thread : laps) sum += of_thread.seconds(part, clock);
      found[names[part]].push_back(sum / threads_there / n);
    }
    position = (position + n + 1) % (std::int64_t(data.order.size()) / batch_size);
  }

  template <class F> void for_each_tile(F&& use) const {
    Barrier nobody;
    tiles.for_each_of({0, 1, nobody}, [&](std::size_t, const Tile& tile) { use(tile); });
  }

  const Network network;
  const Data& data;
  const int batch_size;
  const Kernels<T>& kernels;
  const int R;
  std::vector<std::string> names;

  std::string name(const char* what, int layer) const {
    return what + (" " + std::to_string(network.sizes[layer])) + "-" + std::to_string(network.sizes[layer + 1]);
  }

private:
  RowRange batch(std::int64_t i) const {
    const std::int64_t n_batches = std::int64_t(data.order.size()) / batch_size;
    return {data.order.data(), (position + i + n_batches) % n_batches * batch_size, batch_size};
  }

  int number(const std::string& name) {
    const auto at = std::find(names.begin(), names.end(), name);
    if (at == names.end()) names.push_back(name);
    return int(std::find(names.begin(), names.end(), name) - names.begin());
  }
  std::vector<int> numbers(const char* what) {
    std::vector<int> found;
    for (int l = 0; l < network.n_layers(); ++l) found.push_back(number(name(what, l)));
    return found;
  }

  void run(const Team& team, const RowRange& rows, const RowRange& next, Laps& lap) {
    T* const own = scratch[team.thread].data();
    const int n_panels = (batch_size + R - 1) / R, end = int(part(n_panels, team, 1));
    lap.start();
    for (int p = int(part(n_panels, team)); p < end; p += panels_per_block)
      propagate(rows, p, std::min(panels_per_block, end - p), own, lap);
    team.barrier();
    lap(wait);
    T c[max_coefficients];
    step_coefficients(rule, 1000, c);
    const std::int64_t n_tiles = std::int64_t(tiles.first(team, 1) - tiles.first(team));
    std::int64_t row = part(n_panels, team) * R;
    const std::int64_t last = std::min<std::int64_t>(end * R, batch_size),
                       n_rows = (last - row + n_tiles - 1) / n_tiles;
    tiles.for_each_of(team, [&](std::size_t i, const Tile& tile) {
      tiles.prefetch(i + 1);
      for (const std::int64_t stop = std::min(row + n_rows, last); row < stop; ++row)
        for (int column = 0; column < network.n_inputs(); column += 16)
          __builtin_prefetch(data.X.data() + next[row] * network.n_inputs() + column, 0, 2);
      lap(ahead);
      tiles.gradient(space, batch_size, tile, own);
      lap(tile.is_bias() ? bias : gradient[tile.layer]);
      tiles.update(i, rule.optimizer, c, 0, T(1) / batch_size, own);
      lap(tile.is_bias() ? bias : update[tile.layer]);
    });
    team.barrier();
    lap(wait);
  }

  void propagate(const RowRange& rows, int first, int count, T* own, Laps& lap) {
    const int last = network.n_layers(), m = network.n_outputs();
    for (int panel = first; panel < first + count; ++panel) {
      propagation.enter_targets(space, data.set, rows, panel);
      lap(loss);
      propagation.enter(space, data.set.X, rows, panel, panel, own);
      lap(gather);
    }
    for (int l = 0; l < last; ++l) {
      propagation.forward(space, l, first, count, own);
      lap(forward[l]);
      for (int panel = first; l + 1 < last && panel < first + count; ++panel)
        kernels.panel_to_columns(space.panels[l + 1] + panel * space.panel_stride[l + 1], network.sizes[l + 1],
                                 space.columns[l + 1] + std::ptrdiff_t(panel) * R * R, space.column_stride);
      if (l + 1 < last) lap(columns);
    }
    for (int panel = first; panel < first + count; ++panel)
      kernels.loss(network.loss, space.panels[last] + panel * space.panel_stride[last],
                   space.targets.data() + std::ptrdiff_t(panel) * m * R, space.weights.data() + panel * R, m);
    lap(loss);
    for (int l = last - 1; l > 0; --l) {
      propagation.backward(space, l, first, count, own);
      lap(backward[l]);
    }
  }

  Model model;
  Propagation<T> propagation;
  Tiles<T> tiles;
  Workspace<T> space;
  std::vector<AlignedArray<T>> scratch;
  std::int64_t position = 0; // of the next batch
  const Rule rule = adam();
  const int gather = number("gather"), loss = number("loss"), columns = number("columns"), bias = number("bias"),
            ahead = number("ahead"), wait = number("wait");
  const std::vector<int> forward = numbers("forward"), backward = numbers("backward"), gradient = numbers("gradient"),
                         update = numbers("update");
};

// --- the same with all data in the first-level cache ----------------------------------------------------------------

// Seconds a call, from a burst of a tenth of a millisecond or more.
template <class F> double seconds_of(F&& call) {
  for (long n = 1;; n *= 2) {
    const double start = now();
    for (long i = 0; i < n; ++i) call();
    const double taken = now() - start;
    if (taken > 1e-4) return taken / double(n);
  }
}

class InCache {
public:
  InCache() : kernels(fastmlp::kernels<T>()) {
    std::mt19937 random(2);
    std::uniform_real_distribution<T> uniform(-1, 1);
    for (T* p : {in.data(), out.data(), weights.data()})
      for (int i = 0; i < room; ++i) p[i] = uniform(random) / 16;
  }

  // A product of a whole batch: all rows of weights are the same one, all panels too, and large layers are cut.
  double product(bool transposed, int n_in, int n_out, int n_panels, int activation) {
    PanelProduct<T> p{};
    p.M = weights.data();
    p.in = in.data();
    p.out = out.data();
    p.bias = transposed ? nullptr : weights.data();
    p.n_in = std::min(n_in, transposed ? 192 : 256);
    p.n_out = std::min(n_out, 192);
    p.n_panels = std::min(n_panels, panels_per_block);
    p.activation = activation;
    const double taken = seconds_of([&] { (transposed ? kernels.backward : kernels.forward)(p, scratch.data()); });
    return taken * n_panels / p.n_panels * n_in / p.n_in * n_out / p.n_out;
  }

  double gradient(int n, int n_columns, int n_rows) {
    const int rows = std::min(n_rows, 256);
    return seconds_of([&] { kernels.weight_gradient(weights.data(), 0, in.data(), rows, n, n_columns, out.data()); }) *
           n_rows / rows;
  }

private:
  const Kernels<T>& kernels;
  static constexpr int room = 1 << 13;
  AlignedArray<T> in{room}, out{room}, weights{room}, scratch{1 << 15};
};

// Adam's arithmetic for one weight, in registers only: a root and a division, and little else.
double adam_seconds() {
  using V = FASTMLP_ISA::Vec<T>;
  constexpr int n_vectors = 2, rounds = 64;
  T c[max_coefficients];
  step_coefficients(adam(), 1000, c);
  V w[n_vectors] = {}, slots[n_vectors][2] = {};
  const V g = splat<V>(T(0.1));
  const double taken = seconds_of([&] {
    for (int i = 0; i < rounds; ++i) {
      FASTMLP_UNROLL
      for (int j = 0; j < n_vectors; ++j) Adam::update(w[j], g, slots[j], c);
    }
    __asm__ volatile("" : : "m"(w), "m"(slots));
  });
  return taken / (rounds * n_vectors * FASTMLP_ISA::lane_count<T>);
}

// --- the machine ----------------------------------------------------------------------------------------------------

double operations_a_second(int n_threads) {
  std::vector<double> done(n_threads);
  const auto burst = [&] {
    const double start = now();
    parallel(n_threads, [&](const Team& team) { done[team.thread] = kernels<T>().multiply_adds(300000); });
    return std::accumulate(done.begin(), done.end(), 0.0) / (now() - start);
  };
  return std::max(burst(), burst());
}

// Bytes a second of a copy between two arrays that fit no cache.
double copied_a_second(int n_threads) {
  constexpr std::int64_t n = std::int64_t(1) << 26;
  static const AlignedArray<char> from(n), to(n);
  const double start = now();
  parallel(n_threads, [&](const Team& team) {
    const std::int64_t first = part(n, team), end = part(n, team, 1);
    std::memcpy(to.data() + first, from.data() + first, std::size_t(end - first));
  });
  return double(n) / (now() - start);
}

// Bytes a second of reading X in order.
double read_a_second(const Data& data) {
  using V = FASTMLP_ISA::Vec<T>;
  const std::ptrdiff_t n = data.set.X.n_rows * data.set.X.n_columns / 64 * 64;
  V sums[8] = {};
  const double start = now();
  for (std::ptrdiff_t i = 0; i < n; i += 8 * FASTMLP_ISA::lane_count<T>) {
    FASTMLP_UNROLL
    for (int j = 0; j < 8; ++j) sums[j] += FASTMLP_ISA::load(data.X.data() + i + j * FASTMLP_ISA::lane_count<T>);
  }
  __asm__ volatile("" : : "m"(sums));
  return double(n) * sizeof(T) / (now() - start);
}

// --- all of it ------------------------------------------------------------------------------------------------------

// The step as users get it.
class WholeStep {
public:
  WholeStep(const Network& network, const Data& data, int batch_size, int n_threads)
      : data(data), batch_size(batch_size), model(network), engine(make_cpu_engine<T>(network, n_threads)) {
    engine->set_parameters(model.parameters.data());
    engine->set_slots({model.m.data(), model.v.data()});
  }
  double seconds(int n) {
    run(1);
    const double start = now();
    run(n);
    return (now() - start) / n;
  }

private:
  void run(int n) {
    for (std::int64_t left = std::int64_t(n) * batch_size; left > 0;) {
      const std::int64_t rows = std::min(left, std::int64_t(data.order.size()) / batch_size * batch_size);
      engine->epoch(data.set, data.order.data(), rows, batch_size, 1e-4, rule, poll);
      left -= rows;
    }
  }
  const Data& data;
  const int batch_size;
  Model model;
  std::unique_ptr<Engine<T>> engine;
  Rule rule = adam();
  Poll poll{nullptr};
};

void measure_in_cache(const Step& step, Seconds& found) {
  static InCache cache;
  const Network& network = step.network;
  const int n_panels = (step.batch_size + step.R - 1) / step.R, last = network.n_layers() - 1;
  std::map<std::string, double> of_shape, sums;
  const auto once = [&](const std::string& shape, auto&& seconds) {
    if (!of_shape.count(shape)) of_shape[shape] = seconds();
    return of_shape[shape];
  };
  for (int l = 0; l <= last; ++l) {
    const int n_in = network.sizes[l], n_out = network.sizes[l + 1];
    const std::string forward = step.name("forward", l), backward = step.name("backward", l);
    sums[forward] += once(
        forward, [&] { return cache.product(false, n_in, n_out, n_panels, l < last ? network.activations[l] : -1); });
    if (l == 0) continue;
    sums[backward] +=
        once(backward, [&] { return cache.product(true, n_out, n_in, n_panels, network.activations[l - 1]); });
  }
  step.for_each_tile([&](const Tile& tile) {
    if (tile.is_bias()) return;
    const int n_columns = std::min(step.R, network.sizes[tile.layer] - tile.column);
    sums[step.name("gradient", tile.layer)] += once(std::to_string(tile.n) + "x" + std::to_string(n_columns),
                                                    [&] { return cache.gradient(tile.n, n_columns, step.batch_size); });
  });
  for (const auto& [name, seconds] : sums) found[name].push_back(seconds);
}

void print(const char* group, const Seconds& found, const char* end) {
  std::printf("\"%s\": {", group);
  const char* between = "";
  for (const auto& [name, numbers] : found) {
    std::printf("%s\n \"%s\": [", between, name.c_str());
    for (std::size_t i = 0; i < numbers.size(); ++i) std::printf(i ? ", %.5g" : "%.5g", numbers[i]);
    std::printf("]");
    between = ",";
  }
  std::printf("}%s\n", end);
}

void measure(int rounds, int batch_size, int n_rows, const char* loss, const std::vector<std::int64_t>& sizes) {
  const FlushDenormals mode;
  const Network network(sizes, std::vector<std::string>(sizes.size() - 2, "relu"), loss);
  const Data data(network, n_rows);
  const Clock clock;
  set_steady_threads(true); // as many threads as asked for
  WholeStep alone(network, data, batch_size, 1), shared(network, data, batch_size, 2);
  Step step(network, data, batch_size);
  const int n = int(std::max(1.0, 4e-3 / alone.seconds(1))); // steps in a burst
  Seconds one, two, in_cache, machine;
  for (int i = 0; i < rounds; ++i) {
    machine["multiply_adds 1"].push_back(operations_a_second(1));
    one["step"].push_back(alone.seconds(n));
    step.measure(n, 1, clock, one);
    measure_in_cache(step, in_cache);
    in_cache["adam"].push_back(adam_seconds() * double(network.n_parameters));
    two["step"].push_back(shared.seconds(n));
    step.measure(n, 2, clock, two);
    machine["multiply_adds 2"].push_back(operations_a_second(2));
    machine["read"].push_back(read_a_second(data));
    for (int n_threads : {1, 2}) machine["copy " + std::to_string(n_threads)].push_back(copied_a_second(n_threads));
  }
  std::printf("{\"instruction_set\": \"%s\", \"panel_rows\": %d,\n", step.kernels.name, step.R);
  print("machine", machine, ",");
  print("one thread", one, ",");
  print("two threads", two, ",");
  print("in cache", in_cache, "}");
}

} // namespace
} // namespace fastmlp

int main(int n, char** arguments) {
  if (n < 7) return 2;
  std::vector<std::int64_t> sizes;
  for (int i = 5; i < n; ++i) sizes.push_back(std::atoi(arguments[i]));
  fastmlp::measure(std::atoi(arguments[1]), std::atoi(arguments[2]), std::atoi(arguments[3]), arguments[4], sizes);
}
