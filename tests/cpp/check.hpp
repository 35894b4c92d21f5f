// The checks that test programs make, and numbers to make them with.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <new>
#include <string>
#include <vector>

namespace fastmlp {

inline int n_passed = 0, n_failed = 0;

inline void check(bool holds, const std::string& what) {
  ++(holds ? n_passed : n_failed);
  if (!holds) std::printf("FAILED: %s\n", what.c_str());
}

// Memory as the engine gives it to kernels: aligned to the widest register.
template <class T> struct Aligned {
  using value_type = T;
  static constexpr std::align_val_t boundary{64};
  Aligned() = default;
  template <class U> Aligned(const Aligned<U>&) {}
  T* allocate(std::size_t n) { return static_cast<T*>(::operator new(n * sizeof(T), boundary)); }
  void deallocate(T* p, std::size_t) { ::operator delete(p, boundary); }
  bool operator==(const Aligned&) const { return true; }
  bool operator!=(const Aligned&) const { return false; }
};
template <class T> using Array = std::vector<T, Aligned<T>>;

// How far a computation in T may be from the same one in double, relative to numbers of size 1.
template <class T> constexpr double tolerance = sizeof(T) == 4 ? 1e-4 : 1e-11;

template <class T>
void check_close(const Array<T>& computed, const std::vector<double>& expected, const std::string& what) {
  double worst = computed.size() == expected.size() ? 0 : INFINITY;
  for (std::size_t i = 0; i < computed.size() && i < expected.size(); ++i) {
    const double error = std::abs(double(computed[i]) - expected[i]) / (1 + std::abs(expected[i]));
    worst = error <= worst ? worst : error; // NaN counts
  }
  check(worst <= tolerance<T>, what + ": off by " + std::to_string(worst));
}

// Uniform numbers between -scale and scale, from a linear congruential generator (Knuth, MMIX).
template <class T> class RandomNumbers {
public:
  explicit RandomNumbers(std::uint64_t seed) : state(seed) {}
  T operator()(double scale = 1) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return T(scale * (double(state >> 32) / 2147483648.0 - 1));
  }
  Array<T> array(std::size_t n, double scale = 1) {
    Array<T> numbers(n);
    for (T& x : numbers) x = (*this)(scale);
    return numbers;
  }

private:
  std::uint64_t state;
};

// The parts of the program, each for one type.
template <class T> void test_kernels();
template <class T> void test_engine();
void test_memory();
void test_threads();

} // namespace fastmlp
