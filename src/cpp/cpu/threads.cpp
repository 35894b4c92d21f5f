#include "threads.hpp"

#include <chrono>
#include <cmath>
#include <ctime>

#ifndef _WIN32
#include <pthread.h>
#endif

namespace fastmlp {

namespace {

bool forked = false;

#ifndef _WIN32
const int registered = pthread_atfork(nullptr, nullptr, [] { forked = true; });
#endif

std::mutex load_mutex; // a forked child computes alone and never takes it
Load load;
std::atomic<bool> steady{false};

} // namespace

bool in_forked_child() { return forked; }

void Load::report(int n, double now, double elapsed, double busy) {
  constexpr double window = 0.03; // many time slices of a scheduler: one that is lost now and then decides nothing
  constexpr double enough = 0.75, first_patience = 2, last_patience = 32;
  if (n > limit && now < until) return; // it began before the limit did, and says what is known
  elapsed_sum += elapsed;
  wanted_sum += n * elapsed;
  busy_sum += busy;
  if (elapsed_sum < window) return;
  const double share = busy_sum / wanted_sum;
  if (share < enough) {
    patience = std::clamp(2 * patience, first_patience, last_patience);
    limit = std::max(1, int(std::lround(n * share)));
    until = now + patience * elapsed_sum;
  } else if (n > limit) {
    patience = 0;
  }
  elapsed_sum = wanted_sum = busy_sum = 0;
}

int affordable_threads(int wanted) {
  if (steady) return wanted;
  const std::lock_guard<std::mutex> lock(load_mutex);
  return load.affordable(wanted, wall_seconds());
}

void report_load(int n, double elapsed, double busy) {
  if (steady) return;
  const std::lock_guard<std::mutex> lock(load_mutex);
  load.report(n, wall_seconds(), elapsed, busy);
}

bool set_steady_threads(bool on) { return steady.exchange(on); }
bool has_steady_threads() { return steady; }

double wall_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double processor_seconds() {
#ifdef CLOCK_THREAD_CPUTIME_ID
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return double(t.tv_sec) + 1e-9 * double(t.tv_nsec);
#else
  return wall_seconds();
#endif
}

} // namespace fastmlp
