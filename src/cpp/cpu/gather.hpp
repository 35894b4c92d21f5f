// Reading a batch: rows of the data, in any order, to panels and columns. Included into each kernel object, local to
// it.
#pragma once

#include "kernels.hpp"
#include "simd.hpp"

namespace fastmlp {
namespace FASTMLP_ISA {
namespace {

FASTMLP_INLINE std::int64_t row_number(const std::int64_t* rows, std::int64_t first, int i) {
  return rows ? rows[first + i] : first + i;
}

// Where `many` rows lie, and those that will be used next; missing ones repeat the last.
template <class T>
FASTMLP_INLINE void locate(const DenseRows<T>& X, int many, int many_next, const T** x, const T** next) {
  const auto at = [&](std::int64_t first, int i) { return X.data + row_number(X.rows, first, i) * X.ld; };
  for (int i = 0; i < many; ++i) x[i] = at(X.first, smaller(i, X.n - 1));
  for (int i = 0; i < many_next; ++i) next[i] = X.n_next ? at(X.next, smaller(i, X.n_next - 1)) : x[many - 1];
}

// The last `rest` features of rows of k, more than one register: the second one overlaps the first.
template <class T> FASTMLP_INLINE void gather_two(const T* const* x, int k, int rest, T* panel, T* columns) {
  constexpr int W = lane_count<T>, r = R<T>;
  const Vec<T> zero = splat<Vec<T>>(T(0));
  for (int i = 0; i < r; ++i) {
    T* const row = columns + i * r;
    store(row, load(x[i] + k - rest));
    store(row + W, zero);
    store(row + rest - W, load(x[i] + k - W));
  }
  transpose_block(columns, panel);
}

// No more than one register, which begins with earlier features: these come out the same once more.
template <class T> FASTMLP_INLINE void gather_one(const T* const* x, int k, int rest, T* panel, T* columns) {
  constexpr int W = lane_count<T>, r = R<T>;
  const Vec<T> zero = rounded(splat<Vec<T>>(T(0))); // unknown: no call of memset for so little
  FASTMLP_UNROLL
  for (int i = 0; i < r; ++i) {
    store(columns + i * r, load(x[i] + k - W));
    store(columns + i * r + W, zero);
  }
  for (int i = 0; i < r; i += W) transpose_lanes(columns + i * r, r, panel + (rest - W) * r + i, r);
  for (int j = rest * r; j < r * r; j += W) store(panel + j, zero);
  for (int i = 0; i < r; i += W) transpose_lanes(panel + i, r, columns + i * r, r);
}

// Rows shorter than a register, number by number.
template <class T> void gather_short(const T* const* x, int k, T* panel, T* columns) {
  constexpr int W = lane_count<T>, r = R<T>;
  const Vec<T> zero = splat<Vec<T>>(T(0));
  for (int i = 0; i < r; ++i)
    for (int j = 0; j < k; ++j) panel[j * r + i] = x[i][j];
  for (int j = k * r; j < r * r; j += W) store(panel + j, zero);
  if (!columns) return;
  for (int i = 0; i < r; i += W) transpose_lanes(panel + i, r, columns + i * r, r);
  for (int i = 0; i < r; ++i) store(columns + i * r + W, zero);
}

// Block by block of R features, so that all that is written lies together; later blocks, then the rows of the next
// panel, are fetched from memory meanwhile: shuffled rows are where no hardware expects them. `columns` may be null.
template <class T> void gather(const DenseRows<T>& X, int k, T* panel, T* columns, std::ptrdiff_t column_stride) {
  constexpr int W = lane_count<T>, r = R<T>;
  const T *x[r], *next[r];
  locate(X, r, r, x, next);
  if (k < W) {
    for (int i = 0; i < r; ++i) prefetch(next[i]);
    return gather_short(x, k, panel, columns);
  }
  const int padded = (k + r - 1) / r * r, ahead = smaller(4 * r, padded);
  T block[r * r];
  if (!columns) {
    columns = block;
    column_stride = 0;
  }
  for (int f = 0; f < k; f += r, columns += column_stride, panel += r * r) {
    const bool in_next = f + ahead >= padded;
    const T* const* const later = in_next ? next : x;
    const int from = f + ahead - (in_next ? padded : 0);
    if (!in_next || X.n_next > 0)
      for (int j = 0; j < r; j += line<T>)
        for (int i = 0; i < r; ++i) prefetch(later[i] + from + j);
    const int rest = k - f;
    if (rest >= r) {
      for (int i = 0; i < r; ++i) {
        store(columns + i * r, load(x[i] + f));
        store(columns + i * r + W, load(x[i] + f + W));
      }
    } else {
      return rest > W ? gather_two(x, k, rest, panel, columns) : gather_one(x, k, rest, panel, columns);
    }
    transpose_block(columns, panel);
  }
}

} // namespace
} // namespace FASTMLP_ISA
} // namespace fastmlp
