// The 16-bit floating-point type with float's exponent, as the operands of products store it; arithmetic is float's.
#pragma once

#include "../vector_math.hpp"

#ifdef __CUDACC__
#include <cuda_bf16.h>
#endif

namespace fastmlp::cuda {

struct bfloat16 {
  std::uint16_t bits;

  bfloat16() = default;
  FASTMLP_HOST_DEVICE explicit bfloat16(float x) { // to the nearest, ties to even
#ifdef __CUDA_ARCH__
    bits = __bfloat16_as_ushort(__float2bfloat16_rn(x));
#else
    const std::uint32_t word = to_bits(x);
    bits = x == x ? std::uint16_t((word + 0x7fffu + (word >> 16 & 1)) >> 16) : std::uint16_t(0x7fff);
#endif
  }
  FASTMLP_HOST_DEVICE operator float() const { return from_bits<float>(std::uint32_t(bits) << 16); }
};

} // namespace fastmlp::cuda
