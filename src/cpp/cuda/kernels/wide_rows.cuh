// Losses of rows with many outputs, by the lanes of a warp together, where the catalogue says how; else by one of them.
#pragma once

#include "../../losses.hpp"
#include "launch.cuh"

namespace fastmlp::cuda {

// The team that losses are given. All lanes must call what it offers.
struct Lanes {
  template <class F> static __device__ void each(int n, F&& f) {
    __syncwarp();
    for (int k = int(threadIdx.x) % warp_size; k < n; k += warp_size) f(k);
    __syncwarp();
  }
  template <class T> static __device__ T largest(const T* z, int n) {
    T top = z[0];
    each(n, [&](int k) { top = maximum(top, z[k]); });
    for (int distance = warp_size / 2; distance > 0; distance /= 2)
      top = maximum(top, __shfl_xor_sync(all_lanes, top, distance));
    return top;
  }
};

template <class Entry, class = void> constexpr bool has_rows_by = false;
template <class Entry>
constexpr bool has_rows_by<Entry, std::void_t<decltype(Entry::row_by(Lanes{}, std::declval<float*>(),
                                                                     std::declval<float*>(), 1, Hyperparameters{}))>> =
    true;

// Predictions in place of z[0], z[1], ...; `n` targets.
template <class Entry, class T> FASTMLP_DEVICE void link_by_lanes(Entry entry, T* z, int n, Hyperparameters h) {
  if constexpr (has_rows_by<Entry>)
    entry.link_by(Lanes{}, z, n, h);
  else
    Lanes::each(1, [&](int) { entry.link(z, n, 1, h); });
}

// The row's loss, in the first lane at least, and the gradient in place of z. y may be overwritten.
template <class Entry, class T> FASTMLP_DEVICE T row_by_lanes(Entry entry, T* z, T* y, int n, Hyperparameters h) {
  T loss = 0;
  if constexpr (has_rows_by<Entry>)
    loss = entry.row_by(Lanes{}, z, y, n, h);
  else
    Lanes::each(1, [&](int) { loss = entry.row(z, y, n, 1, h); });
  return loss;
}

} // namespace fastmlp::cuda
