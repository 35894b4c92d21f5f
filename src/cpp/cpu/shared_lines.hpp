// Lines of the cache that one core writes and another one reads, in every step again. Before it is written the next
// time, a line must be taken back from the core that has read it. Some processors take many times as long for that as
// for writing past the caches to memory, from where all read it again ("streaming"), and on a virtual machine it
// changes while cores move. So it is measured (design page 23).
#pragma once

#include "threads.hpp"

#include <array>
#include <vector>

namespace fastmlp {

class SharedLines {
public:
  // Before a region of up to n threads: whether it should measure. Answers hold for some steps; times are in seconds.
  bool are_due(int n_threads, double now) {
    if (n_threads == 1 || (now < until && n_threads <= int(lines.size()))) return false;
    if (n_threads > int(lines.size())) lines = std::vector<Lines>(std::size_t(n_threads));
    until = now + hold;
    return true;
  }

  // In a region, by all threads: each writes what the next one has read. The fastest time counts, as other programs
  // may come between.
  void measure(const Team& team) {
    if (team.threads == 1) return;
    Lines& own = lines[std::size_t(team.thread)];
    const Lines& other = lines[std::size_t((team.thread + 1) % team.threads)];
    double best = 1;
    for (int round = 0; round < 3; ++round) {
      own.write();
      team.barrier();
      own.read = other.sum();
      team.barrier();
      const double start = wall_seconds();
      own.write();
      best = std::min(best, wall_seconds() - start);
    }
    own.seconds = best / n_lines;
  }

  // Of a line of this thread that another one has read, to write it again.
  double seconds_a_line(const Team& team) const {
    if (assumed >= 0) return assumed;
    return team.threads == 1 ? 0 : lines[std::size_t(team.thread)].seconds;
  }

  // The same thread, which streams if that pays (measured): where all threads write the parameters and batch that the
  // others read, sooner than where replicas hand over gradients, which must arrive before they go on.
  Team streaming(const Team& team, bool with_replicas) const {
    return {team.thread, team.threads, team.meeting, seconds_a_line(team) > (with_replicas ? 6e-9 : 1.5e-9)};
  }

  static inline double assumed = -1; // for tests: instead of what was measured, if it is not negative

private:
  static constexpr int n_lines = 64;    // 4 KiB
  static constexpr double hold = 50e-3; // seconds; measuring takes some microseconds

  struct alignas(64) Line {
    std::atomic<int> number{0};
  };
  struct Lines {
    std::array<Line, n_lines> all;
    double seconds = 0;
    int read = 0; // so that no compiler leaves out the reading

    void write() {
      for (Line& line : all) line.number.store(1, std::memory_order_relaxed);
      std::atomic_thread_fence(std::memory_order_seq_cst); // until all are written
    }
    int sum() const {
      int sum = 0;
      for (const Line& line : all) sum += line.number.load(std::memory_order_relaxed);
      return sum;
    }
  };

  std::vector<Lines> lines; // by thread
  double until = 0;
};

} // namespace fastmlp
