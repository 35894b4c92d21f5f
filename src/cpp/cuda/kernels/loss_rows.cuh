// Outputs: bias, activation, link, loss and its gradient. A thread takes a row, or of many outputs a warp; the rows of
// a block stand in shared memory, where neighbouring threads find their numbers side by side.
#pragma once

#include "../../activations.hpp"
#include "../../losses.hpp"
#include "../bfloat16.hpp"
#include "block_sums.cuh"
#include "wide_rows.cuh"

namespace fastmlp::cuda {

// Sums of the last layer of weights, z (n_rows, ld), and what becomes of them.
template <class T> struct OutputRows {
  const T* z;
  int n_rows, ld;
  const T* bias;  // may be null
  int activation; // number in Activations, before the loss and its link; -1: none
  RowLoss loss;   // its hyper-parameters are in the device's memory
};

// The block's rows in its room: output k of its i-th row is z[k * R + i], or where a warp takes a row, z[i * outputs +
// k]; targets likewise.
template <class T, bool wide> struct LossPanel {
  int first, n, R, n_outputs, n_targets;
  T *z, *y;

  FASTMLP_HOST_DEVICE T& output(int i, int k) const { return wide ? z[i * n_outputs + k] : z[k * R + i]; }
  FASTMLP_HOST_DEVICE T& target(int i, int k) const { return wide ? y[i * n_targets + k] : y[k * R + i]; }
};

template <bool wide, class T>
FASTMLP_DEVICE LossPanel<T, wide> panel_of(const OutputRows<T>& out, int R, T* shared, T* room) {
  const int first = int(blockIdx.x) * R, left = out.n_rows - first;
  const std::ptrdiff_t size = std::ptrdiff_t(R) * (out.loss.n_outputs + out.loss.n_targets);
  T* z = room ? room + std::ptrdiff_t(blockIdx.x) * size : shared;
  return {first,
          left < R ? left : R,
          R,
          out.loss.n_outputs,
          out.loss.n_targets,
          z,
          z + std::ptrdiff_t(R) * out.loss.n_outputs};
}

// Which of the panel's rows this thread works on, alone or with its warp.
template <bool wide> FASTMLP_DEVICE int own_row() { return int(threadIdx.x) / (wide ? warp_size : 1); }

// f(row of the panel, output k, its sum z) for each number, neighbours by neighbouring threads.
template <class T, bool wide, class F>
FASTMLP_DEVICE void for_each_output(const OutputRows<T>& out, const LossPanel<T, wide>& panel, F&& f) {
  const int m = out.loss.n_outputs;
  for (int at = int(threadIdx.x); at < panel.n * m; at += int(blockDim.x)) {
    const int i = at / m, k = at - i * m;
    f(i, k, out.z[std::ptrdiff_t(panel.first + i) * out.ld + k] + (out.bias ? out.bias[k] : T(0)));
  }
}

template <class T, bool wide>
FASTMLP_DEVICE void enter_outputs(const OutputRows<T>& out, const LossPanel<T, wide>& panel) {
  if (out.activation < 0)
    for_each_output(out, panel, [&](int i, int k, T z) { panel.output(i, k) = z; });
  else
    Activations::visit(out.activation, [&](auto entry) {
      for_each_output(out, panel, [&](int i, int k, T z) { panel.output(i, k) = entry.value(z); });
    });
}

template <class T, bool wide>
FASTMLP_DEVICE void enter_targets(const OutputRows<T>& out, const BatchRows& rows, const Targets<T>& targets,
                                  const LossPanel<T, wide>& panel) {
  const int m = out.loss.n_targets;
  for (int at = int(threadIdx.x); at < panel.n * m; at += int(blockDim.x)) {
    const int i = at / m, k = at - i * m;
    const std::int64_t row = rows[panel.first + i];
    panel.target(i, k) = targets.labels ? T(targets.labels[row] == k) : targets.y[row * m + k];
  }
}

// The loss of this thread's row, times its weight w, and the gradients times w in place of the outputs.
template <class T, bool wide>
FASTMLP_DEVICE double weighted_loss(const OutputRows<T>& out, const LossPanel<T, wide>& panel, T w) {
  const int i = own_row<wide>();
  double loss = 0;
  Losses::visit(out.loss.number, [&](auto entry) {
    if constexpr (wide)
      loss = double(w * row_by_lanes(entry, &panel.output(i, 0), &panel.target(i, 0), panel.n_targets, out.loss.h));
    else
      loss = double(w * entry.row(panel.z + i, panel.y + i, panel.n_targets, panel.R, out.loss.h));
  });
  if constexpr (wide)
    Lanes::each(panel.n_outputs, [&](int k) { panel.output(i, k) *= w; });
  else
    for (int k = 0; k < panel.n_outputs; ++k) panel.output(i, k) *= w;
  return loss;
}

// delta (n_rows, ld_delta): the gradient of the weighted losses with respect to z; columns from n_outputs on become 0.
// state.loss and state.weight: sums over the batch.
template <class T, class A, bool wide>
FASTMLP_KERNEL loss_rows(OutputRows<T> out, BatchRows rows, Targets<T> targets, int R, T* room, A* delta, int ld_delta,
                         double* partials, StepState* state) {
  FASTMLP_DYNAMIC_SHARED(T, shared);
  FASTMLP_SHARED(double, sums, [most_warps]);
  const LossPanel<T, wide> panel = panel_of<wide>(out, R, shared, room);
  enter_outputs(out, panel);
  enter_targets(out, rows, targets, panel);
  __syncthreads();
  const int i = own_row<wide>();
  double loss = 0, weight = 0;
  if (i < panel.n) {
    const T w = targets.weight(rows[panel.first + i]);
    loss = weighted_loss(out, panel, w);
    weight = double(w);
  }
  if (wide && int(threadIdx.x) % warp_size != 0) loss = weight = 0; // a row counts once
  loss = block_sum(loss, sums);
  weight = block_sum(weight, sums); // behind its barriers all gradients are ready
  if (delta) {
    const auto put = [&](int row, int k, T d) { delta[std::ptrdiff_t(panel.first + row) * ld_delta + k] = A(d); };
    if (out.activation < 0)
      for_each_output(out, panel, [&](int row, int k, T) { put(row, k, panel.output(row, k)); });
    else
      Activations::visit(out.activation, [&](auto entry) {
        for_each_output(out, panel, [&](int row, int k, T z) {
          const T a = entry.value(z);
          put(row, k, panel.output(row, k) * entry.slope(entry.slope_from_output ? a : z, a));
        });
      });
    const int beyond = ld_delta - out.loss.n_outputs;
    for (int at = int(threadIdx.x); at < panel.n * beyond; at += int(blockDim.x))
      put(at / beyond, out.loss.n_outputs + at % beyond, T(0));
  }
  finish_loss(loss, weight, partials, sums, state);
}

// Predictions (n_rows, n_outputs), without gaps.
template <class T, bool wide> FASTMLP_KERNEL link_rows(OutputRows<T> out, int R, T* room, T* predictions) {
  FASTMLP_DYNAMIC_SHARED(T, shared);
  const LossPanel<T, wide> panel = panel_of<wide>(out, R, shared, room);
  enter_outputs(out, panel);
  __syncthreads();
  const int i = own_row<wide>(), m = panel.n_outputs;
  if (i < panel.n)
    Losses::visit(out.loss.number, [&](auto entry) {
      if constexpr (wide)
        link_by_lanes(entry, &panel.output(i, 0), panel.n_targets, out.loss.h);
      else
        entry.link(panel.z + i, panel.n_targets, panel.R, out.loss.h);
    });
  __syncthreads();
  for (int at = int(threadIdx.x); at < panel.n * m; at += int(blockDim.x))
    predictions[std::ptrdiff_t(panel.first) * m + at] = panel.output(at / m, at % m);
}

template <class T> Grid loss_grid(const OutputRows<T>& out) {
  const int R = loss_rows_per_block<T>(out.loss);
  return {dim3(unsigned(loss_blocks<T>(out.loss, out.n_rows))),
          dim3(unsigned(loss_is_wide(out.loss) ? R * warp_size : warp_size)),
          loss_needs_room<T>(out.loss) ? 0 : R * numbers_of_row(out.loss) * sizeof(T)};
}

// `room` has loss_room numbers and may be null if these are 0, `partials` loss_partials; delta may be null.
template <class T, class A>
void launch_loss_rows(cudaStream_t stream, const OutputRows<T>& out, const BatchRows& rows, const Targets<T>& targets,
                      T* room, A* delta, int ld_delta, double* partials, StepState* state) {
  launch(loss_is_wide(out.loss) ? loss_rows<T, A, true> : loss_rows<T, A, false>, loss_grid(out), stream, out, rows,
         targets, loss_rows_per_block<T>(out.loss), loss_needs_room<T>(out.loss) ? room : nullptr, delta, ld_delta,
         partials, state);
}
template <class T> void launch_link_rows(cudaStream_t stream, const OutputRows<T>& out, T* room, T* predictions) {
  launch(loss_is_wide(out.loss) ? link_rows<T, true> : link_rows<T, false>, loss_grid(out), stream, out,
         loss_rows_per_block<T>(out.loss), loss_needs_room<T>(out.loss) ? room : nullptr, predictions);
}

} // namespace fastmlp::cuda
