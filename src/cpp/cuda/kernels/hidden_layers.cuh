// Hidden layers between products: bias, skip, normalisation, activation, dropout, and the way back. What a step
// computes is said by the CPU engine's hidden_layers.hpp; here rows lie one after another.
//
//   forward    of_units: activate only after add_bias, unit_moments and finish_unit_moments
//   backward   differentiate; with a normalisation then sum_columns (sums.cuh) for scale and offset, and through_rows
//   or
//              through_units for the rest of the way
#pragma once

#include "../../activations.hpp"
#include "../../normalizations.hpp"
#include "../bfloat16.hpp"
#include "../dropout.hpp"
#include "launch.cuh"

namespace fastmlp::cuda {

// n_rows of one layer of n units, each matrix (n_rows, ld).
template <class T> struct HiddenRows {
  int n_rows, n, ld;
  int activation; // number in Activations
  Statistics statistics;
  bool centred;
  const T *scale, *offset; // [n] of the normalisation; offset may be null
  T *mean, *inverse; // and inverse deviation: of_units [n], read; of_rows [n_rows], written forward, read backward
  T* z;              // pre-activations
  Dropout<T> dropout;
  const StepState* state; // may be null: no dropout
};

template <class T> FASTMLP_DEVICE T standardized(const HiddenRows<T>& rows, T z, int row, int j) {
  if (rows.statistics == Statistics::none) return z;
  const int at = rows.statistics == Statistics::of_rows ? row : j;
  return (z - rows.mean[at]) * rows.inverse[at];
}

template <class T> FASTMLP_DEVICE T scaled(const HiddenRows<T>& rows, T standard, int j) {
  if (rows.statistics == Statistics::none) return standard;
  return standard * rows.scale[j] + (rows.offset ? rows.offset[j] : T(0));
}

template <class S> FASTMLP_DEVICE S warp_sum(S x) { // the same in each lane, always in the same order
  for (int distance = warp_size / 2; distance > 0; distance /= 2) x += __shfl_xor_sync(all_lanes, x, distance);
  return x;
}

// --- a warp takes a row; `bias` and `addend` (n_rows, ld), a skip from below, may be null ---------------------------

constexpr int rows_per_block = 8;

inline Grid warp_per_row(int n_rows) {
  return {dim3(unsigned(ceil_div(n_rows, rows_per_block))), dim3(warp_size, rows_per_block), 0};
}

// Columns of a row from n to ld become 0.
template <class A> FASTMLP_DEVICE void clear_gap(A* matrix, int row, int n, int ld) {
  for (int j = n + int(threadIdx.x); j < ld; j += warp_size) matrix[std::ptrdiff_t(row) * ld + j] = A(0.0f);
}

// z += bias + addend
template <class T> FASTMLP_KERNEL add_bias(HiddenRows<T> rows, const T* bias, const T* addend) {
  const int row = int(blockIdx.x * blockDim.y + threadIdx.y);
  if (row >= rows.n_rows) return;
  const std::ptrdiff_t start = std::ptrdiff_t(row) * rows.ld;
  for (int j = int(threadIdx.x); j < rows.n; j += warp_size)
    rows.z[start + j] += (bias ? bias[j] : T(0)) + (addend ? addend[start + j] : T(0));
}

// a from z, to which bias and addend are added first, and with them z itself if it is kept. Columns of a from n to ld_a
// become 0.
template <class T, class A>
FASTMLP_KERNEL activate(HiddenRows<T> rows, const T* bias, const T* addend, bool keeps_z, A* a, int ld_a) {
  const int row = int(blockIdx.x * blockDim.y + threadIdx.y);
  if (row >= rows.n_rows) return; // a whole warp, and the block never waits for it
  const std::ptrdiff_t start = std::ptrdiff_t(row) * rows.ld;
  const auto pre_activation = [&](int j) {
    return rows.z[start + j] + ((bias ? bias[j] : T(0)) + (addend ? addend[start + j] : T(0)));
  };
  if (rows.statistics == Statistics::of_rows) {
    const T n = T(rows.n);
    T mean = 0, squares = 0;
    if (rows.centred) {
      for (int j = int(threadIdx.x); j < rows.n; j += warp_size) mean += pre_activation(j);
      mean = warp_sum(mean) / n;
    }
    for (int j = int(threadIdx.x); j < rows.n; j += warp_size) {
      const T distance = pre_activation(j) - mean;
      squares += distance * distance;
    }
    squares = warp_sum(squares);
    if (threadIdx.x == 0) {
      rows.mean[row] = mean;
      rows.inverse[row] = T(1) / square_root(squares / n + T(normalization_epsilon));
    }
    __syncwarp();
  }
  const Kept<T> kept(rows.dropout, rows.state);
  Activations::visit(rows.activation, [&](auto entry) {
    for (int j = int(threadIdx.x); j < rows.n; j += warp_size) {
      const T z = pre_activation(j);
      if (keeps_z) rows.z[start + j] = z;
      const T value = entry.value(scaled(rows, standardized(rows, z, row, j), j));
      a[std::ptrdiff_t(row) * ld_a + j] = A(kept(value, row, j));
    }
  });
  clear_gap(a, row, rows.n, ld_a);
}

// delta from g, the derivatives with respect to a. With a normalisation, those with respect to its result: the way
// through it is still to go, and `addend` is for later. Columns of delta from n to ld_a become 0.
template <class T, class A>
FASTMLP_KERNEL differentiate(HiddenRows<T> rows, const T* g, int ld_g, const A* a, int ld_a, const T* addend,
                             int ld_addend, T* delta, int ld_delta, A* delta_operand) {
  const int row = int(blockIdx.x * blockDim.y + threadIdx.y);
  if (row >= rows.n_rows) return;
  const Kept<T> kept(rows.dropout, rows.state);
  const T unscale = T(1) / kept.scale;
  Activations::visit(rows.activation, [&](auto entry) {
    for (int j = int(threadIdx.x); j < rows.n; j += warp_size) {
      const T value = T(a[std::ptrdiff_t(row) * ld_a + j]) * unscale; // 0 if left out, as is the delta
      T z = value;
      if (!entry.slope_from_output)
        z = scaled(rows, standardized(rows, rows.z[std::ptrdiff_t(row) * rows.ld + j], row, j), j);
      T d = kept(g[std::ptrdiff_t(row) * ld_g + j], row, j) * entry.slope(z, value);
      if (addend) d += addend[std::ptrdiff_t(row) * ld_addend + j];
      if (delta) delta[std::ptrdiff_t(row) * ld_delta + j] = d;
      if (delta_operand) delta_operand[std::ptrdiff_t(row) * ld_a + j] = A(d);
    }
  });
  if (delta_operand) clear_gap(delta_operand, row, rows.n, ld_a);
}

// The way through statistics of rows, in place.
template <class T, class A>
FASTMLP_KERNEL through_rows(HiddenRows<T> rows, const T* addend, T* delta, A* delta_operand, int ld_a) {
  const int row = int(blockIdx.x * blockDim.y + threadIdx.y);
  if (row >= rows.n_rows) return;
  const std::ptrdiff_t start = std::ptrdiff_t(row) * rows.ld;
  T sum = 0, product = 0;
  for (int j = int(threadIdx.x); j < rows.n; j += warp_size) {
    const T d = delta[start + j] * rows.scale[j];
    sum += d;
    product += d * standardized(rows, rows.z[start + j], row, j);
  }
  const T n = T(rows.n), along = warp_sum(product) / n;
  T mean = warp_sum(sum) / n;
  if (!rows.centred) mean = T(0);
  for (int j = int(threadIdx.x); j < rows.n; j += warp_size) {
    const T standard = standardized(rows, rows.z[start + j], row, j);
    T d = ((delta[start + j] * rows.scale[j] - mean) - standard * along) * rows.inverse[row];
    if (addend) d += addend[start + j];
    delta[start + j] = d;
    if (delta_operand) delta_operand[std::ptrdiff_t(row) * ld_a + j] = A(d);
  }
  if (delta_operand) clear_gap(delta_operand, row, rows.n, ld_a);
}

// The way through statistics of units, in place: deltas lose their mean and their part along z, from the gradients of
// scale and offset, which are sums over the batch.
template <class T, class A>
FASTMLP_KERNEL through_units(HiddenRows<T> rows, BatchRows batch, Targets<T> targets, const T* scale_gradient,
                             const T* offset_gradient, const T* addend, T* delta, A* delta_operand, int ld_a) {
  const int row = int(blockIdx.x * blockDim.y + threadIdx.y);
  if (row >= rows.n_rows) return;
  const std::ptrdiff_t start = std::ptrdiff_t(row) * rows.ld;
  const double weight = rows.state->weight;
  const T share = targets.weight(batch[row]) * T(weight != 0 ? 1 / weight : 0);
  for (int j = int(threadIdx.x); j < rows.n; j += warp_size) {
    const T standard = standardized(rows, rows.z[start + j], row, j);
    const T mean = offset_gradient[j] * rows.scale[j] + standard * (scale_gradient[j] * rows.scale[j]);
    T d = (delta[start + j] * rows.scale[j] - share * mean) * rows.inverse[j];
    if (addend) d += addend[start + j];
    delta[start + j] = d;
    if (delta_operand) delta_operand[std::ptrdiff_t(row) * ld_a + j] = A(d);
  }
  if (delta_operand) clear_gap(delta_operand, row, rows.n, ld_a);
}

template <class T>
void launch_add_bias(cudaStream_t stream, const HiddenRows<T>& rows, const T* bias, const T* addend) {
  launch(add_bias<T>, warp_per_row(rows.n_rows), stream, rows, bias, addend);
}
template <class T, class A>
void launch_activate(cudaStream_t stream, const HiddenRows<T>& rows, const T* bias, const T* addend, bool keeps_z, A* a,
                     int ld_a) {
  launch(activate<T, A>, warp_per_row(rows.n_rows), stream, rows, bias, addend, keeps_z, a, ld_a);
}
template <class T, class A>
void launch_differentiate(cudaStream_t stream, const HiddenRows<T>& rows, const T* g, int ld_g, const A* a, int ld_a,
                          const T* addend, int ld_addend, T* delta, int ld_delta, A* delta_operand) {
  launch(differentiate<T, A>, warp_per_row(rows.n_rows), stream, rows, g, ld_g, a, ld_a, addend, ld_addend, delta,
         ld_delta, delta_operand);
}
template <class T, class A>
void launch_through_rows(cudaStream_t stream, const HiddenRows<T>& rows, const T* addend, T* delta, A* delta_operand,
                         int ld_a) {
  launch(through_rows<T, A>, warp_per_row(rows.n_rows), stream, rows, addend, delta, delta_operand, ld_a);
}
template <class T, class A>
void launch_through_units(cudaStream_t stream, const HiddenRows<T>& rows, const BatchRows& batch,
                          const Targets<T>& targets, const T* scale_gradient, const T* offset_gradient, const T* addend,
                          T* delta, A* delta_operand, int ld_a) {
  launch(through_units<T, A>, warp_per_row(rows.n_rows), stream, rows, batch, targets, scale_gradient, offset_gradient,
         addend, delta, delta_operand, ld_a);
}

} // namespace fastmlp::cuda
