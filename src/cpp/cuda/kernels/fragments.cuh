// Products of small matrices by the lanes of a warp together, 16 x 8 numbers at a time.
//
// Lane 4 g + t (g < 8, t < 4) holds of a 16 x 8 result the numbers (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1):
// the layout of `mma.sync`, PTX ISA, "Warp Level Matrix Multiply-Accumulate Instructions". Operands are read from
// shared memory number by number, each with its two strides, so that a matrix and its transpose are read alike.
#pragma once

#include "../bfloat16.hpp"
#include "../fused_plan.hpp"
#include "launch.cuh"

namespace fastmlp::cuda {

#ifndef FASTMLP_CUDA_ON_HOST
// c += a b for 16 x 8 x 8 numbers of which 10 bits of fraction count
FASTMLP_DEVICE void mma_tf32(float* c, const std::uint32_t* a, const std::uint32_t* b) {
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
               "{%0,%1,%2,%3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
// c += a b for 16 x 8 x 16 numbers, two in a word
FASTMLP_DEVICE void mma_bf16(float* c, const std::uint32_t* a, const std::uint32_t* b) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
               "{%0,%1,%2,%3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
FASTMLP_DEVICE int lane_number() { return int(threadIdx.x) % warp_size; }
#endif

// A matrix in shared memory: element (i, j) is at p[i * row + j * column].
template <class T> struct Strided {
  const T* p;
  int row, column;
  FASTMLP_HOST_DEVICE const T& operator()(int i, int j) const { return p[i * row + j * column]; }
  FASTMLP_HOST_DEVICE Strided at(int i, int j) const { return {p + i * row + j * column, row, column}; }
};

template <Precision precision> struct Fragments;

template <> struct Fragments<Precision::ieee> {
  using Operand = float;
  static constexpr int depth = 4;
  struct A {
    float x[2][depth];
  };
  struct B {
    float x[depth][2];
  };
  static FASTMLP_HOST_DEVICE Operand operand(float x) { return x; }
  static __device__ A load_a(const Strided<float>& m) {
    const int g = lane_number() / 4;
    A a;
    FASTMLP_UNROLL
    for (int k = 0; k < depth; ++k) {
      a.x[0][k] = m(g, k);
      a.x[1][k] = m(g + 8, k);
    }
    return a;
  }
  static __device__ B load_b(const Strided<float>& m) {
    const int t = lane_number() % 4;
    B b;
    FASTMLP_UNROLL
    for (int k = 0; k < depth; ++k) {
      b.x[k][0] = m(k, 2 * t);
      b.x[k][1] = m(k, 2 * t + 1);
    }
    return b;
  }
  static __device__ void multiply(float* c, const A& a, const B& b) {
    FASTMLP_UNROLL
    for (int k = 0; k < depth; ++k) {
      FASTMLP_UNROLL
      for (int i = 0; i < 4; ++i) c[i] += a.x[i / 2][k] * b.x[k][i % 2];
    }
  }
};

template <> struct Fragments<Precision::tf32> {
  using Operand = float;
  static constexpr int depth = 8;
  struct A {
    std::uint32_t x[4];
  };
  struct B {
    std::uint32_t x[2];
  };
  static FASTMLP_HOST_DEVICE Operand operand(float x) { // 10 bits of fraction, to the nearest, ties away from 0
    return x - x == 0 ? from_bits<float>((to_bits(x) + 0x1000u) & ~0x1fffu) : x;
  }
  static __device__ A load_a(const Strided<float>& m) {
    const int g = lane_number() / 4, t = lane_number() % 4;
    return {{to_bits(m(g, t)), to_bits(m(g + 8, t)), to_bits(m(g, t + 4)), to_bits(m(g + 8, t + 4))}};
  }
  static __device__ B load_b(const Strided<float>& m) {
    const int g = lane_number() / 4, t = lane_number() % 4;
    return {{to_bits(m(t, g)), to_bits(m(t + 4, g))}};
  }
  static __device__ void multiply(float* c, const A& a, const B& b) { mma_tf32(c, a.x, b.x); }
};

template <> struct Fragments<Precision::bf16> {
  using Operand = bfloat16;
  static constexpr int depth = 16;
  struct A {
    std::uint32_t x[4];
  };
  struct B {
    std::uint32_t x[2];
  };
  static FASTMLP_HOST_DEVICE Operand operand(float x) { return bfloat16(x); }
  static __device__ std::uint32_t pair(bfloat16 low, bfloat16 high) {
    return std::uint32_t(low.bits) | std::uint32_t(high.bits) << 16;
  }
  static __device__ A load_a(const Strided<bfloat16>& m) {
    const int g = lane_number() / 4, k = 2 * (lane_number() % 4);
    return {{pair(m(g, k), m(g, k + 1)), pair(m(g + 8, k), m(g + 8, k + 1)), pair(m(g, k + 8), m(g, k + 9)),
             pair(m(g + 8, k + 8), m(g + 8, k + 9))}};
  }
  static __device__ B load_b(const Strided<bfloat16>& m) {
    const int g = lane_number() / 4, k = 2 * (lane_number() % 4);
    return {{pair(m(k, g), m(k + 1, g)), pair(m(k + 8, g), m(k + 9, g))}};
  }
  static __device__ void multiply(float* c, const A& a, const B& b) { mma_bf16(c, a.x, b.x); }
};

// A 16 x 16 result, its columns in two halves.
struct TileSums {
  static constexpr int ld = 20;           // of a tile in shared memory
  static constexpr int numbers = 16 * ld; // room for one
  float x[2][4];

  // f(row, column, number) for each number that this lane holds; copied so often by the compiler.
  template <class F> __device__ void for_each(F&& f) const {
    const int g = lane_number() / 4, t = lane_number() % 4;
    FASTMLP_UNROLL
    for (int half = 0; half < 2; ++half) {
      FASTMLP_UNROLL
      for (int i = 0; i < 4; ++i) f(g + i / 2 * 8, half * 8 + 2 * t + i % 2, x[half][i]);
    }
  }

  // The same through the warp's room in shared memory, for an f of many instructions: one copy of them. All lanes.
  template <class F> __device__ void for_each_from(float* room, F&& f) const {
    for_each([&](int i, int j, float number) { room[i * ld + j] = number; });
    __syncwarp();
    FASTMLP_ROLLED
    for (int at = lane_number(); at < 256; at += warp_size) f(at / 16, at % 16, room[at / 16 * ld + at % 16]);
    __syncwarp();
  }
};

// sums += a (16 x depth) b (depth x 16); depth is a multiple of 16.
template <Precision precision>
FASTMLP_DEVICE void multiply_tile(TileSums& sums, const Strided<typename Fragments<precision>::Operand>& a,
                                  const Strided<typename Fragments<precision>::Operand>& b, int depth) {
  using F = Fragments<precision>;
  for (int k = 0; k < depth; k += F::depth) {
    const typename F::A fa = F::load_a(a.at(0, k));
    F::multiply(sums.x[0], fa, F::load_b(b.at(k, 0)));
    F::multiply(sums.x[1], fa, F::load_b(b.at(k, 8)));
  }
}

} // namespace fastmlp::cuda
