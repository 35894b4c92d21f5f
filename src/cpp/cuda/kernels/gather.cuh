// Rows of the training data to a batch.
#pragma once

#include "../bfloat16.hpp"
#include "../dropout.hpp"
#include "launch.cuh"

namespace fastmlp::cuda {

// out (rows.n, ld) from rows of X; columns from n_columns to ld become 0. A warp takes a row.
template <class From, class To, class T>
FASTMLP_KERNEL gather(const From* X, std::ptrdiff_t stride, BatchRows rows, int n_columns, Dropout<T> dropout, To* out,
                      int ld) {
  const int row = int(blockIdx.x * blockDim.y + threadIdx.y);
  if (row >= rows.n) return;
  const Kept<T> kept(dropout, rows.state);
  const From* x = X + rows[row] * stride;
  To* to = out + std::ptrdiff_t(row) * ld;
  for (int j = int(threadIdx.x); j < ld; j += warp_size) to[j] = j < n_columns ? To(kept(T(x[j]), row, j)) : To(T(0));
}

template <class T, class From, class To>
void launch_gather(cudaStream_t stream, const From* X, std::ptrdiff_t stride, const BatchRows& rows, int n_columns,
                   const Dropout<T>& dropout, To* out, int ld) {
  constexpr int rows_per_block = 8;
  launch(gather<From, To, T>,
         Grid{dim3(unsigned(ceil_div(rows.n, rows_per_block))), dim3(warp_size, rows_per_block), 0}, stream, X, stride,
         rows, n_columns, dropout, out, ld);
}

} // namespace fastmlp::cuda
