// Outputs: bias, activation, link, loss and its gradient. A thread takes a row; the rows of a block stand in shared
// memory side by side, as the catalogue of losses wants them.
#pragma once

#include "../../activations.hpp"
#include "../../losses.hpp"
#include "../bfloat16.hpp"
#include "block_sums.cuh"

namespace fastmlp::cuda {

// Sums of the last layer of weights, z (n_rows, ld), and what becomes of them.
template <class T> struct OutputRows {
  const T* z;
  int n_rows, ld;
  const T* bias;  // may be null
  int activation; // number in Activations, before the loss and its link; -1: none
  RowLoss loss;   // its hyper-parameters are in the device's memory
};

// The block's rows in its room: z[k * R + i] is output k of its i-th row.
template <class T> struct LossPanel {
  int first, n, R;
  T *z, *y;
};

template <class T> FASTMLP_DEVICE LossPanel<T> panel_of(const OutputRows<T>& out, int R, T* shared, T* room) {
  const int first = int(blockIdx.x) * R, left = out.n_rows - first;
  const std::ptrdiff_t size = std::ptrdiff_t(R) * (out.loss.n_outputs + out.loss.n_targets);
  T* z = room ? room + std::ptrdiff_t(blockIdx.x) * size : shared;
  return {first, left < R ? left : R, R, z, z + std::ptrdiff_t(R) * out.loss.n_outputs};
}

// f(row of the panel, output k, its sum z) for each number, neighbours by neighbouring threads.
template <class T, class F>
FASTMLP_DEVICE void for_each_output(const OutputRows<T>& out, const LossPanel<T>& panel, F&& f) {
  const int m = out.loss.n_outputs;
  for (int at = int(threadIdx.x); at < panel.n * m; at += int(blockDim.x)) {
    const int i = at / m, k = at - i * m;
    f(i, k, out.z[std::ptrdiff_t(panel.first + i) * out.ld + k] + (out.bias ? out.bias[k] : T(0)));
  }
}

template <class T> FASTMLP_DEVICE void enter_outputs(const OutputRows<T>& out, const LossPanel<T>& panel) {
  if (out.activation < 0)
    for_each_output(out, panel, [&](int i, int k, T z) { panel.z[k * panel.R + i] = z; });
  else
    Activations::visit(out.activation, [&](auto entry) {
      for_each_output(out, panel, [&](int i, int k, T z) { panel.z[k * panel.R + i] = entry.value(z); });
    });
}

template <class T>
FASTMLP_DEVICE void enter_targets(const OutputRows<T>& out, const BatchRows& rows, const Targets<T>& targets,
                                  const LossPanel<T>& panel) {
  const int m = out.loss.n_targets;
  for (int at = int(threadIdx.x); at < panel.n * m; at += int(blockDim.x)) {
    const int i = at / m, k = at - i * m;
    const std::int64_t row = rows[panel.first + i];
    panel.y[k * panel.R + i] = targets.labels ? T(targets.labels[row] == k) : targets.y[row * m + k];
  }
}

// delta (n_rows, ld_delta): the gradient of the weighted losses with respect to z; columns from n_outputs on become 0.
// state.loss and state.weight: sums over the batch.
template <class T, class A>
FASTMLP_KERNEL loss_rows(OutputRows<T> out, BatchRows rows, Targets<T> targets, int R, T* room, A* delta, int ld_delta,
                         double* partials, StepState* state) {
  FASTMLP_DYNAMIC_SHARED(T, shared);
  FASTMLP_SHARED(double, sums, [most_warps]);
  const LossPanel<T> panel = panel_of(out, R, shared, room);
  enter_outputs(out, panel);
  enter_targets(out, rows, targets, panel);
  __syncthreads();
  const int i = int(threadIdx.x);
  double loss = 0, weight = 0;
  if (i < panel.n) {
    const T w = targets.weight(rows[panel.first + i]);
    Losses::visit(out.loss.number, [&](auto entry) {
      loss = double(w * entry.row(panel.z + i, panel.y + i, out.loss.n_targets, panel.R, out.loss.h));
    });
    for (int k = 0; k < out.loss.n_outputs; ++k) panel.z[k * panel.R + i] *= w;
    weight = double(w);
  }
  loss = block_sum(loss, sums);
  weight = block_sum(weight, sums); // behind its barriers all gradients are ready
  if (delta) {
    const auto put = [&](int row, int k, T d) { delta[std::ptrdiff_t(panel.first + row) * ld_delta + k] = A(d); };
    if (out.activation < 0)
      for_each_output(out, panel, [&](int row, int k, T) { put(row, k, panel.z[k * panel.R + row]); });
    else
      Activations::visit(out.activation, [&](auto entry) {
        for_each_output(out, panel, [&](int row, int k, T z) {
          const T a = entry.value(z);
          put(row, k, panel.z[k * panel.R + row] * entry.slope(entry.slope_from_output ? a : z, a));
        });
      });
    const int beyond = ld_delta - out.loss.n_outputs;
    for (int at = i; at < panel.n * beyond; at += int(blockDim.x))
      put(at / beyond, out.loss.n_outputs + at % beyond, T(0));
  }
  finish_loss(loss, weight, partials, sums, state);
}

// Predictions (n_rows, n_outputs), without gaps.
template <class T> FASTMLP_KERNEL link_rows(OutputRows<T> out, int R, T* room, T* predictions) {
  FASTMLP_DYNAMIC_SHARED(T, shared);
  const LossPanel<T> panel = panel_of(out, R, shared, room);
  enter_outputs(out, panel);
  __syncthreads();
  const int i = int(threadIdx.x), m = out.loss.n_outputs;
  if (i < panel.n)
    Losses::visit(out.loss.number,
                  [&](auto entry) { entry.link(panel.z + i, out.loss.n_targets, panel.R, out.loss.h); });
  __syncthreads();
  for (int at = i; at < panel.n * m; at += int(blockDim.x))
    predictions[std::ptrdiff_t(panel.first) * m + at] = panel.z[at % m * panel.R + at / m];
}

template <class T> Grid loss_grid(const OutputRows<T>& out) {
  const int R = loss_rows_per_block<T>(out.loss);
  return {dim3(unsigned(loss_blocks<T>(out.loss, out.n_rows))), dim3(warp_size),
          loss_needs_room<T>(out.loss) ? 0 : R * numbers_of_row(out.loss) * sizeof(T)};
}

// `room` has loss_room numbers and may be null if these are 0, `partials` loss_partials; delta may be null.
template <class T, class A>
void launch_loss_rows(cudaStream_t stream, const OutputRows<T>& out, const BatchRows& rows, const Targets<T>& targets,
                      T* room, A* delta, int ld_delta, double* partials, StepState* state) {
  launch(loss_rows<T, A>, loss_grid(out), stream, out, rows, targets, loss_rows_per_block<T>(out.loss),
         loss_needs_room<T>(out.loss) ? room : nullptr, delta, ld_delta, partials, state);
}
template <class T> void launch_link_rows(cudaStream_t stream, const OutputRows<T>& out, T* room, T* predictions) {
  launch(link_rows<T>, loss_grid(out), stream, out, loss_rows_per_block<T>(out.loss),
         loss_needs_room<T>(out.loss) ? room : nullptr, predictions);
}

} // namespace fastmlp::cuda
