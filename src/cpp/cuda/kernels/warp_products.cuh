// Products of matrices in global memory by a warp: 16 x 16 numbers, by way of shared memory, with the next numbers
// already under way.
#pragma once

#include "../cooperative_plan.hpp"
#include "fragments.cuh"

namespace fastmlp::cuda {

// Numbers of 16 rows or columns and of a chunk of the depth, in the warp's room. `along`: neighbours in memory are
// neighbours in the depth, and lie so in the room, too; else neighbours are rows or columns.
template <Precision precision, bool along> struct WarpOperand {
  using F = Fragments<precision>;
  using Operand = typename F::Operand;
  static constexpr int gap = 16 / int(sizeof(Operand)); // so that rows fall on different banks
  static constexpr int ld = (along ? cooperative_chunk : cooperative_tile) + gap;
  static constexpr int each = cooperative_tile * cooperative_chunk / warp_size; // numbers of a lane
  static_assert((along ? cooperative_tile : cooperative_chunk) * ld <= operand_room);

  // i of the 16, k of the chunk: of the lane's e-th number
  static __device__ int i_of(int e) { return along ? e : (e * warp_size + lane_number()) % cooperative_tile; }
  static __device__ int k_of(int e) {
    return along ? lane_number() : (e * warp_size + lane_number()) / cooperative_tile;
  }

  // number(i, k) of the whole depth, 0 from `end` on
  template <class Number> __device__ void fetch(int k, int end, Number&& number) {
    FASTMLP_UNROLL
    for (int e = 0; e < each; ++e) x[e] = k + k_of(e) < end ? number(i_of(e), k + k_of(e)) : 0.0f;
  }
  __device__ void put(Operand* room) const {
    FASTMLP_UNROLL
    for (int e = 0; e < each; ++e) room[along ? i_of(e) * ld + k_of(e) : k_of(e) * ld + i_of(e)] = F::operand(x[e]);
  }

  float x[each];
};

// sums += a (16 x depth) b (depth x 16) from `begin` to `end` of the depth; a(i, k) and b(j, k) are numbers, 0 outside
// of the matrices. Every lane must call it.
template <Precision precision, bool a_along, bool b_along, class A, class B>
FASTMLP_DEVICE void warp_product(TileSums& sums, typename Fragments<precision>::Operand* room, int begin, int end,
                                 A&& a, B&& b) {
  using Operand = typename Fragments<precision>::Operand;
  using OfA = WarpOperand<precision, a_along>;
  using OfB = WarpOperand<precision, b_along>;
  Operand* const room_b = room + operand_room;
  OfA next_a;
  OfB next_b;
  next_a.fetch(begin, end, a);
  next_b.fetch(begin, end, b);
  for (int k = begin; k < end; k += cooperative_chunk) {
    next_a.put(room);
    next_b.put(room_b);
    __syncwarp();
    if (k + cooperative_chunk < end) {
      next_a.fetch(k + cooperative_chunk, end, a);
      next_b.fetch(k + cooperative_chunk, end, b);
    }
    using ViewA = std::conditional_t<a_along, ByRows<Operand>, ByColumns<Operand>>;
    using ViewB = std::conditional_t<b_along, ByColumns<Operand>, ByRows<Operand>>;
    multiply_tile<precision>(sums, ViewA{room, OfA::ld}, ViewB{room_b, OfB::ld}, cooperative_chunk);
    __syncwarp();
  }
}

} // namespace fastmlp::cuda
