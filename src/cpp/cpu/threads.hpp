// Threads of the CPU engine: how many, where they meet, and the floating-point mode they compute in.
#pragma once

#ifdef _OPENMP
#include <omp.h>
#endif
#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

#include <algorithm>
#include <cstdint>

namespace fastmlp {

// As many threads as this process may use: OMP_NUM_THREADS, threadpoolctl and CPU affinity are respected by OpenMP.
int available_threads();

// After a fork the parent's team is gone and a new region would wait for it for ever: a child computes alone.
bool in_forked_child();

// Threads for `flops` of work: the requested number, or (0) one below the point where a second one pays.
inline int choose_threads(int requested, double flops) {
  constexpr double worth_a_second_thread = 1e6; // measured: below, moving weights between cores costs what it gains
  constexpr int most_threads = 256;             // OpenMP ends the process when the system refuses a thread
  if (in_forked_child()) return 1;
  if (requested > 0) return std::min(requested, most_threads);
  return flops < worth_a_second_thread ? 1 : std::min(available_threads(), most_threads);
}

// Calls body(thread, n_threads) on n threads; thread 0 is the caller. The body must not throw.
template <class F> void parallel(int n_threads, F&& body) {
#ifdef _OPENMP
  if (n_threads > 1) {
#pragma omp parallel num_threads(n_threads)
    body(omp_get_thread_num(), omp_get_num_threads());
    return;
  }
#endif
  (void)n_threads;
  body(0, 1);
}

// Waits for all threads of the region; does nothing in a serial one.
inline void barrier(int n_threads) {
#ifdef _OPENMP
  if (n_threads > 1) {
#pragma omp barrier
  }
#endif
  (void)n_threads;
}

// Part `i` of `n` of a range of `total` items.
inline std::int64_t part(std::int64_t total, int i, int n) { return total * i / n; }

// Numbers below 1e-38 (float) are flushed to 0 while this lives: a dead unit's Adam moments decay into them, and
// arithmetic on them is several times slower. The caller's mode comes back afterwards.
class FlushDenormals {
#if defined(__SSE2__)
  unsigned saved = _mm_getcsr();

public:
  FlushDenormals() { _mm_setcsr(saved | 0x8040u); } // flush-to-zero, denormals-are-zero
  ~FlushDenormals() { _mm_setcsr(saved); }
#elif defined(__aarch64__)
  std::uint64_t saved;

public:
  FlushDenormals() {
    __asm__ volatile("mrs %0, fpcr" : "=r"(saved));
    __asm__ volatile("msr fpcr, %0" : : "r"(saved | (std::uint64_t(1) << 24)));
  }
  ~FlushDenormals() { __asm__ volatile("msr fpcr, %0" : : "r"(saved)); }
#else
public:
  FlushDenormals() {}
#endif
  FlushDenormals(const FlushDenormals&) = delete;
  FlushDenormals& operator=(const FlushDenormals&) = delete;
};

} // namespace fastmlp
