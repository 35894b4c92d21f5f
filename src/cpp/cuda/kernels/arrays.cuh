// Arrays of others: looked through for numbers that are not finite, and converted.
#pragma once

#include "../arrays.hpp"
#include "gather.cuh"

#include <algorithm>

namespace fastmlp::cuda {

constexpr std::int64_t nowhere = std::int64_t(1) << 62;

// To found[warp] the first place, row times n_columns plus column, where a number is not finite, or `nowhere`. A warp
// takes a row at a time.
template <class T>
FASTMLP_KERNEL find_not_finite(const T* X, std::ptrdiff_t stride, std::int64_t n_rows, int n_columns,
                               std::int64_t* found) {
  const std::int64_t n_warps = std::int64_t(gridDim.x) * blockDim.y;
  const std::int64_t warp = std::int64_t(blockIdx.x) * blockDim.y + threadIdx.y;
  std::int64_t first = nowhere;
  for (std::int64_t row = warp; row < n_rows; row += n_warps) {
    const T* x = X + row * stride;
    for (int j = int(threadIdx.x); j < n_columns; j += warp_size)
      if (x[j] - x[j] != 0 && first == nowhere) first = row * n_columns + j;
  }
  for (int distance = warp_size / 2; distance > 0; distance /= 2) {
    const std::int64_t other = __shfl_xor_sync(all_lanes, first, distance);
    first = other < first ? other : first;
  }
  if (threadIdx.x == 0) found[warp] = first;
}

constexpr int searching_warps = 8, most_searching_blocks = 2048;
inline int searching_blocks(std::int64_t n_rows) {
  return int(std::min<std::int64_t>(ceil_div<std::int64_t>(n_rows, searching_warps), most_searching_blocks));
}

// `found` has room for searching_blocks(n_rows) * searching_warps places.
inline void launch_find_not_finite(cudaStream_t stream, const ArrayRows& rows, std::int64_t* found) {
  const Grid grid{dim3(unsigned(searching_blocks(rows.n_rows))), dim3(warp_size, searching_warps), 0};
  if (rows.is_double)
    launch(find_not_finite<double>, grid, stream, static_cast<const double*>(rows.data), rows.stride, rows.n_rows,
           rows.n_columns, found);
  else
    launch(find_not_finite<float>, grid, stream, static_cast<const float*>(rows.data), rows.stride, rows.n_rows,
           rows.n_columns, found);
}
inline std::int64_t first_of(const std::int64_t* found, std::int64_t n_rows) {
  const std::int64_t first = *std::min_element(found, found + searching_blocks(n_rows) * searching_warps);
  return first == nowhere ? -1 : first;
}

template <class From, class To> void launch_convert(cudaStream_t stream, const ArrayRows& rows, To* out) {
  constexpr std::int64_t at_once = 1 << 30;
  for (std::int64_t first = 0; first < rows.n_rows; first += at_once) {
    const BatchRows part{nullptr, nullptr, int(std::min(at_once, rows.n_rows - first))};
    launch_gather<To>(stream, static_cast<const From*>(rows.data) + first * rows.stride, rows.stride, part,
                      rows.n_columns, Dropout<To>(), out + first * rows.n_columns, rows.n_columns);
  }
}
inline void launch_convert(cudaStream_t stream, const ArrayRows& rows, void* out) {
  if (rows.is_double)
    launch_convert<double>(stream, rows, static_cast<float*>(out));
  else
    launch_convert<float>(stream, rows, static_cast<double*>(out));
}
inline std::size_t converted_bytes(const ArrayRows& rows) {
  return std::size_t(rows.n_rows) * std::size_t(rows.n_columns) * (rows.is_double ? sizeof(float) : sizeof(double));
}

} // namespace fastmlp::cuda
