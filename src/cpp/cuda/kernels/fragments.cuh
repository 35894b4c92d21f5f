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
// Four 8 x 8 matrices of 16-bit numbers: lanes 8 m .. 8 m + 7 say where the rows of matrix m are, 16 bytes each. In
// word m a lane gets numbers (g, 2t), (g, 2t + 1) of matrix m, or of its transpose. With numbers of 32 bits the
// matrices are 8 x 4, and the word is number (g, t).
template <bool transposed> FASTMLP_DEVICE void load_matrices(std::uint32_t* x, const void* row) {
  const unsigned at = unsigned(__cvta_generic_to_shared(row));
  if constexpr (transposed)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                 : "r"(at)
                 : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                 : "r"(at)
                 : "memory");
}
FASTMLP_DEVICE int lane_number() { return int(threadIdx.x) % warp_size; }
#endif

// A matrix in shared memory whose rows lie one after another, or whose columns do.
template <class T> struct ByRows {
  static constexpr bool by_rows = true;
  const T* p;
  int ld;
  FASTMLP_HOST_DEVICE const T& operator()(int i, int j) const { return p[i * ld + j]; }
  FASTMLP_HOST_DEVICE ByRows at(int i, int j) const { return {p + i * ld + j, ld}; }
};
template <class T> struct ByColumns {
  static constexpr bool by_rows = false;
  const T* p;
  int ld;
  FASTMLP_HOST_DEVICE const T& operator()(int i, int j) const { return p[i + j * ld]; }
  FASTMLP_HOST_DEVICE ByColumns at(int i, int j) const { return {p + i + j * ld, ld}; }
};

// Operands of 16 rows of a and 16 columns of b, `depth` numbers deep.
template <Precision precision> struct Fragments;

template <> struct Fragments<Precision::ieee> {
  using Operand = float;
  static constexpr int depth = 4;
  struct A {
    float x[2][depth];
  };
  struct B {
    float x[depth][4];
  };
  static FASTMLP_HOST_DEVICE Operand operand(float x) { return x; }
  template <bool, class M> static __device__ A load_a(const M& m) {
    const int g = lane_number() / 4;
    A a;
    FASTMLP_UNROLL
    for (int k = 0; k < depth; ++k) {
      a.x[0][k] = m(g, k);
      a.x[1][k] = m(g + 8, k);
    }
    return a;
  }
  template <bool, class M> static __device__ B load_b(const M& m) {
    const int t = lane_number() % 4;
    B b;
    FASTMLP_UNROLL
    for (int k = 0; k < depth; ++k) {
      FASTMLP_UNROLL
      for (int i = 0; i < 4; ++i) b.x[k][i] = m(k, i / 2 * 8 + 2 * t + i % 2);
    }
    return b;
  }
  static __device__ void multiply(float (*c)[4], const A& a, const B& b) {
    FASTMLP_UNROLL
    for (int k = 0; k < depth; ++k) {
      FASTMLP_UNROLL
      for (int i = 0; i < 8; ++i) c[i / 4][i % 4] += a.x[i % 4 / 2][k] * b.x[k][i / 4 * 2 + i % 2];
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
    std::uint32_t x[4]; // two for each half of the columns
  };
  static FASTMLP_HOST_DEVICE Operand operand(float x) { // 10 bits of fraction, to the nearest, ties away from 0
    return x - x == 0 ? from_bits<float>((to_bits(x) + 0x1000u) & ~0x1fffu) : x;
  }
  // Where in the depth the two words of a lane lie that it reads number by number. If both operands are read so, any
  // order will do in which they agree; with this one all lanes of a warp read from different banks.
  template <bool across> static FASTMLP_HOST_DEVICE int depth_of(int t, int word) {
    return across ? 2 * t + word : t + 4 * word;
  }
  template <bool across, class M> static __device__ A load_a(const M& m) {
    if constexpr (M::by_rows) {
      const int row = lane_number() % 8, first = lane_number() / 8 % 2 * 8, second = lane_number() / 16 * 4;
      A a;
      load_matrices<false>(a.x, &m(first + row, second));
      return a;
    }
    const int g = lane_number() / 4, t = lane_number() % 4, first = depth_of<across>(t, 0),
              second = depth_of<across>(t, 1);
    return {{to_bits(m(g, first)), to_bits(m(g + 8, first)), to_bits(m(g, second)), to_bits(m(g + 8, second))}};
  }
  template <bool across, class M> static __device__ B load_b(const M& m) {
    if constexpr (!M::by_rows) {
      const int column = lane_number() % 8, first = lane_number() / 8 % 2 * 4, second = lane_number() / 16 * 8;
      B b;
      load_matrices<false>(b.x, &m(first, second + column));
      return b;
    }
    const int g = lane_number() / 4, t = lane_number() % 4, first = depth_of<across>(t, 0),
              second = depth_of<across>(t, 1);
    return {{to_bits(m(first, g)), to_bits(m(second, g)), to_bits(m(first, g + 8)), to_bits(m(second, g + 8))}};
  }
  static __device__ void multiply(float (*c)[4], const A& a, const B& b) {
    mma_tf32(c[0], a.x, b.x);
    mma_tf32(c[1], a.x, b.x + 2);
  }
};

template <> struct Fragments<Precision::bf16> {
  using Operand = bfloat16;
  static constexpr int depth = 16;
  struct A {
    std::uint32_t x[4];
  };
  struct B {
    std::uint32_t x[4]; // two for each half of the columns
  };
  static FASTMLP_HOST_DEVICE Operand operand(float x) { return bfloat16(x); }
  // Matrices in the order (0, 0), (8, 0), (0, 8), (8, 8) of their first row and k.
  template <bool, class M> static __device__ A load_a(const M& m) {
    const int row = lane_number() % 8, first = lane_number() / 8 % 2 * 8, second = lane_number() / 16 * 8;
    A a;
    load_matrices<!M::by_rows>(a.x, M::by_rows ? &m(first + row, second) : &m(first, second + row));
    return a;
  }
  // Matrices in the order (0, 0), (8, 0), (0, 8), (8, 8) of their first k and column; a lane needs pairs along k.
  template <bool, class M> static __device__ B load_b(const M& m) {
    const int row = lane_number() % 8, first = lane_number() / 8 % 2 * 8, second = lane_number() / 16 * 8;
    B b;
    load_matrices<M::by_rows>(b.x, M::by_rows ? &m(first + row, second) : &m(first, second + row));
    return b;
  }
  static __device__ void multiply(float (*c)[4], const A& a, const B& b) {
    mma_bf16(c[0], a.x, b.x);
    mma_bf16(c[1], a.x, b.x + 2);
  }
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
template <Precision precision, class A, class B>
FASTMLP_DEVICE void multiply_tile(TileSums& sums, const A& a, const B& b, int depth) {
  using F = Fragments<precision>;
  constexpr bool across = !A::by_rows && B::by_rows; // both operands lie across the depth
  for (int k = 0; k < depth; k += F::depth)
    F::multiply(sums.x, F::template load_a<across>(a.at(0, k)), F::template load_b<across>(b.at(k, 0)));
}

} // namespace fastmlp::cuda
