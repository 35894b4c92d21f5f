// Random streams. MT19937 as NumPy's legacy RandomState uses it, so that shuffles are the same as under scikit-learn;
// and numbers by position, the same in any order and on any device.
//
// Matsumoto, Nishimura 1998, "Mersenne twister: a 623-dimensionally equidistributed uniform pseudo-random number
// generator", ACM TOMACS 8(1). Bounded numbers by masked rejection, shuffles from the end, both as in NumPy.
#pragma once

#include "host_device.hpp"

#include <cstdint>
#include <utility>

namespace fastmlp {

class MT19937 {
public:
  static constexpr int size = 624;

  std::uint32_t key[size] = {};
  int position = size; // next word to hand out; `size` means that the state must be renewed first

  MT19937() = default;
  explicit MT19937(std::uint32_t seed) {
    for (int i = 0; i < size; ++i) {
      key[i] = seed;
      seed = 1812433253u * (seed ^ seed >> 30) + std::uint32_t(i) + 1;
    }
  }

  std::uint32_t next() {
    if (position >= size) renew();
    return tempered(key[position++]);
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

  // Swaps x[i] with a random one of x[0..i], from the end. A rejected draw swaps x[i] with itself and leaves i: cheaper
  // than a branch that nobody can predict. Words are tempered many at a time, which compilers do in wide registers.
  void shuffle(std::int64_t* x, std::int64_t n) {
    std::int64_t i = n - 1;
    for (; i > 0xffffffff; --i) std::swap(x[i], x[below_or_equal(std::uint64_t(i))]);
    std::int64_t mask = 0xffffffff;
    while (i > 0) {
      if (position >= size) renew();
      std::uint32_t words[size];
      for (int j = position; j < size; ++j) words[j] = tempered(key[j]);
      while (i > 0 && position < size) {
        while (mask >> 1 >= i) mask >>= 1;
        const std::int64_t drawn = words[position++] & mask, accepted = drawn <= i;
        std::swap(x[i], x[i ^ ((i ^ drawn) & -accepted)]);
        i -= accepted;
      }
    }
  }

private:
  static std::uint32_t tempered(std::uint32_t y) {
    y ^= y >> 11;
    y ^= (y << 7) & 0x9d2c5680u;
    y ^= (y << 15) & 0xefc60000u;
    return y ^ (y >> 18);
  }

  static std::uint32_t twist(std::uint32_t high, std::uint32_t low, std::uint32_t far) {
    const std::uint32_t y = (high & 0x80000000u) | (low & 0x7fffffffu);
    return far ^ (y >> 1) ^ (-(y & 1u) & 0x9908b0dfu);
  }

  void renew() {
    constexpr int lag = 397, rest = size - lag;
    for (int i = 0; i < rest; ++i) key[i] = twist(key[i], key[i + 1], key[i + lag]);
    for (int i = rest; i < size - 1; ++i) key[i] = twist(key[i], key[i + 1], key[i - rest]);
    key[size - 1] = twist(key[size - 1], key[0], key[lag - 1]);
    position = 0;
  }
};

// Scatters the bits of a 32-bit number, or of each lane of a vector of them: a bijection after which every bit depends
// on all. Multipliers and shifts are those with the smallest bias that Wellons' search found ("hash-prospector", 2018).
template <class U> FASTMLP_INLINE U scatter(U x) {
  x ^= x >> 16;
  x *= 0x7feb352du;
  x ^= x >> 15;
  x *= 0x846ca68bu;
  return x ^ (x >> 16);
}

// What tells the random numbers of one layer in one step of one training from those of another; 0 for no numbers at
// all.
struct RandomKey {
  std::uint32_t low = 0, high = 0;

  FASTMLP_HOST_DEVICE bool is_set() const { return low != 0 || high != 0; }
  FASTMLP_HOST_DEVICE RandomKey of(std::uint64_t what) const {
    const std::uint32_t a = scatter(low ^ std::uint32_t(what)), b = scatter(high + std::uint32_t(what >> 32) + a),
                        c = scatter(a + b);
    return {c, b + (b == 0 && c == 0)};
  }
};

} // namespace fastmlp
