// How many threads pay for steps that take only microseconds.
#pragma once

namespace fastmlp {

// Threads of small steps spend their time on what one core has written and another reads. What that costs differs
// tenfold between machines, and on a virtual one from minute to minute, so that no rule could tell whether a second
// thread pays: it is measured. Some milliseconds with the present number are followed by some with half as many or
// twice as many; the fastest goes on, and after a pause, longer each time that nothing changes, all is tried again.
// Times are in seconds.
class TeamSize {
public:
  // For what comes next, at most `wanted`.
  int choose(int wanted, double now);
  bool is_measuring() const { return state != resting; }
  // `n` threads took so long for so many rows.
  void report(int n, double rows, double seconds, double now);

private:
  enum State { measuring_best, trying, resting };

  void compare(double pace, double now);
  bool try_next();

  State state = measuring_best;
  int most = 0, best = 0, tried = 0;
  bool upwards = false, has_changed = false;
  double best_pace = 0; // seconds a row
  double row_sum = 0, seconds_sum = 0;
  double patience = 0, until = 0;
};

// The same for the whole process, apart for steps of about so many operations: what to take, and for how long before
// asking again; and what became of it.
struct TeamChoice {
  int n;
  double seconds;
};
TeamChoice choose_team(double flops, int wanted);
void report_team(double flops, int n, double rows, double seconds);

} // namespace fastmlp
