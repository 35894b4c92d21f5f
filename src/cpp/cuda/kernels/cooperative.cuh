// Steps of a network by one kernel whose blocks wait for one another between layers: forward, the last layer with the
// loss and the way back through it, back, and weight gradients with the optimizer. Every number is computed by one
// thread, in one order.
//
// A block takes 16 rows of some columns at a time, and its warps the parts of the depth; of weight gradients a warp
// takes 16 x 16, and steps on these weights at once.
#pragma once

#include "../../activations.hpp"
#include "../../losses.hpp"
#include "../cooperative.hpp"
#include "grid_barrier.cuh"
#include "update.cuh"
#include "warp_products.cuh"

namespace fastmlp::cuda {

// What all threads of a block need of a step.
template <Precision precision> struct CooperativeBlock {
  using Operand = typename Fragments<precision>::Operand;

  const CooperativePlan& plan;
  const CooperativeData& data;
  const StepState& state; // the block's own
  unsigned char* memory;
  double* sums_room;  // for block_sum
  std::int64_t ahead; // of this step's rows

  template <class T> FASTMLP_HOST_DEVICE T* shared(int place) const { return reinterpret_cast<T*>(memory + place); }
  __device__ int warp() const { return int(threadIdx.x) / warp_size; }
  __device__ Operand* operands() const { return shared<Operand>(plan.operands_at) + warp() * 2 * operand_room; }
  __device__ float* tile(int warp) const { return shared<float>(plan.tiles_at) + warp * tile_room; }

  FASTMLP_HOST_DEVICE int n_rows() const { return data.rows.n; }
  FASTMLP_HOST_DEVICE float* rows_at(std::int64_t place) const { return data.room + place * n_rows(); }
  FASTMLP_HOST_DEVICE float* units(int l) const { return rows_at(plan.units_at[l]); }
  FASTMLP_HOST_DEVICE float* z(int l) const { return rows_at(plan.z_at[l]); }
  FASTMLP_HOST_DEVICE float* deltas(int l) const { return rows_at(plan.deltas_at[l]); }
  FASTMLP_HOST_DEVICE const float* weights(int l) const { return data.parameters.w + plan.coefs[l]; }
  FASTMLP_HOST_DEVICE float bias(int l, int j) const { return data.parameters.w[plan.biases[l] + j]; }
  FASTMLP_HOST_DEVICE std::int64_t row(int i) const {
    BatchRows rows = data.rows;
    rows.ahead = ahead;
    return rows[i];
  }

  // visit(first row, first column, tiles of 16 columns) for the parts of a matrix of n columns that are this block's:
  // as few columns at once as keep all blocks busy.
  template <class Visit> __device__ void for_each_part(int n, Visit&& visit) const {
    const int strips = plan.strips(n_rows()), across = ceil_div(n, cooperative_tile);
    int together = 1;
    while (together < cooperative_warps && strips * ceil_div(across, together) > int(gridDim.x)) together *= 2;
    const int parts = ceil_div(across, together);
    for (int part = int(blockIdx.x); part < strips * parts; part += int(gridDim.x)) {
      const int tile = part % parts * together, left = across - tile;
      visit(part / parts * cooperative_tile, tile * cooperative_tile, left < together ? left : together);
    }
  }

  // Parts of the depth for a product of so many tiles: the warps are shared out.
  static FASTMLP_HOST_DEVICE int slices_of(int n_tiles) { return cooperative_warps / n_tiles; }

  // The products of 16 rows with n_tiles times 16 columns; parts of them are left in the tiles of the warps.
  template <bool a_along, bool b_along, class A, class B>
  __device__ void multiply(int n_tiles, int depth, A&& a, B&& b) const {
    const int slices = slices_of(n_tiles), mine = warp() / slices, slice = warp() % slices;
    const int length = ceil_div(ceil_div(depth, slices), cooperative_tile) * cooperative_tile;
    const int begin = slice * length, end = begin + length < depth ? begin + length : depth;
    TileSums sums{};
    if (mine < n_tiles)
      warp_product<precision, a_along, b_along>(sums, operands(), begin, end, a,
                                                [&](int j, int k) { return b(mine * cooperative_tile + j, k); });
    sums.for_each([&](int i, int j, float x) { tile(warp())[i * TileSums::ld + j] = x; });
    __syncthreads();
  }
  // f(row, column, sum) for each number of `multiply`, with the parts of the depth in their order.
  template <class F> __device__ void for_each_sum(int n_tiles, F&& f) const {
    const int slices = slices_of(n_tiles);
    FASTMLP_ROLLED
    for (int at = int(threadIdx.x); at < n_tiles * 256; at += cooperative_threads) {
      const int of_tile = at / 256, i = at % 256 / 16, j = at % 16;
      float sum = 0;
      for (int s = 0; s < slices; ++s) sum += tile(of_tile * slices + s)[i * TileSums::ld + j];
      f(i, of_tile * cooperative_tile + j, sum);
    }
    __syncthreads();
  }

  // Numbers of matrices, 0 outside of them.
  __device__ float weight(int l, int i, int j) const {
    return i < plan.sizes[l - 1] && j < plan.sizes[l] ? weights(l)[i * plan.ld_coefs[l] + j] : 0.0f;
  }
  __device__ float unit(int l, int row, int j) const {
    return row < n_rows() && j < plan.sizes[l] ? units(l)[std::int64_t(row) * plan.ld[l] + j] : 0.0f;
  }
  __device__ float delta(int l, int row, int j) const {
    return row < n_rows() && j < plan.sizes[l] ? deltas(l)[std::int64_t(row) * plan.ld[l] + j] : 0.0f;
  }
  __device__ float input(const Kept<float>& kept, int i, int j) const {
    return i < n_rows() && j < plan.sizes[0] ? kept(data.X[row(i) * data.stride + j], i, j) : 0.0f;
  }

  // --- forward

  __device__ void forward(int l) const {
    const Kept<float> kept(plan.dropout[l], &state), kept_inputs(plan.dropout[0], &state);
    for_each_part(plan.sizes[l], [&](int row, int column, int n_tiles) {
      const auto W = [&](int j, int k) { return weight(l, k, column + j); };
      if (l == 1)
        multiply<true, false>(n_tiles, plan.sizes[0], [&](int i, int k) { return input(kept_inputs, row + i, k); }, W);
      else
        multiply<true, false>(n_tiles, plan.sizes[l - 1], [&](int i, int k) { return unit(l - 1, row + i, k); }, W);
      activate(l, row, column, n_tiles, kept);
    });
    if (l == 1) keep_inputs(kept_inputs);
  }

  __device__ void activate(int l, int row, int column, int n_tiles, const Kept<float>& kept) const {
    Activations::visit(plan.activations[l], [&](auto entry) {
      for_each_sum(n_tiles, [&](int i, int j, float x) {
        i += row, j += column;
        if (i >= n_rows() || j >= plan.sizes[l]) return;
        const std::int64_t at = std::int64_t(i) * plan.ld[l] + j;
        const float pre = x + bias(l, j);
        if (!entry.slope_from_output) z(l)[at] = pre;
        units(l)[at] = kept(entry.value(pre), i, j);
      });
    });
  }

  // For the gradients of the first weights.
  __device__ void keep_inputs(const Kept<float>& kept) const {
    const int n_in = plan.sizes[0], step = int(gridDim.x) * cooperative_warps;
    for (int i = int(blockIdx.x) * cooperative_warps + warp(); i < n_rows(); i += step)
      for (int j = lane_number(); j < n_in; j += warp_size)
        units(0)[std::int64_t(i) * plan.ld[0] + j] = input(kept, i, j);
  }

  // --- the last layer, the loss, and the way back through it, for 16 rows at a time

  __device__ void outputs_and_back() const {
    const int L = plan.n_layers, n_tiles = ceil_div(plan.sizes[L], cooperative_tile);
    float *outputs = shared<float>(plan.outputs_at), *gradients = shared<float>(plan.gradients_at);
    for (int strip = int(blockIdx.x); strip < plan.strips(n_rows()); strip += int(gridDim.x)) {
      const int first = strip * cooperative_tile;
      multiply<true, false>(
          n_tiles, plan.sizes[L - 1], [&](int i, int k) { return unit(L - 1, first + i, k); },
          [&](int j, int k) { return weight(L, k, j); });
      for_each_sum(n_tiles, [&](int i, int j, float x) {
        if (j < plan.sizes[L]) outputs[j * cooperative_tile + i] = x + bias(L, j);
      });
      enter_targets(first);
      __syncthreads();
      loss(strip, outputs, gradients);
      back_from_outputs(first, gradients); // the next strip's product waits for all before its outputs are written
    }
  }

  __device__ void enter_targets(int first) const {
    const int m = plan.n_targets;
    float* targets = shared<float>(plan.targets_at);
    for (int at = int(threadIdx.x); at < cooperative_tile * m; at += cooperative_threads) {
      const int i = at / m, k = at - i * m;
      if (first + i >= n_rows()) continue;
      const std::int64_t row = this->row(first + i);
      targets[k * cooperative_tile + i] =
          data.targets.labels ? float(data.targets.labels[row] == k) : data.targets.y[row * m + k];
    }
  }

  // Deltas of the outputs, also in place of the gradients, and the sums of the strip's losses and weights.
  __device__ void loss(int strip, float* outputs, float* gradients) const {
    constexpr int R = cooperative_tile;
    const int L = plan.n_layers, m = plan.sizes[L], first = strip * R, i = int(threadIdx.x);
    double sum = 0, weight = 0;
    if (i < R && first + i < n_rows()) {
      const float w = data.targets.weight(row(first + i));
      const bool activated = plan.activations[L] >= 0;
      float *slope = outputs + i, *gradient = gradients + i; // the same numbers if there is no activation
      if (activated)
        Activations::visit(plan.activations[L], [&](auto entry) {
          for (int k = 0; k < m; ++k) {
            const float pre = slope[k * R], a = entry.value(pre);
            gradient[k * R] = a;
            slope[k * R] = entry.slope(entry.slope_from_output ? a : pre, a);
          }
        });
      Losses::visit(data.loss.number, [&](auto entry) {
        sum = double(w * entry.row(gradient, shared<float>(plan.targets_at) + i, plan.n_targets, R, data.loss.h));
      });
      for (int k = 0; k < m; ++k) gradient[k * R] *= activated ? w * slope[k * R] : w;
      weight = double(w);
    }
    sum = block_sum(sum, sums_room);
    weight = block_sum(weight, sums_room); // behind its barriers all gradients are ready
    if (i == 0) {
      data.sums[2 * strip] = sum;
      data.sums[2 * strip + 1] = weight;
    }
    for (int at = i; at < R * m; at += cooperative_threads) {
      const int row = at / m, k = at - row * m;
      if (first + row < n_rows()) deltas(L)[std::int64_t(first + row) * plan.ld[L] + k] = gradients[k * R + row];
    }
  }

  __device__ void back_from_outputs(int first, const float* gradients) const {
    const int L = plan.n_layers, below = L - 1;
    for (int column = warp() * cooperative_tile; column < plan.sizes[below];
         column += cooperative_warps * cooperative_tile) {
      TileSums sums{};
      warp_product<precision, false, true>(
          sums, operands(), 0, plan.sizes[L],
          [&](int i, int k) { return first + i < n_rows() ? gradients[k * cooperative_tile + i] : 0.0f; },
          [&](int j, int k) { return weight(L, column + j, k); });
      differentiate(below, first, column, [&](auto&& f) { sums.for_each_from(tile(warp()), f); });
    }
  }

  // --- back

  // From the deltas of layer l to those of the layer below.
  __device__ void backward(int l) const {
    for_each_part(plan.sizes[l - 1], [&](int row, int column, int n_tiles) {
      multiply<true, true>(
          n_tiles, plan.sizes[l], [&](int i, int k) { return delta(l, row + i, k); },
          [&](int j, int k) { return weight(l, column + j, k); });
      differentiate(l - 1, row, column, [&](auto&& f) { for_each_sum(n_tiles, f); });
    });
  }

  // Deltas of hidden layer l from numbers that for_each visits, the gradients by its units.
  template <class ForEach> __device__ void differentiate(int l, int row, int column, ForEach&& for_each) const {
    const Kept<float> kept(plan.dropout[l], &state);
    const float unscale = 1.0f / kept.scale;
    Activations::visit(plan.activations[l], [&](auto entry) {
      for_each([&](int i, int j, float g) {
        i += row, j += column;
        if (i >= n_rows() || j >= plan.sizes[l]) return;
        const std::int64_t at = std::int64_t(i) * plan.ld[l] + j;
        const float a = units(l)[at] * unscale, pre = entry.slope_from_output ? a : z(l)[at];
        deltas(l)[at] = kept(g, i, j) * entry.slope(pre, a);
      });
    });
  }

  // --- weights

  // The loss and the weight of the batch, the same in all threads of all blocks.
  __device__ void add_up(double& loss, double& weight) const {
    loss = weight = 0;
    for (int strip = int(threadIdx.x); strip < plan.strips(n_rows()); strip += cooperative_threads) {
      loss += data.sums[2 * strip];
      weight += data.sums[2 * strip + 1];
    }
    loss = block_sum(loss, sums_room);
    weight = block_sum(weight, sums_room);
  }

  // A step on this block's weights; returns the sum of their squares before it, of the whole block.
  __device__ double step_weights() const {
    const int L = plan.n_layers, n_tiles = plan.first_tile[L + 1], n_groups = plan.first_group[L + 1];
    double squares = 0;
    for (int job = int(blockIdx.x) * cooperative_warps + warp(); job < n_tiles + n_groups;
         job += int(gridDim.x) * cooperative_warps)
      job < n_tiles ? step_tile(job, squares) : step_biases(job - n_tiles);
    return block_sum(squares, sums_room);
  }

  // The optimizer on numbers that for_each visits: the place among the parameters, and the gradient.
  template <class ForEach> __device__ void step_each(double& squares, ForEach&& for_each) const {
    const Parameters<float>& p = data.parameters;
    const StepCoefficients<float>& c = data.how.table[state.t - state.table_after];
    const float scale = float(scale_of(state));
    Optimizers::visit(data.how.optimizer, [&](auto entry) {
      for_each([&](std::int64_t at, float gradient) {
        if (p.decays(at)) squares += double(p.w[at]) * double(p.w[at]);
        step<decltype(entry)>(p, at, finished(p, at, gradient, data.how.alpha, scale), data.how.clip_value, c);
      });
    });
  }

  __device__ void step_tile(int number, double& squares) const {
    int l = 1;
    while (number >= plan.first_tile[l + 1]) ++l;
    const int across = ceil_div(plan.sizes[l], cooperative_tile), within = number - plan.first_tile[l];
    const int input = within / across * cooperative_tile, output = within % across * cooperative_tile;
    TileSums sums{};
    warp_product<precision, false, false>(
        sums, operands(), 0, n_rows(), [&](int i, int k) { return unit(l - 1, k, input + i); },
        [&](int j, int k) { return delta(l, k, output + j); });
    step_each(squares, [&](auto&& f) {
      sums.for_each_from(tile(warp()), [&](int i, int j, float gradient) {
        if (input + i < plan.sizes[l - 1] && output + j < plan.sizes[l])
          f(plan.coefs[l] + (input + i) * plan.ld_coefs[l] + output + j, gradient);
      });
    });
  }

  __device__ void step_biases(int group) const {
    int l = 1;
    while (group >= plan.first_group[l + 1]) ++l;
    const int j = (group - plan.first_group[l]) * warp_size + lane_number();
    float gradient = 0;
    for (int i = 0; i < n_rows(); ++i) gradient += delta(l, i, j);
    double none = 0; // biases do not decay
    step_each(none, [&](auto&& f) {
      if (j < plan.sizes[l]) f(plan.biases[l] + j, gradient);
    });
  }
};

// One step. `state` is in the block's shared memory, and the same in all blocks.
template <Precision precision>
FASTMLP_DEVICE void cooperative_step(const CooperativeBlock<precision>& block, GridBarrier& barrier, StepState& state) {
  const CooperativePlan& plan = block.plan;
  const CooperativeData& data = block.data;
  for (int l = 1; l < plan.n_layers; ++l) {
    block.forward(l);
    barrier.wait();
  }
  block.outputs_and_back();
  barrier.wait();
  for (int l = plan.n_layers - 1; l > 1; --l) {
    block.backward(l);
    barrier.wait();
  }
  double loss, weight;
  block.add_up(loss, weight);
  if (threadIdx.x == 0) {
    state.loss = loss;
    state.weight = weight;
  }
  __syncthreads();
  double squares = 0;
  if (state.moves()) squares = block.step_weights();
  if (threadIdx.x == 0) data.how.partials[blockIdx.x] = squares;
  barrier.wait();
  squares = sum_partials(data.how.partials, gridDim.x, block.sums_room);
  if (threadIdx.x == 0) {
    const BatchReport report = end_step(&state, double(data.how.alpha), squares, 0);
    if (blockIdx.x == 0) data.how.reports[state.batch - 1] = report;
  }
  __syncthreads();
}

template <Precision precision>
FASTMLP_KERNEL __launch_bounds__(cooperative_threads, 1)
    cooperative_steps(const FASTMLP_GRID_CONSTANT CooperativePlan plan,
                      const FASTMLP_GRID_CONSTANT CooperativeData data) {
  FASTMLP_DYNAMIC_SHARED(unsigned char, memory);
  FASTMLP_SHARED(double, room, [most_warps]);
  StepState& state = *reinterpret_cast<StepState*>(memory + plan.state_at);
  if (data.state->failed != 0) return; // all blocks alike: nobody writes it before all have begun
  if (threadIdx.x == 0) state = *data.state;
  __syncthreads();
  GridBarrier barrier(&data.state->arrived_together);
  for (int s = 0; s < data.n_steps && state.failed == 0; ++s)
    cooperative_step(CooperativeBlock<precision>{plan, data, state, memory, room, std::int64_t(s) * data.rows.n},
                     barrier, state);
  if (!is_last_block(&data.state->arrived_end, gridDim.x)) return;
  if (threadIdx.x != 0) return;
  state.first += data.how.advance;
  state.arrived_together = state.arrived_end = 0;
  *data.state = state;
}

template <Precision precision>
void launch_cooperative_instance(cudaStream_t stream, const CooperativePlan& plan, const CooperativeData& data,
                                 int n_blocks) {
  launch_together(cooperative_steps<precision>,
                  Grid{dim3(unsigned(n_blocks)), dim3(cooperative_threads), std::size_t(plan.shared_bytes)}, stream,
                  plan, data);
}

} // namespace fastmlp::cuda
