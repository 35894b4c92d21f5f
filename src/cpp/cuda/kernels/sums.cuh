// Sums over the rows of a batch, for each unit: gradients of biases, scales and offsets, and the moments of batch norm.
// Always in the same order: a block takes a chunk of the rows, its threads every 8th of them, and chunks follow one
// another.
#pragma once

#include "hidden_layers.cuh"

namespace fastmlp::cuda {

constexpr int rows_at_once = 8;

// One dimension: there may be more chunks than a second one holds.
inline Grid chunk_per_block(int n_rows, int n) {
  return {dim3(unsigned(ceil_div(n, warp_size)) * unsigned(chunks_of(n_rows))), dim3(warp_size, rows_at_once), 0};
}

// What a block of such a grid does: rows first ... end - 1, and unit j of each of its columns of threads.
struct Chunk {
  int number, first, end, j;
};
FASTMLP_DEVICE Chunk own_chunk(int n_rows, int n) {
  const unsigned across = unsigned(ceil_div(n, warp_size));
  const int number = int(blockIdx.x / across), first = number * rows_per_chunk, left = n_rows - first;
  return {number, first, first + (left < rows_per_chunk ? left : rows_per_chunk),
          int(blockIdx.x % across) * warp_size + int(threadIdx.x)};
}

// The sum of x over the threads that stand for one unit, in those with threadIdx.y == 0. Every thread must call it.
template <class S> FASTMLP_DEVICE S sum_over_chunk(S x) {
  FASTMLP_SHARED(S, room, [rows_at_once][warp_size]);
  __syncthreads();
  room[threadIdx.y][threadIdx.x] = x;
  __syncthreads();
  S sum = room[0][threadIdx.x];
  for (int y = 1; y < rows_at_once; ++y) sum += room[y][threadIdx.x];
  return sum;
}

// Of every chunk the sums over its rows of deltas, to alone[chunk][n], and of deltas times the normalised z, to
// with_z[chunk][n]; both may be null.
template <class T, class D>
FASTMLP_KERNEL sum_chunks(HiddenRows<T> rows, const D* delta, int ld_delta, T* alone, T* with_z) {
  const Chunk chunk = own_chunk(rows.n_rows, rows.n);
  const int j = chunk.j;
  T sum = 0, product = 0;
  if (j < rows.n)
    for (int row = chunk.first + int(threadIdx.y); row < chunk.end; row += rows_at_once) {
      const T d = T(delta[std::ptrdiff_t(row) * ld_delta + j]);
      sum += d;
      if (with_z) product += d * standardized(rows, rows.z[std::ptrdiff_t(row) * rows.ld + j], row, j);
    }
  const std::ptrdiff_t at = std::ptrdiff_t(chunk.number) * rows.n + j;
  const bool writes = threadIdx.y == 0 && j < rows.n;
  if (alone) {
    sum = sum_over_chunk(sum);
    if (writes) alone[at] = sum;
  }
  if (with_z) {
    product = sum_over_chunk(product);
    if (writes) with_z[at] = product;
  }
}

// out[j] = partials[0][j] + partials[1][j] + ...
template <class T> FASTMLP_KERNEL combine_chunks(const T* partials, int n_chunks, int n, T* out) {
  const int j = int(blockIdx.x * blockDim.x + threadIdx.x);
  if (j >= n) return;
  T sum = partials[j];
  for (int chunk = 1; chunk < n_chunks; ++chunk) sum += partials[std::ptrdiff_t(chunk) * n + j];
  out[j] = sum;
}

// Sums over the rows of deltas, to alone[n], and of deltas times the normalised z, to with_z[n]; one may be null.
template <class T, class D>
void launch_sum_columns(cudaStream_t stream, const HiddenRows<T>& rows, const D* delta, int ld_delta, T* alone,
                        T* with_z, T* room) {
  const int n_chunks = chunks_of(rows.n_rows);
  const bool direct = n_chunks == 1;
  T* const second = room + std::ptrdiff_t(n_chunks) * rows.n;
  launch(sum_chunks<T, D>, chunk_per_block(rows.n_rows, rows.n), stream, rows, delta, ld_delta,
         alone && !direct ? room : alone, with_z && !direct ? second : with_z);
  if (direct) return;
  const Grid grid{dim3(unsigned(ceil_div(rows.n, 128))), dim3(128), 0};
  if (alone) launch(combine_chunks<T>, grid, stream, static_cast<const T*>(room), n_chunks, rows.n, alone);
  if (with_z) launch(combine_chunks<T>, grid, stream, static_cast<const T*>(second), n_chunks, rows.n, with_z);
}

// --- moments of z, for statistics of units --------------------------------------------------------------------------

// Of a chunk of rows: their weight, and of each unit the weighted mean and the sum of weighted squared distances.
template <class T>
FASTMLP_KERNEL unit_moments(HiddenRows<T> rows, BatchRows batch, Targets<T> targets, double* moments) {
  const Chunk chunk = own_chunk(rows.n_rows, rows.n);
  const int j = chunk.j;
  const auto for_each_row = [&](auto&& visit) {
    if (j < rows.n)
      for (int row = chunk.first + int(threadIdx.y); row < chunk.end; row += rows_at_once)
        visit(double(targets.weight(batch[row])), double(rows.z[std::ptrdiff_t(row) * rows.ld + j]));
  };
  double weight = 0, mean = 0, squares = 0;
  for_each_row([&](double w, double z) {
    weight += w;
    mean += w * z;
  });
  weight = sum_over_chunk(weight);
  mean = sum_over_chunk(mean);
  mean = weight != 0 ? mean / weight : 0.0;
  for_each_row([&](double w, double z) { squares += w * (z - mean) * (z - mean); });
  squares = sum_over_chunk(squares);
  if (threadIdx.y != 0 || j >= rows.n) return;
  double* to = moments + std::ptrdiff_t(chunk.number) * 3 * rows.n;
  to[j] = weight;
  to[rows.n + j] = mean;
  to[2 * rows.n + j] = squares;
}

// Moments of the chunks to those of the batch (Chan, Golub, LeVeque 1979), and a step of the running statistics, unless
// nothing moves any more. A batch that weighs nothing is passed over.
template <class T>
FASTMLP_KERNEL finish_unit_moments(HiddenRows<T> rows, const double* moments, int n_chunks, T* running_mean,
                                   T* running_variance) {
  const int j = int(blockIdx.x * blockDim.x + threadIdx.x), n = rows.n;
  if (j >= n) return;
  double weight = 0, mean = 0, squares = 0;
  for (int chunk = 0; chunk < n_chunks; ++chunk) {
    const double* of = moments + std::ptrdiff_t(chunk) * 3 * n + j;
    weight += of[0];
    mean += of[0] * of[n];
  }
  const double total = weight != 0 ? weight : 1, others = total > 1 ? total - 1 : total;
  mean /= total;
  for (int chunk = 0; chunk < n_chunks; ++chunk) {
    const double* of = moments + std::ptrdiff_t(chunk) * 3 * n + j;
    squares += of[2 * n] + of[0] * (of[n] - mean) * (of[n] - mean);
  }
  rows.mean[j] = T(mean);
  rows.inverse[j] = T(1 / square_root(squares / total + normalization_epsilon));
  if (weight == 0 || rows.state->failed != 0) return;
  running_mean[j] += T(running_share * (mean - double(running_mean[j])));
  running_variance[j] += T(running_share * (squares / others - double(running_variance[j])));
}

// For predictions: mean and inverse deviation from the running statistics.
template <class T>
FASTMLP_KERNEL use_running_statistics(const T* running_mean, const T* running_variance, int n, T* mean, T* inverse) {
  const int j = int(blockIdx.x * blockDim.x + threadIdx.x);
  if (j >= n) return;
  mean[j] = running_mean[j];
  inverse[j] = T(1 / square_root(double(running_variance[j]) + normalization_epsilon));
}

// `moments` has room for moments_room numbers.
template <class T>
void launch_unit_moments(cudaStream_t stream, const HiddenRows<T>& rows, const BatchRows& batch,
                         const Targets<T>& targets, double* moments, T* running_mean, T* running_variance) {
  launch(unit_moments<T>, chunk_per_block(rows.n_rows, rows.n), stream, rows, batch, targets, moments);
  launch(finish_unit_moments<T>, Grid{dim3(unsigned(ceil_div(rows.n, 128))), dim3(128), 0}, stream, rows,
         static_cast<const double*>(moments), chunks_of(rows.n_rows), running_mean, running_variance);
}
template <class T>
void launch_use_running_statistics(cudaStream_t stream, const T* running_mean, const T* running_variance, int n,
                                   T* mean, T* inverse) {
  launch(use_running_statistics<T>, Grid{dim3(unsigned(ceil_div(n, 128))), dim3(128), 0}, stream, running_mean,
         running_variance, n, mean, inverse);
}

} // namespace fastmlp::cuda
