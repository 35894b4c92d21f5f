// Training many networks at once: the rules of trainer.hpp for each of them, and the same random numbers. A launch has
// several epochs of all that go on; while the device computes them, the host draws the orders of the next.
#pragma once

#include "cpu/threads.hpp"
#include "many_engine.hpp"
#include "trainer.hpp"

#include <exception>

namespace fastmlp {

// One of the trainings. It ends where it would have ended alone: random numbers that were drawn ahead are given back.
struct ManyFit {
  TrainOptions options;
  TrainState state;
  std::vector<std::int64_t> rows; // of the data: what an epoch's order begins with
  MT19937 random;
  Hooks hooks;             // only `rates`
  bool one_by_one = false; // the numbers of an epoch's steps depend on what the one before was like
  int data = 0;            // number of the data
  float* parameters = nullptr;
  std::vector<float*> slots;

  std::int64_t n_rows() const { return std::int64_t(rows.size()); }
  std::int64_t steps_of_epoch() const { return (n_rows() - 1) / options.batch_size + 1; }
};

class ManyTrainer {
public:
  ManyTrainer(std::vector<ManyFit>& fits, int n_threads) : fits(fits), n_threads(n_threads), ahead(fits.size()) {
    // Enough to hide the start of a launch, few enough to be asked now and then whether to stop, and to have room.
    const std::int64_t most_rows = std::min<std::int64_t>(1 << 16, (1 << 25) / std::int64_t(fits.size()));
    constexpr std::int64_t most = 32;
    for (std::size_t i = 0; i < fits.size(); ++i) {
      const ManyFit& fit = fits[i];
      const std::int64_t fitting = std::clamp<std::int64_t>(most_rows / fit.n_rows(), 1, most);
      ahead[i].most = fit.one_by_one ? 1 : std::min(fitting, std::max<std::int64_t>(fit.options.max_iter, 1));
      ahead[i].last = fit.rows;
      ahead[i].random = fit.random;
    }
  }

  // What an engine has to know of them.
  std::vector<ManyModel> models() const {
    std::vector<ManyModel> models;
    for (std::size_t i = 0; i < fits.size(); ++i) {
      const ManyFit& fit = fits[i];
      const TrainOptions& o = fit.options;
      models.push_back({fit.data, fit.n_rows(), o.batch_size, o.rule, o.alpha, o.tol, o.n_iter_no_change, ahead[i].most,
                        fit.parameters, fit.slots});
    }
    return models;
  }

  // Trains all to their ends, in an engine that was made of `models`; `stop` is asked after each launch.
  void run(ManyEngine& engine, const std::function<bool()>& stop) {
    std::vector<int> going;
    for (std::size_t i = 0; i < fits.size(); ++i)
      if (fits[i].options.max_iter > 0) going.push_back(int(i));
    draw(engine, going, false);
    bool stopped = false;
    while (!going.empty() && !stopped && ask_all_rates(going)) {
      engine.launch(next_epochs(going));
      draw(engine, going, true);
      const std::vector<ManyResult> results = engine.wait();
      std::vector<int> left;
      for (std::size_t i = 0; i < going.size(); ++i)
        if (take(std::size_t(going[i]), results[i])) left.push_back(going[i]);
      going = left;
      stopped = stop && stop();
    }
    for (int i : going) fits[std::size_t(i)].state.stopped = Stopped::interrupted;
    engine.get();
  }

private:
  // Orders of some epochs, one after another, and the stream of random numbers after each.
  struct Drawn {
    std::vector<std::int64_t> orders;
    std::vector<MT19937> random;
    std::int64_t n_epochs = 0, done = 0;
  };

  // What is drawn of a training: two halves, of which the epochs of one come next, and then those of the other.
  struct Ahead {
    std::int64_t most = 1;                       // epochs of a half
    std::vector<std::int64_t> last, permutation; // the order from which the next one is drawn
    MT19937 random;
    Drawn halves[2];
    int now = 0;
    std::int64_t n_drawn = 0; // epochs, all together

    void draw(Drawn& half, std::int64_t n_epochs, bool shuffle) {
      const std::size_t n = last.size();
      half.orders.resize(std::size_t(n_epochs) * n);
      half.random.resize(std::size_t(n_epochs));
      for (std::size_t e = 0; e < std::size_t(n_epochs); ++e) {
        std::int64_t* const order = half.orders.data() + e * n;
        if (shuffle)
          shuffle_order(random, last.data(), std::int64_t(n), permutation, order);
        else
          std::copy(last.begin(), last.end(), order);
        last.assign(order, order + n);
        half.random[e] = random;
      }
      half.n_epochs = n_epochs;
      half.done = 0;
      n_drawn += n_epochs;
    }
  };

  // Calls visit(i) for all i below n, by several threads.
  template <class F> void for_each(std::size_t n, F&& visit) const {
    std::vector<std::exception_ptr> errors(n);
    const int threads = std::min(choose_threads(n_threads, infinity), int(n));
    parallel(threads, [&](const Team& team) {
      for (std::size_t i = std::size_t(team.thread); i < n; i += std::size_t(team.threads)) try {
          visit(i);
        } catch (...) {
          errors[i] = std::current_exception();
        }
    });
    for (const std::exception_ptr& error : errors)
      if (error) std::rethrow_exception(error);
  }

  // Draws what comes now, or what comes after it while that is under way, and hands it to the engine.
  void draw(ManyEngine& engine, const std::vector<int>& going, bool after) {
    std::vector<int> fresh; // of those whose half is used up
    for (int i : going) {
      const Ahead& a = ahead[std::size_t(i)];
      const Drawn& half = a.halves[after ? 1 - a.now : a.now];
      if (half.done == half.n_epochs && a.n_drawn < fits[std::size_t(i)].options.max_iter) fresh.push_back(i);
    }
    for_each(fresh.size(), [&](std::size_t i) {
      Ahead& a = ahead[std::size_t(fresh[i])];
      const TrainOptions& options = fits[std::size_t(fresh[i])].options;
      a.draw(a.halves[after ? 1 - a.now : a.now], std::min(a.most, options.max_iter - a.n_drawn), options.shuffle);
    });
    for (int i : fresh) {
      const Ahead& a = ahead[std::size_t(i)];
      const int half = after ? 1 - a.now : a.now;
      engine.give_orders(i, half, a.halves[half].orders.data(), a.halves[half].n_epochs);
    }
  }

  std::int64_t epochs_left(std::size_t i) const {
    const Drawn& half = ahead[i].halves[ahead[i].now];
    return half.n_epochs - half.done;
  }

  bool ask_all_rates(const std::vector<int>& going) {
    for (int i : going) {
      ManyFit& fit = fits[std::size_t(i)];
      if (!ask_rates(fit.hooks, fit.options, fit.state, epochs_left(std::size_t(i)) * fit.steps_of_epoch()))
        return false;
    }
    return true;
  }

  std::vector<ManyEpochs> next_epochs(const std::vector<int>& going) const {
    std::vector<ManyEpochs> all(going.size());
    for_each(going.size(), [&](std::size_t i) {
      const std::size_t model = std::size_t(going[i]);
      const ManyFit& fit = fits[model];
      const int now = ahead[model].now;
      const std::int64_t n_epochs = epochs_left(model);
      all[i] = {going[i],
                n_epochs,
                now,
                ahead[model].halves[now].done,
                next_steps(fit, n_epochs),
                fit.options.rule.t,
                fit.state.best_loss,
                fit.state.no_improvement_count};
    });
    return all;
  }

  static std::vector<Step<float>> next_steps(const ManyFit& fit, std::int64_t n_epochs) {
    TrainOptions options = fit.options;
    long long n_samples_seen = fit.state.n_samples_seen, t = options.rule.t;
    std::vector<Step<float>> steps;
    steps.reserve(std::size_t(n_epochs * fit.steps_of_epoch()));
    for (std::int64_t e = 0; e < n_epochs; ++e) {
      for (std::int64_t i = 0; i < fit.steps_of_epoch(); ++i) steps.emplace_back(options.rule, ++t);
      n_samples_seen += fit.n_rows();
      options.rule.learning_rate = scheduled_rate(options, n_samples_seen);
    }
    return steps;
  }

  // Takes over what became of a training's epochs; whether it goes on.
  bool take(std::size_t i, const ManyResult& result) {
    ManyFit& fit = fits[i];
    TrainOptions& options = fit.options;
    const long long before = options.rule.t;
    const std::int64_t n = std::int64_t(result.losses.size());
    bool goes_on = true;
    for (std::int64_t e = 1; e <= n; ++e) {
      options.rule.t = e < n ? before + e * fit.steps_of_epoch() : result.t; // all batches have weight, or n is 1
      note_epoch(options, fit.state, fit.n_rows(), result.losses[std::size_t(e - 1)]);
      judge_loss(options.tol, fit.state);
      goes_on = end_epoch(options, fit.state, e < n ? 0 : result.failed_batch);
    }
    Ahead& a = ahead[i];
    Drawn& half = a.halves[a.now];
    half.done += n;
    fit.random = half.random[std::size_t(half.done - 1)];
    if (half.done == half.n_epochs) a.now = 1 - a.now;
    return goes_on && fit.state.n_iter < options.max_iter;
  }

  std::vector<ManyFit>& fits;
  const int n_threads;
  std::vector<Ahead> ahead;
};

} // namespace fastmlp
