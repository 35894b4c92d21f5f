// Kernels for graphics processors one by one, on the host; and that the host sees what it is there to see.
#include "cuda_on_host.hpp"

#include "check.hpp"

#include "../../src/cpp/cpu/kernels.hpp"
#include "../../src/cpp/cuda/kernels/gather.cuh"
#include "../../src/cpp/cuda/kernels/grid_barrier.cuh"
#include "../../src/cpp/cuda/kernels/loss_rows.cuh"
#include "../../src/cpp/cuda/kernels/products.cuh"
#include "../../src/cpp/cuda/kernels/sums.cuh"
#include "../../src/cpp/engine.hpp"

namespace fastmlp {

namespace {

using namespace cuda;

template <class F> void with_schedule(unsigned seed, F&& f) {
  on_host::schedule_seed = seed;
  f();
  on_host::schedule_seed = 0;
}

// --- the host itself

FASTMLP_KERNEL neighbours_sum(const int* x, int* out, bool waits) {
  FASTMLP_DYNAMIC_SHARED(int, shared);
  const int i = int(threadIdx.x), n = int(blockDim.x);
  shared[i] = x[i];
  if (waits) __syncthreads();
  out[i] = shared[i] + shared[(i + 1) % n];
}

// Each block adds what the block before it has left.
FASTMLP_KERNEL sum_of_neighbours(unsigned* arrived, int* x, int* out, bool waits) {
  GridBarrier barrier(arrived);
  const int i = int(blockIdx.x * blockDim.x + threadIdx.x), n = int(gridDim.x * blockDim.x);
  x[i] = i * i;
  if (waits) barrier.wait();
  out[i] = x[i] + x[(i + n - int(blockDim.x)) % n];
}

FASTMLP_KERNEL half_of_the_blocks_wait(unsigned* arrived) {
  if (blockIdx.x % 2 == 0) GridBarrier(arrived).wait();
}

FASTMLP_KERNEL half_of_them_wait(int* out) {
  if (threadIdx.x < 32) __syncthreads();
  out[threadIdx.x] = 1;
}

FASTMLP_KERNEL write_beyond(int n) {
  FASTMLP_DYNAMIC_SHARED(int, shared);
  shared[n + int(threadIdx.x)] = 0;
}

template <class... P, class... A> bool fails(void (*kernel)(P...), const Grid& grid, A... arguments) {
  try {
    launch(kernel, grid, nullptr, arguments...);
  } catch (const std::runtime_error&) {
    return true;
  }
  return false;
}

void test_host() {
  constexpr int n = 64;
  std::vector<int> x(n), right(n);
  for (int i = 0; i < n; ++i) x[i] = i * i;
  for (int i = 0; i < n; ++i) right[i] = x[i] + x[(i + 1) % n];
  int wrong_with = 0, wrong_without = 0;
  for (unsigned seed = 0; seed < 8; ++seed)
    with_schedule(seed, [&] {
      std::vector<int> with(n), without(n);
      launch(neighbours_sum, Grid{1, n, n * sizeof(int)}, nullptr, x.data(), with.data(), true);
      launch(neighbours_sum, Grid{1, n, n * sizeof(int)}, nullptr, x.data(), without.data(), false);
      wrong_with += with != right;
      wrong_without += without != right;
    });
  check(wrong_with == 0, "a barrier is one in every schedule");
  check(wrong_without == 8, "a missing barrier is seen in every schedule");
  int wrong_blocks_with = 0, wrong_blocks_without = 0;
  for (unsigned seed = 0; seed < 8; ++seed)
    with_schedule(seed, [&] {
      for (bool waits : {false, true}) {
        std::vector<int> of_all(4 * n), found(4 * n), expected(4 * n);
        for (int i = 0; i < 4 * n; ++i) expected[i] = i * i + (i + 3 * n) % (4 * n) * ((i + 3 * n) % (4 * n));
        unsigned arrived = 0;
        launch_together(sum_of_neighbours, Grid{4, n, 0}, nullptr, &arrived, of_all.data(), found.data(), waits);
        (waits ? wrong_blocks_with : wrong_blocks_without) += found != expected;
      }
    });
  check(wrong_blocks_with == 0, "a barrier of all blocks is one in every schedule");
  check(wrong_blocks_without == 8, "a missing one is seen in every schedule");
  bool fails_alone = false;
  try {
    unsigned arrived = 0;
    launch_together(half_of_the_blocks_wait, Grid{2, 32, 0}, nullptr, &arrived);
  } catch (const std::runtime_error&) {
    fails_alone = true;
  }
  check(fails_alone, "a barrier for half of the blocks is an error");
  std::vector<int> out(n);
  check(fails(half_of_them_wait, Grid{1, n, 0}, out.data()), "a barrier for half of a block is an error");
  check(fails(write_beyond, Grid{1, n, n * sizeof(int)}, 1), "a write beyond shared memory is an error");
  check(!fails(write_beyond, Grid{1, n, n * sizeof(int)}, 0), "a write into it is none");
}

// --- kernels

void test_bfloat16() {
  check(float(bfloat16(1.0f)) == 1.0f && float(bfloat16(-3.140625f)) == -3.140625f, "bfloat16 keeps its own numbers");
  check(float(bfloat16(1.00390625f)) == 1.0f && float(bfloat16(1.01171875f)) == 1.015625f, "bfloat16: ties to even");
  check(std::isnan(float(bfloat16(NAN))) && float(bfloat16(INFINITY)) == INFINITY, "bfloat16 of no number");
  check(float(bfloat16(3.4e38f)) == INFINITY, "bfloat16 of a number beyond its range");
}

template <class From, class To, class T> void test_gather(int n_rows, int n_columns) {
  RandomNumbers<From> numbers(3);
  const int n_all = 3 * n_rows, stride = n_columns + 3, ld = (n_columns + 7) / 8 * 8;
  const Array<From> X = numbers.array(std::size_t(n_all) * stride);
  std::vector<std::int64_t> order;
  for (int i = 0; i < n_all; ++i) order.push_back((7 * i + 5) % n_all);
  StepState state;
  state.first = n_rows;
  std::vector<To> out(std::size_t(n_rows) * ld, To(9.0f));
  launch_gather<T>(nullptr, X.data(), stride, {order.data(), &state, n_rows}, n_columns, {}, out.data(), ld);
  bool same = true;
  for (int i = 0; i < n_rows; ++i)
    for (int j = 0; j < ld; ++j)
      same =
          same && T(out[std::size_t(i) * ld + j]) == T(To(j < n_columns ? T(X[order[n_rows + i] * stride + j]) : T(0)));
  check(same, "gather " + std::to_string(n_rows) + " x " + std::to_string(n_columns));
}

// The units that are left out are those of the CPU's kernels, bit for bit.
template <class T> void test_dropout(int n_rows, int n) {
  const Kernels<T>& cpu = kernels<T>();
  const int R = cpu.rows, layer = 2;
  const double share = 0.3;
  RandomNumbers<T> numbers(4);
  const Array<T> X = numbers.array(std::size_t(n_rows) * n);
  StepState state;
  state.t = 41;
  state.seed = {77, 99};
  Array<T> out(X.size());
  launch_gather<T>(nullptr, X.data(), n, {nullptr, nullptr, n_rows}, n, {}, out.data(), n);
  check(out == X, "no state, no dropout");
  launch_gather<T>(nullptr, X.data(), n, {nullptr, &state, n_rows}, n, cuda::Dropout<T>(layer, share), out.data(), n);
  bool same = true;
  int left_out = 0;
  for (int first = 0; first < n_rows; first += R) {
    const int count = std::min(R, n_rows - first);
    Array<T> panel(std::size_t(n) * R);
    for (int i = 0; i < count; ++i)
      for (int j = 0; j < n; ++j) panel[j * R + i] = X[(first + i) * n + j];
    cpu.drop(
        {state.seed.of(42).of(layer), std::uint32_t(share * 4294967296.0), std::uint32_t(first), T(1 / (1 - share))}, n,
        panel.data());
    for (int i = 0; i < count; ++i)
      for (int j = 0; j < n; ++j) {
        same = same && panel[j * R + i] == out[(first + i) * n + j];
        left_out += out[(first + i) * n + j] == 0;
      }
  }
  check(same, "dropout " + std::to_string(n_rows) + " x " + std::to_string(n));
  if (n_rows * n > 1000) check(std::abs(left_out - share * n_rows * n) < 0.1 * n_rows * n, "its share");
}

// Rows too wide for shared memory take another way: both against the CPU's kernels, and predictions as well.
template <class T> void test_loss(const std::string& name, int n_rows, int n_outputs) {
  const Kernels<T>& cpu = kernels<T>();
  const Network network({1, n_outputs}, {}, name);
  const RowLoss loss = network.row_loss();
  RandomNumbers<T> numbers(8);
  const int m = loss.n_outputs, ld = m + 5;
  const Array<T> z = numbers.array(std::size_t(n_rows) * ld, 2), bias = numbers.array(std::size_t(m)),
                 weights = numbers.array(std::size_t(n_rows));
  Array<T> y(std::size_t(n_rows) * loss.n_targets), dense(std::size_t(n_rows) * m), gradient(dense), row_loss(n_rows),
      predictions(dense), delta(std::size_t(n_rows) * ld, T(7)), linked(dense);
  std::vector<std::int32_t> labels;
  bool class_numbers = false;
  Losses::visit(loss.number, [&](auto entry) { class_numbers = entry.class_numbers; });
  for (int i = 0; i < n_rows; ++i) {
    labels.push_back(i * 7 % loss.n_targets);
    for (int k = 0; k < loss.n_targets; ++k) y[i * loss.n_targets + k] = T(class_numbers ? k == labels[i] : i % 2 + 1);
    for (int k = 0; k < m; ++k) dense[i * m + k] = z[i * ld + k] + bias[k];
  }
  cpu.apply_loss(loss, dense.data(), y.data(), n_rows, predictions.data(), row_loss.data(), gradient.data());
  std::vector<double> expected(delta.size()), sums(2);
  for (int i = 0; i < n_rows; ++i) {
    for (int k = 0; k < m; ++k) expected[i * ld + k] = double(weights[i]) * double(gradient[i * m + k]);
    sums[0] += double(weights[i]) * double(row_loss[i]);
    sums[1] += double(weights[i]);
  }
  const OutputRows<T> out{z.data(), n_rows, ld, bias.data(), -1, loss};
  const Targets<T> targets{class_numbers ? nullptr : y.data(), class_numbers ? labels.data() : nullptr, weights.data()};
  Array<T> room(loss_room<T>(loss, n_rows));
  std::vector<double> partials(loss_partials<T>(loss, n_rows));
  StepState state;
  const BatchRows rows{nullptr, &state, n_rows};
  launch_loss_rows<T, T>(nullptr, out, rows, targets, room.data(), delta.data(), ld, partials.data(), &state);
  const std::string what = "loss " + name + " " + std::to_string(n_rows) + " x " + std::to_string(m);
  check_close(delta, expected, what);
  check_close(Array<T>{T(state.loss), T(state.weight)}, sums, what + ", sums");
  launch_link_rows<T>(nullptr, out, room.data(), linked.data());
  check_close(linked, std::vector<double>(predictions.begin(), predictions.end()), what + ", predictions");
  const StepState before = state;
  launch_loss_rows<T, T>(nullptr, out, rows, targets, room.data(), nullptr, ld, partials.data(), &state);
  check(state.loss == before.loss && state.weight == before.weight && state.arrived_loss == 0, what + ", no deltas");
}

// A warp makes of a row what a thread makes of it.
template <class T> void test_wide_rows(const std::string& name, const std::vector<double>& loss_values) {
  constexpr int n_rows = 5;
  const Network network({1, 38}, {}, name, loss_values);
  const RowLoss loss = network.row_loss();
  RandomNumbers<T> numbers(6);
  const int m = loss.n_outputs;
  const Array<T> z = numbers.array(std::size_t(n_rows) * m, 2), weights = numbers.array(n_rows);
  Array<T> y(std::size_t(n_rows) * loss.n_targets);
  Losses::visit(loss.number, [&](auto entry) {
    for (int i = 0; i < n_rows; ++i)
      for (int k = 0; k < loss.n_targets; ++k) {
        const double number = entry.class_numbers ? k == 3 * i : (i + k) % 2;
        y[i * loss.n_targets + k] = T(entry.valid(number, loss.h) ? number : number + 1);
      }
  });
  const OutputRows<T> out{z.data(), n_rows, m, nullptr, -1, loss};
  const std::size_t bytes = numbers_of_row(loss) * sizeof(T);
  const auto run = [&](auto loss_kernel, auto link_kernel, int R, int threads) {
    StepState state;
    Array<T> found(2 * z.size());
    double partials[2 * n_rows];
    const Grid grid{dim3(unsigned(ceil_div(n_rows, R))), dim3(unsigned(threads)), R * bytes};
    launch(loss_kernel, grid, nullptr, out, BatchRows{nullptr, &state, n_rows},
           Targets<T>{y.data(), nullptr, weights.data()}, R, nullptr, found.data(), m, partials, &state);
    launch(link_kernel, grid, nullptr, out, R, nullptr, found.data() + z.size());
    return std::pair(found, state.loss);
  };
  const auto [by_threads, loss_by_threads] = run(loss_rows<T, T, false>, link_rows<T, false>, 32, 32);
  for (unsigned seed = 0; seed < 4; ++seed)
    with_schedule(seed, [&, &expected = by_threads, &sum = loss_by_threads] {
      const auto [by_warps, loss_by_warps] = run(loss_rows<T, T, true>, link_rows<T, true>, 2, 64);
      check(by_warps == expected, "a warp takes a row: " + name);
      check(std::abs(loss_by_warps - sum) <= 1e-12 * (1 + std::abs(sum)), "and their sum: " + name); // in another order
    });
}

// As many rows as a batch may have.
void test_grids() {
  constexpr int most = 1 << 30;
  for (const Grid& grid : {chunk_per_block(most, 1000), tiles_of(most, 16), warp_per_row(most)})
    check(grid.blocks.y == 1 && grid.blocks.x < 0x7fffffffu, "the grid of a large batch");
}

} // namespace

void test_cuda_kernels() {
  test_host();
  test_bfloat16();
  for (int n_rows : {1, 31, 33, 130})
    for (int n : {1, 31, 33, 130}) {
      test_gather<float, float, float>(n_rows, n);
      test_dropout<float>(n_rows, n);
      test_dropout<double>(n_rows, n);
    }
  test_gather<double, float, float>(33, 31);
  test_gather<float, double, double>(33, 31);
  test_gather<double, bfloat16, float>(33, 31);
  for (int n_rows : {1, 33, 130}) {
    for (const std::string& name : Losses::names()) {
      test_loss<float>(name, n_rows, 4);
      test_loss<double>(name, n_rows, 10);
    }
    test_loss<float>("log_loss", n_rows, 1001);
  }
  for (const std::string& name : Losses::names()) {
    test_loss<float>(name, 9, 100);
    test_wide_rows<float>(name, {});
    test_wide_rows<double>(name, {});
  }
  test_wide_rows<float>("log_loss", {0.1});
  test_grids();
  test_loss<float>("log_loss", 3, 7001);
  test_loss<double>("squared_error", 33, 4001);
}

} // namespace fastmlp
