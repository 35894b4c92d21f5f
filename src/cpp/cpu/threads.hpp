// Threads of the CPU engine: how many, where they meet, and the floating-point mode they compute in.
#pragma once

#ifdef _OPENMP
#include <omp.h>
#endif
#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

#include "processors.hpp"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>

namespace fastmlp {

// After a fork the parent's team is gone and a new region would wait for it for ever: a child computes alone.
bool in_forked_child();

constexpr double worth_a_second_thread = 1e6; // flops; measured: below, what goes from core to core costs as much

// Threads for `flops` of work: the requested number, or (0) one below the point where a second one pays.
inline int choose_threads(int requested, double flops) {
  constexpr int most_threads = 256; // OpenMP ends the process when the system refuses a thread
  if (in_forked_child()) return 1;
  if (requested > 0) return std::min(requested, most_threads);
  return flops < worth_a_second_thread ? 1 : std::min(available_threads(), most_threads);
}

// How many threads the machine lets run side by side. Threads of a team wait for each other: one that shares its
// processor with another program slows down all of them, and fewer threads that never wait get more done, for this
// process and for the other. So a team that was without a processor for a quarter of its time becomes smaller for a
// while; then all are tried again, less and less often while that keeps failing. Times are in seconds.
class Load {
public:
  int affordable(int wanted, double now) const { return now < until ? std::min(wanted, limit) : wanted; }

  // `n` threads worked for `elapsed` until `now`, `busy` of it, all together, on a processor.
  void report(int n, double now, double elapsed, double busy);

private:
  double elapsed_sum = 0, wanted_sum = 0, busy_sum = 0; // of the window that decides next
  int limit = 0;
  double until = 0;    // when the limit ends
  double patience = 0; // how much longer than the window it lasts
};

// The same for the whole process, by its clocks; `set_steady_threads` turns it off: nothing is limited or learned.
int affordable_threads(int wanted);
void report_load(int n, double elapsed, double busy);
bool set_steady_threads(bool on); // returns what it was
bool has_steady_threads();
double wall_seconds();
double processor_seconds(); // of this thread

// Where the threads of a region meet. Waiting spins for some microseconds, which is what a step's halves differ by, and
// then sleeps: on a busy machine the thread waited for may need this very core. Steps of small networks meet every few
// microseconds: what the others look at while they spin has a cache line of its own, and only sleepers are called.
class Barrier {
public:
  void wait(int n_threads) {
    if (n_threads == 1) return;
#if defined(__SSE2__)
    _mm_sfence(); // what was written past the caches is there
#endif
    const unsigned round = rounds.load(std::memory_order_relaxed);
    if (arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == n_threads) {
      arrived.store(0, std::memory_order_relaxed);
      rounds.store(round + 1); // in one order with `sleeping`: either this thread sees the sleeper, or he this
      if (sleeping.load() == 0) return;
      const std::lock_guard<std::mutex> lock(mutex); // so that nobody is between his last look and his sleep
      met.notify_all();
      return;
    }
    constexpr int spins = 2000;
    for (int i = 0; i < spins; ++i) {
      if (rounds.load(std::memory_order_acquire) != round) return;
      pause();
    }
    std::unique_lock<std::mutex> lock(mutex);
    sleeping.fetch_add(1);
    met.wait(lock, [&] { return rounds.load() != round; });
    sleeping.fetch_sub(1);
  }

private:
  static void pause() {
#if defined(__SSE2__)
    _mm_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
  }

  alignas(64) std::atomic<unsigned> rounds{0};
  alignas(64) std::atomic<int> arrived{0};
  alignas(64) std::atomic<int> sleeping{0};
  std::mutex mutex;
  std::condition_variable met;
};

// One thread of a region: its number, how many there are, and where they meet; whether it writes past the caches what
// others read.
struct Team {
  int thread, threads;
  Barrier& meeting;
  bool streams = false;
  void barrier() const { meeting.wait(threads); }
};

// Calls body(team) on up to n threads, fewer while the machine is busy (see Load), and returns how many; thread 0 is
// the caller. The body must not throw. Where others wait for thread 0 on purpose, the region `tells` nothing of the
// load.
template <class F> int parallel(int n_threads, F&& body, bool tells = true) {
  Barrier meeting;
#ifdef _OPENMP
  if (n_threads > 1) n_threads = affordable_threads(n_threads);
  if (n_threads > 1) {
    const double start = wall_seconds();
    double busy = 0;
    int n_came = 1; // the runtime may have fewer
#pragma omp parallel num_threads(n_threads) reduction(+ : busy)
    {
      const double begin = processor_seconds();
      const Team team{omp_get_thread_num(), omp_get_num_threads(), meeting};
      body(team);
      busy = processor_seconds() - begin;
      if (team.thread == 0) n_came = team.threads;
      team.barrier(); // it sleeps where the runtime's own would spin
    }
    if (tells) report_load(n_came, wall_seconds() - start, busy);
    return n_came;
  }
#endif
  (void)n_threads, (void)tells;
  body(Team{0, 1, meeting});
  return 1;
}

// Where this thread's part of `total` items begins, or that of the thread `offset` after it.
inline std::int64_t part(std::int64_t total, const Team& team, int offset = 0) {
  const int cut = team.thread + offset;
  if (cut == 0 || cut == team.threads) return cut ? total : 0; // small networks notice the division
  return total * cut / team.threads;
}

// Numbers below 1e-38 (float) are flushed to 0 while this lives: a dead unit's Adam moments decay into them, and
// arithmetic on them is several times slower. The mode before comes back afterwards. `off`: others compute meanwhile.
class FlushDenormals {
#if defined(__SSE2__)
  static constexpr unsigned bits = 0x8040; // flush-to-zero, denormals-are-zero
  unsigned saved = _mm_getcsr();

public:
  explicit FlushDenormals(bool off = false) { _mm_setcsr(off ? saved & ~bits : saved | bits); }
  ~FlushDenormals() { _mm_setcsr(saved); }
#elif defined(__aarch64__)
  static constexpr std::uint64_t bit = std::uint64_t(1) << 24;
  std::uint64_t saved;

public:
  explicit FlushDenormals(bool off = false) {
    __asm__ volatile("mrs %0, fpcr" : "=r"(saved));
    __asm__ volatile("msr fpcr, %0" : : "r"(off ? saved & ~bit : saved | bit));
  }
  ~FlushDenormals() { __asm__ volatile("msr fpcr, %0" : : "r"(saved)); }
#else
public:
  explicit FlushDenormals(bool = false) {}
#endif
  FlushDenormals(const FlushDenormals&) = delete;
  FlushDenormals& operator=(const FlushDenormals&) = delete;
};

} // namespace fastmlp
