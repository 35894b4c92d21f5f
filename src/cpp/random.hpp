// Random streams. MT19937 as NumPy's legacy RandomState uses it, so that shuffles are the same as under scikit-learn.
//
// Matsumoto, Nishimura 1998, "Mersenne twister: a 623-dimensionally equidistributed uniform pseudo-random number
// generator", ACM TOMACS 8(1). Bounded numbers by masked rejection, shuffles from the end, both as in NumPy.
#pragma once

#include <cstdint>
#include <utility>

namespace fastmlp {

class MT19937 {
public:
  static constexpr int size = 624;

  std::uint32_t key[size] = {};
  int position = size; // next word to hand out; `size` means that the state must be renewed first

  std::uint32_t next() {
    if (position >= size) renew();
    std::uint32_t y = key[position++];
    y ^= y >> 11;
    y ^= (y << 7) & 0x9d2c5680u;
    y ^= (y << 15) & 0xefc60000u;
    return y ^ (y >> 18);
  }

  // Uniform on 0..bound, both included.
  std::uint64_t below_or_equal(std::uint64_t bound) {
    std::uint64_t mask = bound;
    for (int shift = 1; shift < 64; shift *= 2) mask |= mask >> shift;
    std::uint64_t value;
    do {
      value = next();
      if (bound > 0xffffffffu) value = value << 32 | next();
      value &= mask;
    } while (value > bound);
    return value;
  }

  void shuffle(std::int64_t* x, std::int64_t n) {
    for (std::int64_t i = n - 1; i > 0; --i) std::swap(x[i], x[below_or_equal(std::uint64_t(i))]);
  }

private:
  void renew() {
    for (int i = 0; i < size; ++i) {
      const std::uint32_t y = (key[i] & 0x80000000u) | (key[(i + 1) % size] & 0x7fffffffu);
      key[i] = key[(i + 397) % size] ^ (y >> 1) ^ ((y & 1u) ? 0x9908b0dfu : 0u);
    }
    position = 0;
  }
};

} // namespace fastmlp
