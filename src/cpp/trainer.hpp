// Training: epochs, shuffles, stopping rules, best weights. Batches and steps are the engine's; input and output are
// the caller's. The rules are scikit-learn's, so that both stop at the same epoch.
#pragma once

#include "engine.hpp"
#include "random.hpp"

#include <cmath>
#include <functional>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

namespace fastmlp {

enum class Schedule { constant, invscaling, adaptive };
enum class Score { accuracy, r2 };
enum class Stopped { max_iter, no_improvement, learning_rate, interrupted, not_finite };

struct TrainOptions {
  Rule rule;
  double learning_rate_init = 0;
  Schedule schedule = Schedule::constant;
  double power_t = 0.5;
  double alpha = 0;
  std::int64_t batch_size = 1, max_iter = 1;
  bool shuffle = true;
  double tol = 0;
  double n_iter_no_change = 0; // a double, as infinity is allowed
  Score score = Score::accuracy;
  bool report_batch_losses = false;
};

// What training carries from one call to the next, and what it found out.
struct TrainState {
  long long n_samples_seen = 0;
  std::int64_t no_improvement_count = 0;
  double best_loss = std::numeric_limits<double>::infinity();
  double best_validation_score = -std::numeric_limits<double>::infinity();
  std::vector<double> loss_curve, validation_scores, batch_losses;
  std::int64_t n_iter = 0, failed_epoch = 0, failed_batch = 0;
  Stopped stopped = Stopped::max_iter;
};

// Rows of a Dataset; validation is empty without early stopping.
struct Split {
  std::vector<std::int64_t> train, validation;
};

struct Hooks {
  std::function<bool()> poll; // stop now?
  // steps done, steps of the next epoch, epochs without improvement: the learning rate of each step; none: stop
  std::function<std::vector<double>(long long, std::int64_t, std::int64_t)> rates;
  // n_iter, loss, validation score or NaN, learning rate of the next epoch; true: stop
  std::function<bool(std::int64_t, double, double, double)> after_epoch;
};

// Share of rows predicted right: the largest output for log_loss, every output on the right side of 1/2 otherwise.
template <class T>
double accuracy(const Network& network, const Dataset<T>& data, const std::vector<std::int64_t>& rows, const T* p) {
  const int m = network.n_targets(), per_target = network.loss.outputs_per_target, central = network.loss.central;
  bool one_of_many = false;
  Losses::visit(network.loss.number, [&](auto loss) { one_of_many = m > 1 && loss.class_numbers; });
  double right = 0, total = 0;
  for (std::size_t i = 0; i < rows.size(); ++i, p += network.n_outputs()) {
    const T* y = data.y ? data.y + rows[i] * m : nullptr;
    bool hit = true;
    if (one_of_many) {
      const auto best = std::max_element(p, p + m) - p;
      hit = best == (data.labels ? std::ptrdiff_t(data.labels[rows[i]]) : std::max_element(y, y + m) - y);
    } else {
      for (int k = 0; k < m; ++k) hit = hit && (p[k * per_target + central] > T(0.5)) == (y[k] > T(0.5));
    }
    const double weight = data.sample_weight ? double(data.sample_weight[rows[i]]) : 1.0;
    right += hit ? weight : 0;
    total += weight;
  }
  return right / total;
}

// Coefficient of determination of the central outputs, averaged over targets; a constant target scores 1 if met exactly
// and 0 otherwise.
template <class T>
double r2(const Network& network, const Dataset<T>& data, const std::vector<std::int64_t>& rows, const T* p) {
  const int m = network.n_targets(), per_target = network.loss.outputs_per_target;
  double sum = 0;
  for (int k = 0; k < m; ++k) {
    double mean = 0, total = 0, residual = 0, spread = 0;
    const auto weight = [&](std::size_t i) { return data.sample_weight ? double(data.sample_weight[rows[i]]) : 1.0; };
    const auto target = [&](std::size_t i) { return double(data.y[rows[i] * m + k]); };
    for (std::size_t i = 0; i < rows.size(); ++i) {
      mean += weight(i) * target(i);
      total += weight(i);
    }
    mean /= total;
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const double d = target(i) - double(p[(i * m + k) * per_target + network.loss.central]), c = target(i) - mean;
      residual += weight(i) * d * d;
      spread += weight(i) * c * c;
    }
    sum += spread != 0 ? 1 - residual / spread : residual == 0 ? 1 : 0;
  }
  return sum / m;
}

template <class T> class Trainer {
public:
  Trainer(Engine<T>& engine, const Network& network, const Dataset<T>& data, const Split& split, MT19937& random,
          const Hooks& hooks)
      : engine(engine), network(network), data(data), split(split), random(random), hooks(hooks) {
    Losses::visit(network.loss.number,
                  [&](auto loss) { loss_share = loss.mean_over_outputs && !data.loss ? network.n_outputs() : 1; });
  }

  // Trains in the engine; with a validation split, `best` receives the parameters of the best score. Where weights are
  // averaged, the engine holds the averages before and after, and they are what is validated; steps go on from the
  // weights themselves.
  void run(TrainOptions& options, TrainState& state, std::vector<T>& best) {
    if (!split.validation.empty()) keep(best);
    averages = options.rule.ema_decay > 0;
    exchange_average();
    epochs(options, state, best);
    exchange_average();
  }

private:
  void exchange_average() {
    if (averages) engine.exchange_average();
  }

  void epochs(TrainOptions& options, TrainState& state, std::vector<T>& best) {
    const std::int64_t n = std::int64_t(split.train.size());
    std::vector<std::int64_t> order(split.train);
    state.stopped = Stopped::max_iter;
    Poll poll(hooks.poll);
    for (state.n_iter = 0; state.n_iter < options.max_iter;) {
      if (!set_rates(options, state, n)) {
        state.stopped = Stopped::interrupted;
        return;
      }
      if (options.shuffle) shuffle(order);
      const EpochResult result =
          engine.epoch(data, order.data(), n, options.batch_size, options.alpha, options.rule, poll);
      if (result.interrupted) {
        state.stopped = Stopped::interrupted;
        return;
      }
      ++state.n_iter;
      state.n_samples_seen += n;
      if (options.report_batch_losses)
        for (const auto& [loss, penalty] : result.batches) state.batch_losses.push_back(loss / loss_share + penalty);
      if (hooks.rates && options.rule.t > options.rule.rates_after)
        options.rule.learning_rate = options.rule.rate(options.rule.t);
      const bool failed = result.failed_batch > 0;
      const double loss = failed ? std::nan("") : (result.loss / loss_share + result.penalty) / double(n);
      state.loss_curve.push_back(loss);
      judge(options, state, best);
      if (options.schedule == Schedule::invscaling)
        options.rule.learning_rate =
            options.learning_rate_init / std::pow(double(state.n_samples_seen + 1), options.power_t);
      const double score = split.validation.empty() ? std::nan("") : state.validation_scores.back();
      bool go_on = !failed;
      if (go_on && double(state.no_improvement_count) > options.n_iter_no_change) go_on = lower_rate(options, state);
      if (failed) {
        state.failed_epoch = state.n_iter;
        state.failed_batch = result.failed_batch;
        state.stopped = Stopped::not_finite;
      }
      if (hooks.after_epoch && hooks.after_epoch(state.n_iter, loss, score, options.rule.learning_rate) && go_on) {
        state.stopped = Stopped::interrupted;
        return;
      }
      if (!go_on) return;
    }
  }

  // Asks for the learning rates of an epoch of n rows; false: stop.
  bool set_rates(TrainOptions& options, const TrainState& state, std::int64_t n) const {
    if (!hooks.rates) return true;
    options.rule.rates_after = options.rule.t;
    options.rule.rates = hooks.rates(options.rule.t, (n - 1) / options.batch_size + 1, state.no_improvement_count);
    return !options.rule.rates.empty();
  }

  // Each epoch shuffles the order left by the one before, as scikit-learn does: a permutation of positions is drawn and
  // applied, so that the stream of random numbers is consumed in the same way.
  void shuffle(std::vector<std::int64_t>& order) {
    permutation.resize(order.size());
    std::iota(permutation.begin(), permutation.end(), 0);
    random.shuffle(permutation.data(), std::int64_t(permutation.size()));
    shuffled.resize(order.size());
    for (std::size_t i = 0; i < order.size(); ++i) shuffled[i] = order[std::size_t(permutation[i])];
    order.swap(shuffled);
  }

  // Counts epochs without improvement: of the validation score if there is one, else of the training loss.
  void judge(const TrainOptions& options, TrainState& state, std::vector<T>& best) {
    if (split.validation.empty()) {
      const double loss = state.loss_curve.back();
      state.no_improvement_count = loss > state.best_loss - options.tol ? state.no_improvement_count + 1 : 0;
      if (loss < state.best_loss) state.best_loss = loss;
      return;
    }
    exchange_average();
    const double score = validation_score(options.score);
    state.validation_scores.push_back(score);
    state.no_improvement_count = score < state.best_validation_score + options.tol ? state.no_improvement_count + 1 : 0;
    if (score > state.best_validation_score) {
      state.best_validation_score = score;
      keep(best);
    }
    exchange_average();
  }

  void keep(std::vector<T>& best) const {
    best.resize(std::size_t(network.n_parameters));
    engine.get_parameters(best.data());
  }

  double validation_score(Score score) {
    const std::size_t n = split.validation.size();
    predictions.resize(n * std::size_t(network.n_outputs()));
    engine.predict(nullptr, data.X, split.validation.data(), std::int64_t(n), network.n_layers(), predictions.data());
    for (T p : predictions)
      if (!std::isfinite(p)) return std::nan("");
    return score == Score::accuracy ? accuracy(network, data, split.validation, predictions.data())
                                    : r2(network, data, split.validation, predictions.data());
  }

  // No improvement for too long: go on at a lower rate, if the schedule allows that, or say why not.
  bool lower_rate(TrainOptions& options, TrainState& state) const {
    constexpr double lowest_rate = 1e-6;
    const bool adaptive = options.schedule == Schedule::adaptive;
    if (!adaptive || options.rule.learning_rate <= lowest_rate) {
      state.stopped = adaptive ? Stopped::learning_rate : Stopped::no_improvement;
      return false;
    }
    options.rule.learning_rate /= 5;
    state.no_improvement_count = 0;
    return true;
  }

  Engine<T>& engine;
  const Network& network;
  const Dataset<T>& data;
  const Split& split;
  MT19937& random;
  const Hooks& hooks;
  double loss_share = 1;
  bool averages = false;
  std::vector<std::int64_t> permutation, shuffled;
  std::vector<T> predictions;
};

} // namespace fastmlp
