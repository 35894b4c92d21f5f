// How kernels divide their work, and how much room they need for what they note on the way.
#pragma once

#include "../losses.hpp"

#include <cstddef>

namespace fastmlp::cuda {

constexpr int warp_size = 32;
constexpr int kernels_own_bytes = 1024; // at most, of shared memory that a kernel names beside what its launch gives it

template <class N> constexpr N ceil_div(N n, N by) { return (n + by - 1) / by; }

// Leading dimensions: of rows of numbers, and of rows of bits as cuBLASLt wants them.
constexpr int padded(int columns) { return ceil_div(columns, 8) * 8; }
constexpr int mask_ld(int columns) { return ceil_div(columns, 128) * 128; }

// --- losses: a thread takes a row, or of many outputs a warp ---------------------------------------------------------

constexpr int wide_outputs = 64; // so many
inline bool loss_is_wide(const RowLoss& loss) { return loss.n_outputs >= wide_outputs; }

// Numbers of one row in a block's room: outputs, then targets.
inline std::size_t numbers_of_row(const RowLoss& loss) { return std::size_t(loss.n_outputs) + loss.n_targets; }

// How many rows a block takes: as many as fit into shared memory; wider rows go to global memory.
template <class T> int loss_rows_per_block(const RowLoss& loss) {
  constexpr std::size_t most_bytes = 48 * 1024;
  const int most = loss_is_wide(loss) ? 8 : warp_size;
  int rows = most;
  while (rows > 1 && rows * numbers_of_row(loss) * sizeof(T) > most_bytes) rows /= 2;
  return rows * numbers_of_row(loss) * sizeof(T) > most_bytes ? most : rows;
}
template <class T> bool loss_needs_room(const RowLoss& loss) {
  return loss_rows_per_block<T>(loss) * numbers_of_row(loss) * sizeof(T) > 48 * 1024;
}
template <class T> int loss_blocks(const RowLoss& loss, int n_rows) {
  return ceil_div(n_rows, loss_rows_per_block<T>(loss));
}
// Numbers of T in global memory that the loss of n_rows needs, 0 unless rows are very wide; and of double, always.
template <class T> std::size_t loss_room(const RowLoss& loss, int n_rows) {
  if (!loss_needs_room<T>(loss)) return 0;
  return std::size_t(loss_blocks<T>(loss, n_rows)) * loss_rows_per_block<T>(loss) * numbers_of_row(loss);
}
template <class T> std::size_t loss_partials(const RowLoss& loss, int n_rows) {
  return 2 * std::size_t(loss_blocks<T>(loss, n_rows));
}

// --- sums over the rows of a batch -----------------------------------------------------------------------------------

constexpr int rows_per_chunk = 512;
inline int chunks_of(int n_rows) { return ceil_div(n_rows, rows_per_chunk); }

// Numbers of T that the sums of n units need; 0 for few rows.
inline std::size_t sums_room(int n_rows, int n) {
  return chunks_of(n_rows) > 1 ? 2 * std::size_t(chunks_of(n_rows)) * std::size_t(n) : 0;
}
// Numbers of double that the moments of n units need.
inline std::size_t moments_room(int n_rows, int n) { return 3 * std::size_t(chunks_of(n_rows)) * std::size_t(n); }

// --- parameters ------------------------------------------------------------------------------------------------------

constexpr int update_threads = 256, numbers_per_thread = 4;
inline int update_blocks(std::ptrdiff_t n) { // numbers of double that an update of n parameters needs
  return int(ceil_div<std::ptrdiff_t>(n, update_threads * numbers_per_thread));
}

} // namespace fastmlp::cuda
