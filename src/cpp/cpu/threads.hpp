// Threads of the CPU engine: how many, where they meet, and the floating-point mode they compute in.
#pragma once

#ifdef _OPENMP
#include <omp.h>
#endif
#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>

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

// Where the threads of a region meet. Waiting spins for some microseconds, which is what a step's halves differ by, and
// then sleeps: on a busy machine the thread waited for may need this very core.
class Barrier {
public:
  void wait(int n_threads) {
    if (n_threads == 1) return;
    const unsigned round = rounds.load(std::memory_order_acquire);
    if (arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == n_threads) {
      arrived.store(0, std::memory_order_relaxed);
      {
        const std::lock_guard<std::mutex> lock(mutex);
        rounds.store(round + 1, std::memory_order_release);
      }
      met.notify_all();
      return;
    }
    constexpr int spins = 2000;
    for (int i = 0; i < spins; ++i) {
      if (rounds.load(std::memory_order_acquire) != round) return;
      pause();
    }
    std::unique_lock<std::mutex> lock(mutex);
    met.wait(lock, [&] { return rounds.load(std::memory_order_relaxed) != round; });
  }

private:
  static void pause() {
#if defined(__SSE2__)
    _mm_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
  }

  std::atomic<unsigned> rounds{0};
  std::atomic<int> arrived{0};
  std::mutex mutex;
  std::condition_variable met;
};

// One thread of a region: its number, how many there are, and where they meet.
struct Team {
  int thread, threads;
  Barrier& meeting;
  void barrier() const { meeting.wait(threads); }
};

// Calls body(team) on n threads; thread 0 is the caller. The body must not throw.
template <class F> void parallel(int n_threads, F&& body) {
  Barrier meeting;
#ifdef _OPENMP
  if (n_threads > 1) {
#pragma omp parallel num_threads(n_threads)
    body(Team{omp_get_thread_num(), omp_get_num_threads(), meeting});
    return;
  }
#endif
  (void)n_threads;
  body(Team{0, 1, meeting});
}

// Where this thread's part of `total` items begins, or that of the thread `offset` after it.
inline std::int64_t part(std::int64_t total, const Team& team, int offset = 0) {
  return total * (team.thread + offset) / team.threads;
}

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
