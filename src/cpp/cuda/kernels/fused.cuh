// A step of a narrow network in one kernel: forward, loss and backward of some rows at a time, by blocks that each keep
// all weights in shared memory and the gradients of all weights in registers until their rows are done. What is left is
// a partial gradient of every block, which `update` adds up in the order of the blocks.
//
// Rows go through in tiles: block b takes tiles b, b + number of blocks, ...; a warp computes 16 x 16 numbers at a
// time. Of the weight gradients warp w owns the 16 x 16 tiles w, w + 8, w + 16, ..., counted through all layers.
#pragma once

#include "../../activations.hpp"
#include "../../losses.hpp"
#include "../fused.hpp"
#include "block_sums.cuh"
#include "fragments.cuh"

namespace fastmlp::cuda {

// Shared memory of a block, by the plan.
template <Precision precision> struct FusedBlock {
  using F = Fragments<precision>;
  using Operand = typename F::Operand;

  const FusedPlan& plan;
  unsigned char* memory;

  template <class T> FASTMLP_HOST_DEVICE T* at(int place) const { return reinterpret_cast<T*>(memory + place); }
  FASTMLP_HOST_DEVICE Operand* activations(int l) const { return at<Operand>(plan.activations_at[l]); }
  FASTMLP_HOST_DEVICE Operand* weights(int l) const { return at<Operand>(plan.weights_at[l]); }
  FASTMLP_HOST_DEVICE float* z(int l) const { return at<float>(plan.z_at[l]); }
  FASTMLP_HOST_DEVICE const float* biases(int l) const { return at<float>(plan.biases_at[l]); }
  FASTMLP_HOST_DEVICE float* outputs() const { return at<float>(plan.outputs_at); }
  FASTMLP_HOST_DEVICE float* gradients() const { return at<float>(plan.gradients_at); }
  FASTMLP_HOST_DEVICE float* targets() const { return at<float>(plan.targets_at); }
  __device__ float* tile_room() const {
    return at<float>(plan.tiles_at) + int(threadIdx.x) / warp_size * TileSums::numbers;
  }

  // Weights of layer l from global memory, with zeros around them.
  __device__ void load_weights(const float* w) const {
    for (int l = 1; l <= plan.n_layers; ++l) {
      const int n_in = plan.sizes[l - 1], n_out = plan.sizes[l], ld = plan.ld[l];
      Operand* to = weights(l);
      for (int at = int(threadIdx.x); at < plan.padded[l - 1] * ld; at += fused_threads) {
        const int i = at / ld, j = at - i * ld;
        to[at] = F::operand(i < n_in && j < n_out ? w[plan.coefs[l] + i * plan.ld_coefs[l] + j] : 0.0f);
      }
      float* b = this->at<float>(plan.biases_at[l]);
      for (int j = int(threadIdx.x); j < plan.padded[l]; j += fused_threads)
        b[j] = j < n_out ? w[plan.biases[l] + j] : 0.0f;
    }
  }

  // Inputs and targets of `count` rows from number `first` of the batch; the others are 0.
  __device__ void enter(const FusedData& data, int first, int count) const {
    const int n_in = plan.sizes[0], ld = plan.ld[0], m = data.loss.n_targets;
    const Kept<float> kept(plan.dropout[0], data.state);
    for (int at = int(threadIdx.x); at < plan.rows * plan.padded[0]; at += fused_threads) {
      const int i = at / plan.padded[0], j = at - i * plan.padded[0];
      float x = 0;
      if (i < count && j < n_in) x = kept(data.X[data.rows[first + i] * data.stride + j], first + i, j);
      activations(0)[i * ld + j] = F::operand(x);
    }
    for (int at = int(threadIdx.x); at < count * m; at += fused_threads) {
      const int i = at / m, k = at - i * m;
      const std::int64_t row = data.rows[first + i];
      targets()[k * plan.rows + i] =
          data.targets.labels ? float(data.targets.labels[row] == k) : data.targets.y[row * m + k];
    }
  }

  // visit(first row, first column) of the tiles of a layer of units that are this warp's.
  template <class Visit> __device__ void for_each_tile(int l, Visit&& visit) const {
    const int across = plan.padded[l] / fused_tile, n = plan.rows / fused_tile * across;
    for (int tile = int(threadIdx.x) / warp_size; tile < n; tile += fused_warps)
      visit(tile / across * fused_tile, tile % across * fused_tile);
  }

  __device__ ByRows<Operand> rows_of(int l, int row, int column) const {
    return {activations(l) + row * plan.ld[l] + column, plan.ld[l]};
  }

  __device__ void forward(int l, int first, const StepState* state) const {
    const bool hidden = l < plan.n_layers;
    const Kept<float> kept(plan.dropout[l], hidden ? state : nullptr);
    for_each_tile(l, [&](int row, int column) {
      TileSums sums{};
      const ByRows<Operand> W{weights(l) + column, plan.ld[l]};
      multiply_tile<precision>(sums, rows_of(l - 1, row, 0), W, plan.padded[l - 1]);
      const float* b = biases(l);
      if (!hidden)
        return sums.for_each([&](int i, int j, float x) {
          if (column + j < plan.sizes[l]) outputs()[(column + j) * plan.rows + row + i] = x + b[column + j];
        });
      Activations::visit(plan.activations[l], [&](auto entry) {
        sums.for_each_from(tile_room(), [&](int i, int j, float x) {
          const int at = (row + i) * plan.ld[l] + column + j;
          const float pre = x + b[column + j];
          if (!entry.slope_from_output) z(l)[at] = pre;
          const float value = column + j < plan.sizes[l] ? entry.value(pre) : 0.0f;
          activations(l)[at] = F::operand(kept(value, first + row + i, column + j));
        });
      });
    });
  }

  // Deltas of the outputs; returns the weighted loss of this thread's row.
  __device__ double loss(const FusedData& data, int first, int count, double& weight) const {
    const int L = plan.n_layers, m = plan.sizes[L], R = plan.rows, i = int(threadIdx.x);
    double sum = 0;
    if (i < count) {
      const float w = data.targets.weight(data.rows[first + i]);
      float *slope = outputs() + i, *gradient = gradients() + i; // the same numbers if there is no activation
      const bool activated = plan.activations[L] >= 0;
      if (activated)
        Activations::visit(plan.activations[L], [&](auto entry) {
          for (int k = 0; k < m; ++k) {
            const float z = slope[k * R], a = entry.value(z);
            gradient[k * R] = a;
            slope[k * R] = entry.slope(entry.slope_from_output ? a : z, a);
          }
        });
      Losses::visit(data.loss.number, [&](auto entry) {
        sum = double(w * entry.row(gradient, targets() + i, data.loss.n_targets, R, data.loss.h));
      });
      for (int k = 0; k < m; ++k) gradient[k * R] *= activated ? w * slope[k * R] : w;
      weight += double(w);
    }
    __syncthreads();
    for (int at = i; at < R * plan.padded[L]; at += fused_threads) {
      const int k = at / R, row = at - k * R;
      activations(L)[row * plan.ld[L] + k] = F::operand(k < m && row < count ? gradients()[k * R + row] : 0.0f);
    }
    return sum;
  }

  // In place of the activations of layer l - 1 its deltas, from those of layer l.
  __device__ void backward(int l, int first, const StepState* state) const {
    const int below = l - 1;
    const Kept<float> kept(plan.dropout[below], state);
    const float unscale = 1.0f / kept.scale;
    for_each_tile(below, [&](int row, int column) {
      TileSums sums{};
      const ByColumns<Operand> transposed{weights(l) + column * plan.ld[l], plan.ld[l]};
      multiply_tile<precision>(sums, rows_of(l, row, 0), transposed, plan.padded[l]);
      Activations::visit(plan.activations[below], [&](auto entry) {
        sums.for_each_from(tile_room(), [&](int i, int j, float g) {
          const int at = (row + i) * plan.ld[below] + column + j;
          const float a = float(activations(below)[at]) * unscale;
          const float pre = entry.slope_from_output ? a : z(below)[at];
          const float delta = kept(g, first + row + i, column + j) * entry.slope(pre, a);
          activations(below)[at] = F::operand(column + j < plan.sizes[below] ? delta : 0.0f);
        });
      });
    });
  }
};

// The gradients that a thread keeps over all rows of its block.
template <int slots> struct FusedGradients {
  TileSums weights[slots] = {};
  float biases[most_fused_biases] = {};

  // visit(slot, first input, first output) for the tiles of layer l that are this warp's; slots are known to the
  // compiler.
  template <class Visit> static __device__ void for_each_tile(const FusedPlan& plan, int l, Visit&& visit) {
    const int across = plan.padded[l] / fused_tile, warp = int(threadIdx.x) / warp_size;
    FASTMLP_UNROLL
    for (int s = 0; s < slots; ++s) {
      const int tile = s * fused_warps + warp - plan.first_tile[l];
      if (tile >= 0 && tile < plan.first_tile[l + 1] - plan.first_tile[l])
        visit(s, tile / across * fused_tile, tile % across * fused_tile);
    }
  }
  template <class Visit> static __device__ void for_each_bias(const FusedPlan& plan, int l, Visit&& visit) {
    FASTMLP_UNROLL
    for (int s = 0; s < most_fused_biases; ++s) {
      const int j = s * fused_threads + int(threadIdx.x) - plan.first_bias[l];
      if (j >= 0 && j < plan.sizes[l]) visit(s, j);
    }
  }

  // Adds those of layer l: activations below times deltas above.
  template <Precision precision> __device__ void add(const FusedBlock<precision>& block, int l) {
    using Operand = typename FusedBlock<precision>::Operand;
    const FusedPlan& plan = block.plan;
    for_each_tile(plan, l, [&](int s, int input, int output) {
      const ByColumns<Operand> a{block.activations(l - 1) + input, plan.ld[l - 1]};
      multiply_tile<precision>(weights[s], a, block.rows_of(l, 0, output), plan.rows);
    });
    for_each_bias(plan, l, [&](int s, int j) {
      const Operand* delta = block.activations(l) + j;
      for (int row = 0; row < plan.rows; ++row) biases[s] += float(delta[row * plan.ld[l]]);
    });
  }

  __device__ void write(const FusedPlan& plan, float* gradient) {
    for (int l = 1; l <= plan.n_layers; ++l) {
      const int n_in = plan.sizes[l - 1], n_out = plan.sizes[l];
      for_each_tile(plan, l, [&](int s, int input, int output) {
        weights[s].for_each([&](int i, int j, float x) {
          if (input + i < n_in && output + j < n_out)
            gradient[plan.coefs[l] + (input + i) * plan.ld_coefs[l] + output + j] = x;
        });
      });
      for_each_bias(plan, l, [&](int s, int j) { gradient[plan.biases[l] + j] = biases[s]; });
    }
  }
};

// Forward and backward of the rows from `first` on, as many as the block takes at once.
template <Precision precision, int slots>
FASTMLP_DEVICE void pass_tile(const FusedBlock<precision>& block, const FusedData& data, int first,
                              FusedGradients<slots>& gradients, double& loss, double& weight) {
  const FusedPlan& plan = block.plan;
  const int left = data.rows.n - first, count = left < plan.rows ? left : plan.rows;
  block.enter(data, first, count);
  __syncthreads();
  for (int l = 1; l <= plan.n_layers; ++l) {
    block.forward(l, first, data.state);
    __syncthreads();
  }
  loss += block.loss(data, first, count, weight);
  __syncthreads();
  for (int l = plan.n_layers; l > 0; --l) {
    gradients.add(block, l);
    __syncthreads();
    if (l > 1) block.backward(l, first, data.state);
    __syncthreads();
  }
}

template <Precision precision, int slots>
FASTMLP_KERNEL __launch_bounds__(fused_threads, fused_blocks_at_once(slots))
    fused_step(const FASTMLP_GRID_CONSTANT FusedPlan plan, const FASTMLP_GRID_CONSTANT FusedData data) {
  FASTMLP_DYNAMIC_SHARED(unsigned char, memory);
  FASTMLP_SHARED(double, room, [most_warps]);
  const FusedBlock<precision> block{plan, memory};
  FusedGradients<slots> gradients;
  double loss = 0, weight = 0;
  block.load_weights(data.w);
  for (int first = int(blockIdx.x) * plan.rows; first < data.rows.n; first += int(gridDim.x) * plan.rows)
    pass_tile(block, data, first, gradients, loss, weight);
  gradients.write(plan, data.gradients + std::int64_t(blockIdx.x) * plan.n_parameters);
  loss = block_sum(loss, room);
  weight = block_sum(weight, room);
  finish_loss(loss, weight, data.partials, room, data.state);
}

template <Precision precision, int slots>
void launch_fused_instance(cudaStream_t stream, const FusedPlan& plan, const FusedData& data, int n_blocks) {
  launch(fused_step<precision, slots>,
         Grid{dim3(unsigned(n_blocks)), dim3(fused_threads), std::size_t(plan.shared_bytes)}, stream, plan, data);
}

} // namespace fastmlp::cuda
