// The mode in which threads compute, where they meet, and how many of them the machine lets work.
#include "check.hpp"

#include "../../src/cpp/cpu/shared_lines.hpp"
#include "../../src/cpp/cpu/team_size.hpp"
#include "../../src/cpp/cpu/threads.hpp"
#include "../../src/cpp/engine.hpp"

namespace fastmlp {

namespace {

bool flushes_denormals() {
  volatile float tiny = 2e-38f, factor = 0.25f;
  return tiny * factor == 0;
}

// On as many threads as a region of this size has, each with its own mode.
int count_flushing(int n_threads) {
  int count = 0;
#ifdef _OPENMP
#pragma omp parallel num_threads(n_threads) reduction(+ : count)
#endif
  count += flushes_denormals();
  (void)n_threads;
  return count;
}

// Velocities just above the smallest normal number decay below it, and gradients that are 0 add nothing.
void test_denormals(int n_threads) {
  const Network network({64, 200, 1}, {"relu"}, "squared_error");
  const std::unique_ptr<Engine<float>> engine = make_cpu_engine<float>(network, n_threads);
  const std::vector<float> zeros(std::size_t(network.n_parameters)), X(64 * 64), y(64);
  std::vector<float> velocity(zeros.size(), 1.2e-38f);
  engine->set_parameters(zeros.data());
  engine->set_slots({velocity.data()});
  Rule rule{Optimizers::find("sgd", "optimizer"), {0.9, 1}, 0.1, 0};
  const Dataset<float> data{{64, 64, X.data(), 64}, y.data(), nullptr, nullptr};
  std::vector<std::int64_t> order(64);
  Poll poll(nullptr);
  engine->epoch(data, order.data(), 64, 64, 0, rule, poll);
  engine->get_slots();
  int left = 0;
  for (float v : velocity) left += v != 0;
  check(left == 0, "denormals are flushed by each of " + std::to_string(n_threads) + " threads");
  check(count_flushing(n_threads) == 0, "the mode comes back on each of " + std::to_string(n_threads) + " threads");
}

// What one thread wrote before a barrier the others read after it, also when waiting takes long enough to sleep.
void test_barrier(int n_threads) {
  constexpr int rounds = 200;
  std::vector<int> written(std::size_t(n_threads), 0);
  std::atomic<int> late{0};
  parallel(n_threads, [&](const Team& team) {
    for (int round = 1; round <= rounds; ++round) {
      if (round % 50 == 0 && team.thread == 0)
        for (const double end = wall_seconds() + 2e-3; wall_seconds() < end;) {
        }
      written[std::size_t(team.thread)] = round;
      team.barrier();
      for (int thread = 0; thread < team.threads; ++thread) late += written[std::size_t(thread)] != round;
      team.barrier();
    }
  });
  check(late == 0, "a barrier of " + std::to_string(n_threads) + " threads");
}

void test_shared_lines() {
  SharedLines lines;
  const double now = 100;
  check(!lines.are_due(1, now), "one thread shares no lines");
  for (int n_threads : {2, 3}) {
    const std::string so_many = "shared lines of " + std::to_string(n_threads) + " threads";
    check(lines.are_due(n_threads, now), so_many + " are measured");
    std::atomic<int> sensible{0}, n_came{0};
    parallel(n_threads, [&](const Team& team) {
      lines.measure(team);
      const double seconds = lines.seconds_a_line(team);
      sensible += team.threads == 1 ? seconds == 0 : seconds > 1e-12 && seconds < 1e-3;
      ++n_came;
    });
    check(sensible == n_came, so_many + ": a time for each");
    check(!lines.are_due(n_threads, now + 0.01), so_many + " hold for a while");
  }
  check(lines.are_due(2, now + 1), "and are measured again");
}

void test_load() {
  Load load;
  double now = 100;
  const auto work = [&](int n, double share) { load.report(n, now += 0.04, 0.04, n * share * 0.04); };
  work(2, 0.9);
  check(load.affordable(2, now) == 2, "threads that have their processors stay");
  load.report(2, now += 0.005, 0.005, 0);
  for (int i = 0; i < 60; ++i) load.report(2, now += 0.0005, 0.0005, 2 * 0.0005);
  check(load.affordable(2, now) == 2, "a time slice decides nothing");
  work(2, 0.5);
  check(load.affordable(2, now) == 1, "two threads on one processor become one");
  check(load.affordable(2, now + 0.5) == 2, "both are tried again");
  const auto pause = [&] {
    double seconds = 0;
    while (load.affordable(2, now + seconds) == 1) seconds += 0.001;
    now += seconds;
    return seconds;
  };
  for (int i = 0; i < 5; ++i) load.report(2, now, 0.04, 0.04);
  const double first = pause();
  check(first < 0.1, "regions that began before the limit do not prolong it");
  work(2, 0.5);
  const double second = pause();
  check(second > 1.5 * first, "less often while it keeps failing");
  for (int i = 0; i < 20; ++i) work(2, 0.5), pause();
  work(2, 0.5);
  check(pause() < 5, "but again and again");
  work(2, 1);
  work(2, 0.5);
  check(pause() < 1.5 * first, "a success starts anew");
  work(8, 0.6);
  check(load.affordable(8, now) == 5, "as many threads as had processors");
  check(load.affordable(3, now) == 3, "fewer are not concerned");
}

// A machine on which a row takes so many nanoseconds with 1, 2, ... threads, for some seconds; returns the number of
// threads that it ends with, and adds up what it took.
struct Machine {
  TeamSize size;
  double now = 100, worked = 0;

  int run(double seconds, const std::vector<double>& row, int came = 0) {
    int n = 0;
    for (const double end = now + seconds; now < end;) {
      n = size.choose(int(row.size()), now);
      const double taken = size.is_measuring() ? 0.001 : 0.02;
      now += taken;
      worked += taken / row[std::size_t(n - 1)];
      size.report(came ? came : n, taken / row[std::size_t(n - 1)], taken, now);
    }
    return n;
  }
};

void test_team_size() {
  const std::vector<double> pays{2, 1}, costs{1, 3}, best_with_two{2, 1, 1.5, 1.5}, best_with_four{4, 3, 2, 1};
  Machine machine;
  check(machine.size.choose(2, machine.now) == 2, "all threads at first");
  machine.run(10, pays);
  check(machine.worked > 0.97 * 10, "two threads that pay lose less than 3 % to trials");
  machine.run(4, costs); // the longest pause
  machine.worked = 0;
  machine.run(10, costs);
  check(machine.worked > 0.97 * 10, "nor does one thread, where a second one costs");
  machine.run(4, pays);
  machine.worked = 0;
  machine.run(10, pays);
  check(machine.worked > 0.97 * 10, "a machine that changes is noticed");
  machine = Machine();
  machine.run(10, best_with_two);
  machine.worked = 0;
  machine.run(10, best_with_two);
  check(machine.worked > 0.97 * 10, "half of four");
  machine.run(4, best_with_four);
  machine.worked = 0;
  machine.run(10, best_with_four);
  check(machine.worked > 0.97 * 10, "and back to four");
  machine = Machine();
  check(machine.run(1, costs, 1) == 2, "a team that was smaller than asked for says nothing");
}

} // namespace

void test_threads() {
  set_steady_threads(true); // the counts below are meant
  for (int n_threads : {1, 2, 3}) {
    test_denormals(n_threads);
    test_barrier(n_threads);
  }
  test_shared_lines();
  test_load();
  test_team_size();
}

} // namespace fastmlp
