// Products of a warp on the host, by the layouts of PTX ISA's mma.m16n8k8, mma.m16n8k16 and ldmatrix. The end of
// cuda_on_host.hpp.
#pragma once

namespace fastmlp::cuda {

inline int lane_number() { return on_host::block->lane(); }

namespace on_host {

// c += a b; a_at(row, k) and b_at(k, column) find a number among the words that the lanes brought.
template <class A, class B>
void multiply(float* c, const std::uint32_t* a, const std::uint32_t* b, int depth, A&& a_at, B&& b_at) {
  Warp& warp = block->warp();
  const int lane = block->lane(), g = lane / 4, t = lane % 4;
  std::copy_n(a, 4, warp.a[lane]);
  std::copy_n(b, 2, warp.b[lane]);
  __syncwarp();
  for (int i = 0; i < 4; ++i)
    for (int k = 0; k < depth; ++k) c[i] += a_at(warp, g + i / 2 * 8, k) * b_at(warp, k, 2 * t + i % 2);
  __syncwarp();
}

inline float as_float(std::uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}
inline float half_of(std::uint32_t word, int half) { return as_float(half ? word & 0xffff0000u : word << 16); }

} // namespace on_host

// Only the leading 10 bits of fraction count, as in the hardware: whoever forgets to round loses accuracy.
inline void mma_tf32(float* c, const std::uint32_t* a, const std::uint32_t* b) {
  using on_host::Warp;
  const auto cut = [](std::uint32_t word) { return on_host::as_float(word & ~0x1fffu); };
  on_host::multiply(
      c, a, b, 8, [&](Warp& w, int row, int k) { return cut(w.a[row % 8 * 4 + k % 4][row / 8 + k / 4 * 2]); },
      [&](Warp& w, int k, int column) { return cut(w.b[column * 4 + k % 4][k / 4]); });
}
inline void mma_bf16(float* c, const std::uint32_t* a, const std::uint32_t* b) {
  using on_host::Warp;
  on_host::multiply(
      c, a, b, 16,
      [](Warp& w, int row, int k) {
        return on_host::half_of(w.a[row % 8 * 4 + k % 8 / 2][row / 8 + k / 8 * 2], k % 2);
      },
      [](Warp& w, int k, int column) { return on_host::half_of(w.b[column * 4 + k % 8 / 2][k / 8], k % 2); });
}

// Four 8 x 8 matrices of 16-bit numbers, whose rows begin where the lanes say: PTX ISA, ldmatrix.
template <bool transposed> void load_matrices(std::uint32_t* x, const void* row) {
  using namespace on_host;
  Warp& warp = block->warp();
  const int lane = block->lane(), g = lane / 4, t = lane % 4;
  if (reinterpret_cast<std::uintptr_t>(row) % 16 != 0) block->fail("a row of a matrix is not aligned to 16 bytes");
  std::memcpy(warp.exchange[lane], &row, sizeof row);
  __syncwarp();
  const auto number = [&](int matrix, int i, int j) {
    const std::uint16_t* from;
    std::memcpy(&from, warp.exchange[8 * matrix + i], sizeof from);
    std::uint16_t bits;
    std::memcpy(&bits, from + j, sizeof bits);
    return std::uint32_t(bits);
  };
  for (int m = 0; m < 4; ++m)
    x[m] = transposed ? number(m, 2 * t, g) | number(m, 2 * t + 1, g) << 16
                      : number(m, g, 2 * t) | number(m, g, 2 * t + 1) << 16;
  __syncwarp();
}

} // namespace fastmlp::cuda
