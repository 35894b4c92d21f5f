// What bounds a training step, measured without Python: the parts of a step as the CPU engine runs them, the same
// products and the optimizer with all their data in the first-level cache, and the machine itself. limits.py builds and
// runs it, and says what the numbers mean:
//
//   limits_avx2 ROUNDS SECONDS BATCH_SIZE N_ROWS LOSS SIZE SIZE ...     prints JSON: seconds a step in each round
//
// Each round measures everything once, in short bursts one after the other: a slow moment hits all of them. There are
// as many rounds as asked for, and more for so many seconds: on a machine shared with others, few moments are quiet.
#include "../src/cpp/cpu/simd.hpp"
#include "training_step.hpp"

#include <cstdio>
#include <cstring>

namespace fastmlp {

namespace {

using V = FASTMLP_ISA::Vec<T>;
constexpr int W = FASTMLP_ISA::lane_count<T>;

// --- the same with all data in the first-level cache ----------------------------------------------------------------

// Seconds a call, from a burst of a tenth of a millisecond or more.
template <class F> double seconds_of(F&& call) {
  for (long n = 1;; n *= 2) {
    const double start = wall_seconds();
    for (long i = 0; i < n; ++i) call();
    if (const double taken = wall_seconds() - start; taken > 1e-4) return taken / double(n);
  }
}

class InCache {
public:
  InCache() {
    std::mt19937 random(2);
    std::uniform_real_distribution<T> uniform(-0.1f, 0.1f);
    for (T* p : {in.data(), out.data(), weights.data()}) std::generate_n(p, room, [&] { return uniform(random); });
  }

  // A product of a whole batch: all rows of weights are the same one, all panels too, and large layers are cut.
  double product(bool transposed, int n_in, int n_out, double n_panels, int activation) {
    PanelProduct<T> p{};
    p.M = weights.data();
    p.in = in.data();
    p.out = out.data();
    p.a = p.out;
    p.bias = transposed ? nullptr : weights.data();
    p.n_in = std::min(n_in, transposed ? 192 : 256);
    p.n_out = std::min(n_out, 192);
    p.n_panels = int(std::min<double>(n_panels, panels_per_block));
    p.activation = activation;
    const double taken = seconds_of([&] { (transposed ? kernels.backward : kernels.forward)(p, scratch.data()); });
    return taken * n_panels / p.n_panels * n_in / p.n_in * n_out / p.n_out;
  }

  // The first layer on rows where they lie, all of them the same one.
  double product_of_rows(int n_in, int n_out, double n_panels) {
    PanelProduct<T> p{};
    p.M = p.bias = weights.data();
    p.out = out.data();
    p.n_in = n_in;
    p.n_out = n_out;
    p.activation = -1;
    const DenseRows<T> same_row{in.data(), 0, nullptr, 0, 0, kernels.rows, 0};
    return seconds_of([&] { kernels.forward_of_rows(same_row, p, copy.data(), 0, scratch.data()); }) * n_panels;
  }

  double gradient(int n, int n_columns, int n_rows, StepInParts::Inputs inputs) {
    const int rows = std::min(n_rows, 256), n_panels = (rows + kernels.rows - 1) / kernels.rows;
    const auto call = [&] {
      if (inputs == StepInParts::Inputs::in_panels)
        return kernels.weight_gradient_along_rows(weights.data(), 0, in.data(), 0, n_panels, n, n_columns, false,
                                                  out.data());
      const std::ptrdiff_t ld = inputs == StepInParts::Inputs::in_place ? 0 : kernels.rows;
      kernels.weight_gradient(weights.data(), 0, in.data(), ld, rows, n, n_columns, false, nullptr, false, out.data());
    };
    return seconds_of(call) * n_rows / rows;
  }

private:
  const Kernels<T>& kernels = fastmlp::kernels<T>();
  static constexpr int room = 1 << 13;
  AlignedArray<T> in{room}, out{room}, weights{room}, copy{room}, scratch{1 << 15};
};

void measure_in_cache(const StepInParts& step, Found& found) {
  static InCache cache;
  const Network& network = step.network;
  const int last = network.n_layers() - 1, registers = (step.batch_size + step.R / 2 - 1) / (step.R / 2);
  const double n_panels = registers / 2.0; // the last one may be half a one
  std::map<std::string, double> of_shape, sums;
  const auto add = [&](const std::string& part, const std::string& shape, auto&& measure_it) {
    if (!of_shape.count(shape)) of_shape[shape] = measure_it();
    sums[part] += of_shape[shape];
  };
  for (int l = 0; l <= last; ++l) {
    const int n_in = network.sizes[l], n_out = network.sizes[l + 1];
    const std::string forward = step.name("forward", l), backward = step.name("backward", l);
    const int activation = l < last ? network.activations[l] : -1;
    add(forward, forward, [&] {
      if (step.inputs(l) == StepInParts::Inputs::in_place) return cache.product_of_rows(n_in, n_out, n_panels);
      return cache.product(false, n_in, n_out, n_panels, activation);
    });
    if (l == 0) continue;
    add(backward, backward, [&] { return cache.product(true, n_out, n_in, n_panels, network.activations[l - 1]); });
  }
  step.for_each_matrix_tile([&](int layer, const Tile& tile) {
    const int n_columns = std::min(step.R, network.sizes[layer] - tile.column);
    const StepInParts::Inputs inputs = step.inputs(layer);
    add(step.name("gradient", layer),
        std::to_string(tile.n) + "x" + std::to_string(n_columns) + " " + std::to_string(int(inputs)),
        [&] { return cache.gradient(tile.n, n_columns, step.batch_size, inputs); });
  });
  for (const auto& [part, seconds] : sums) found[part].push_back(seconds);
}

// Adam's arithmetic for one weight, in registers only: a root and a division, and little else.
double adam_seconds() {
  constexpr int rounds = 64, n_vectors = 2;
  const Step<T> step(adam(), 1000);
  V w[n_vectors] = {}, slots[n_vectors][2] = {};
  const auto update = [&] {
    for (int i = 0; i < rounds; ++i) {
      FASTMLP_UNROLL
      for (int j = 0; j < n_vectors; ++j) Adam::update(w[j], splat<V>(T(0.1)), slots[j], step.weights);
    }
    __asm__ volatile("" : : "m"(w), "m"(slots));
  };
  return seconds_of(update) / (rounds * n_vectors * W);
}

// --- the machine ----------------------------------------------------------------------------------------------------

double operations_a_second(int n_threads) {
  std::vector<double> done(n_threads);
  const double start = wall_seconds();
  parallel(n_threads, [&](const Team& team) { done[team.thread] = kernels<T>().multiply_adds(300000); });
  return std::accumulate(done.begin(), done.end(), 0.0) / (wall_seconds() - start);
}

// Bytes a second of a copy between two arrays that fit no cache.
double copied_a_second(int n_threads) {
  constexpr std::int64_t n = std::int64_t(1) << 26;
  static const AlignedArray<char> from(n), to(n);
  const double start = wall_seconds();
  parallel(n_threads, [&](const Team& team) {
    const std::int64_t first = part(n, team), end = part(n, team, 1);
    std::memcpy(to.data() + first, from.data() + first, std::size_t(end - first));
  });
  return double(n) / (wall_seconds() - start);
}

// Bytes a second of reading X in order.
double read_a_second(const Data& data) {
  constexpr int n_sums = 8;
  const std::int64_t n = data.set.X.n_rows * data.set.X.n_columns / (n_sums * W) * (n_sums * W);
  V sums[n_sums] = {};
  const double start = wall_seconds();
  for (const T *x = data.X, *end = x + n; x < end; x += n_sums * W) {
    FASTMLP_UNROLL
    for (int j = 0; j < n_sums; ++j) sums[j] += FASTMLP_ISA::load(x + j * W);
  }
  __asm__ volatile("" : : "m"(sums));
  return double(n) * sizeof(T) / (wall_seconds() - start);
}

void print(const char* group, const Found& found) {
  std::printf(",\n\"%s\": {", group);
  const char* between = "";
  for (const auto& [name, numbers] : found) {
    std::printf("%s\n \"%s\": [", between, name.c_str());
    for (std::size_t i = 0; i < numbers.size(); ++i) std::printf(i ? ", %.5g" : "%.5g", numbers[i]);
    std::printf("]");
    between = ",";
  }
  std::printf("}");
}

void measure(int rounds, double at_least, int batch_size, int n_rows, const char* loss,
             const std::vector<std::int64_t>& sizes) {
  const FlushDenormals mode;
  const Network network(sizes, std::vector<std::string>(sizes.size() - 2, "relu"), loss);
  const Data data(network, n_rows, batch_size);
  set_steady_threads(true); // as many threads as asked for
  WholeStep alone(network, data, 1), shared(network, data, 2);
  StepInParts step(network, data);
  const int n = int(std::clamp(4e-3 / alone.seconds(1), 1.0, double(most_steps))); // steps in a burst
  Found machine, one, two, in_cache;
  const double start = wall_seconds();
  for (int i = 0; i < rounds || wall_seconds() - start < at_least; ++i) {
    machine["multiply_adds 1"].push_back(operations_a_second(1));
    one["step"].push_back(alone.seconds(n));
    step.measure(n, 1, one);
    measure_in_cache(step, in_cache);
    in_cache["adam"].push_back(adam_seconds() * double(network.n_parameters));
    two["step"].push_back(shared.seconds(n));
    step.measure(n, 2, two);
    machine["multiply_adds 2"].push_back(operations_a_second(2));
    machine["read"].push_back(read_a_second(data));
    for (int n_threads : {1, 2}) machine["copy " + std::to_string(n_threads)].push_back(copied_a_second(n_threads));
  }
  std::printf("{\"instruction_set\": \"%s\", \"panel_rows\": %d", step.kernels.name, step.R);
  print("machine", machine);
  print("one thread", one);
  print("two threads", two);
  print("in cache", in_cache);
  std::printf("}\n");
}

} // namespace
} // namespace fastmlp

int main(int n, char** arguments) {
  if (n < 8) return 2;
  std::vector<std::int64_t> sizes;
  for (int i = 6; i < n; ++i) sizes.push_back(std::atoi(arguments[i]));
  fastmlp::measure(std::atoi(arguments[1]), std::atof(arguments[2]), std::atoi(arguments[3]), std::atoi(arguments[4]),
                   arguments[5], sizes);
}
