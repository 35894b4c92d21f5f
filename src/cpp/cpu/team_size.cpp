#include "team_size.hpp"

#include "threads.hpp"

#include <array>
#include <cmath>

namespace fastmlp {

int TeamSize::choose(int wanted, double now) {
  if (wanted != most) {
    *this = TeamSize();
    most = best = wanted;
  }
  if (state == resting && now >= until) state = measuring_best;
  return state == trying ? tried : best;
}

void TeamSize::report(int n, double rows, double seconds, double now) {
  constexpr double enough = 0.002;
  if (state == resting || n != (state == trying ? tried : best)) return; // the machine had no room for all
  row_sum += rows;
  seconds_sum += seconds;
  if (seconds_sum < enough) return;
  compare(seconds_sum / row_sum, now);
  row_sum = seconds_sum = 0;
}

void TeamSize::compare(double pace, double now) {
  constexpr double gain = 0.97, first_patience = 0.1, last_patience = 3.2;
  bool goes_on = false;
  if (state == measuring_best) {
    best_pace = pace;
    tried = best;
    upwards = has_changed = false;
    goes_on = try_next();
    if (!goes_on) {
      upwards = true;
      goes_on = try_next();
    }
  } else if (pace < gain * best_pace) {
    best = tried;
    best_pace = pace;
    has_changed = true;
    goes_on = try_next();
  } else if (!upwards && !has_changed) {
    upwards = true;
    tried = best;
    goes_on = try_next();
  }
  state = goes_on ? trying : resting;
  if (goes_on) return;
  patience = has_changed || patience == 0 ? first_patience : std::min(2 * patience, last_patience);
  until = now + patience;
}

// Half as many, or twice; false if there is no such number.
bool TeamSize::try_next() {
  const int next = upwards ? std::min(2 * tried, most) : (tried + 1) / 2;
  if (next == tried) return false;
  tried = next;
  return true;
}

namespace {

std::mutex mutex; // a forked child computes alone and never takes it
std::array<TeamSize, 64> sizes;

TeamSize& size_for(double flops) { return sizes[std::size_t(std::clamp(std::ilogb(flops), 0, 63))]; }

} // namespace

TeamChoice choose_team(double flops, int wanted) {
  constexpr double short_while = 0.002, long_while = 0.02;
  const std::lock_guard<std::mutex> lock(mutex);
  TeamSize& size = size_for(flops);
  const int n = size.choose(wanted, wall_seconds());
  return {n, size.is_measuring() ? short_while : long_while};
}

void report_team(double flops, int n, double rows, double seconds) {
  const std::lock_guard<std::mutex> lock(mutex);
  size_for(flops).report(n, rows, seconds, wall_seconds());
}

} // namespace fastmlp
