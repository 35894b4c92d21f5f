// Training: epochs, shuffles, stopping rules, best weights. Batches and steps are the engine's; input and output are
// the caller's. The rules are scikit-learn's, so that both stop at the same epoch.
#pragma once

#include "engine.hpp"
#include "random.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>
#include <optional>
#include <vector>

namespace fastmlp {

enum class Schedule { constant, invscaling, adaptive };
enum class Score { accuracy, r2, loss, given }; // of the loss its negative; given: asked for
enum class Stopped { max_iter, no_improvement, learning_rate, interrupted, not_finite, max_time };

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
  bool early_stopping = false; // by the validation score, whose best parameters are kept; else by the training loss
  double max_seconds = infinity;
  bool report_batch_losses = false;
};

// What training carries from one call to the next, and what it found out.
struct TrainState {
  long long n_samples_seen = 0;
  std::int64_t no_improvement_count = 0;
  double best_loss = std::numeric_limits<double>::infinity();
  double best_validation_score = -std::numeric_limits<double>::infinity();
  std::vector<double> loss_curve, learning_rates, validation_losses, validation_scores, batch_losses;
  std::int64_t n_iter = 0, failed_epoch = 0, failed_batch = 0;
  Stopped stopped = Stopped::max_iter;
};

// Rows that are watched, not trained on; none without validation.
template <class T> struct Validation {
  const Dataset<T>& data;
  std::vector<std::int64_t> rows;
};

struct Hooks {
  std::function<bool()> poll;                         // stop now?
  std::function<std::optional<double>(double)> score; // of the parameters in the engine, given their loss; none: stop
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

// --- rules that a training follows, alone or beside others

// Asks for the learning rates of the next n_steps steps, if anyone is to be asked; false: stop.
inline bool ask_rates(const Hooks& hooks, TrainOptions& options, const TrainState& state, std::int64_t n_steps) {
  if (!hooks.rates) return true;
  options.rule.rates_after = options.rule.t;
  options.rule.rates = hooks.rates(options.rule.t, n_steps, state.no_improvement_count);
  return !options.rule.rates.empty();
}

// Each epoch shuffles the order left by the one before, as scikit-learn does: a permutation of positions is drawn and
// applied, so that the stream of random numbers is consumed in the same way.
inline void shuffle_order(MT19937& random, const std::int64_t* before, std::int64_t n,
                          std::vector<std::int64_t>& permutation, std::int64_t* after) {
  permutation.resize(std::size_t(n));
  std::iota(permutation.begin(), permutation.end(), 0);
  random.shuffle(permutation.data(), n);
  for (std::int64_t i = 0; i < n; ++i) after[i] = before[permutation[std::size_t(i)]];
}

// Notes an epoch of n rows, after its last step.
inline void note_epoch(TrainOptions& options, TrainState& state, std::int64_t n, double loss) {
  ++state.n_iter;
  state.n_samples_seen += n;
  if (!options.rule.rates.empty() && options.rule.t > options.rule.rates_after)
    options.rule.learning_rate = options.rule.rate(options.rule.t);
  state.loss_curve.push_back(loss);
  state.learning_rates.push_back(options.rule.learning_rate);
}

// Counts epochs without improvement of the training loss.
inline void judge_loss(double tol, TrainState& state) {
  const double loss = state.loss_curve.back();
  state.no_improvement_count = loss > state.best_loss - tol ? state.no_improvement_count + 1 : 0;
  if (loss < state.best_loss) state.best_loss = loss;
}

// The learning rate after so many samples, if it follows them.
inline double scheduled_rate(const TrainOptions& options, long long n_samples_seen) {
  if (options.schedule != Schedule::invscaling) return options.rule.learning_rate;
  return options.learning_rate_init / std::pow(double(n_samples_seen + 1), options.power_t);
}

// No improvement for too long: go on at a lower rate, if the schedule allows that, or say why not.
inline bool lower_rate(TrainOptions& options, TrainState& state) {
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

// Ends an epoch that has been judged; whether training goes on. failed_batch: as in EpochResult.
inline bool end_epoch(TrainOptions& options, TrainState& state, std::int64_t failed_batch) {
  options.rule.learning_rate = scheduled_rate(options, state.n_samples_seen);
  if (failed_batch > 0) {
    state.failed_epoch = state.n_iter;
    state.failed_batch = failed_batch;
    state.stopped = Stopped::not_finite;
    return false;
  }
  return double(state.no_improvement_count) <= options.n_iter_no_change || lower_rate(options, state);
}

template <class T> class Trainer {
public:
  // Trains on the rows `order` of the data, which is left as the last epoch had it.
  Trainer(Engine<T>& engine, const Network& network, const Dataset<T>& data, std::vector<std::int64_t>& order,
          const Validation<T>& validation, MT19937& random, const Hooks& hooks)
      : engine(engine), network(network), data(data), order(order), validation(validation), random(random),
        hooks(hooks) {
    if (!data.loss) loss_share = network.loss_share();
  }

  // Trains in the engine; with early stopping, `best` receives the parameters of the best score. Where weights are
  // averaged, the engine holds the averages before and after, and they are what is validated; steps go on from the
  // weights themselves.
  void run(TrainOptions& options, TrainState& state, std::vector<T>& best) {
    if (options.early_stopping && validates()) keep(best);
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
    const std::int64_t n = std::int64_t(order.size());
    state.stopped = Stopped::max_iter;
    const auto start = std::chrono::steady_clock::now();
    const auto out_of_time = [&] {
      return options.max_seconds < infinity &&
             std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() >= options.max_seconds;
    };
    Poll poll([&] { return out_of_time() || (hooks.poll && hooks.poll()); });
    for (state.n_iter = 0; state.n_iter < options.max_iter;) {
      if (!ask_rates(hooks, options, state, (n - 1) / options.batch_size + 1)) {
        state.stopped = Stopped::interrupted;
        return;
      }
      if (options.shuffle) shuffle();
      const EpochResult result =
          engine.epoch(data, order.data(), n, options.batch_size, options.alpha, options.rule, poll);
      if (result.interrupted) {
        state.stopped = out_of_time() ? Stopped::max_time : Stopped::interrupted;
        return;
      }
      if (options.report_batch_losses)
        for (const auto& [loss, penalty] : result.batches) state.batch_losses.push_back(loss / loss_share + penalty);
      const double loss =
          result.failed_batch > 0 ? std::nan("") : (result.loss / loss_share + result.penalty) / double(n);
      note_epoch(options, state, n, loss);
      if (!judge(options, state, best)) {
        state.stopped = Stopped::interrupted;
        return;
      }
      const double score = validates() ? state.validation_scores.back() : std::nan("");
      const bool go_on = end_epoch(options, state, result.failed_batch);
      if (hooks.after_epoch && hooks.after_epoch(state.n_iter, loss, score, options.rule.learning_rate) && go_on) {
        state.stopped = Stopped::interrupted;
        return;
      }
      if (!go_on) return;
      if (out_of_time()) {
        state.stopped = Stopped::max_time;
        return;
      }
    }
  }

  void shuffle() {
    shuffled.resize(order.size());
    shuffle_order(random, order.data(), std::int64_t(order.size()), permutation, shuffled.data());
    order.swap(shuffled);
  }

  bool validates() const { return !validation.rows.empty(); }

  // Counts epochs without improvement, of the validation score or of the training loss; false: stop.
  bool judge(const TrainOptions& options, TrainState& state, std::vector<T>& best) {
    if (validates()) {
      exchange_average();
      const bool go_on = validate(options.score, state);
      if (go_on && options.early_stopping) judge_score(options.tol, state, best);
      exchange_average();
      if (!go_on) return false;
    }
    if (validates() && options.early_stopping) return true;
    judge_loss(options.tol, state);
    return true;
  }

  void judge_score(double tol, TrainState& state, std::vector<T>& best) const {
    const double score = state.validation_scores.back();
    state.no_improvement_count = score < state.best_validation_score + tol ? state.no_improvement_count + 1 : 0;
    if (score > state.best_validation_score) {
      state.best_validation_score = score;
      keep(best);
    }
  }

  void keep(std::vector<T>& best) const {
    best.resize(std::size_t(network.n_parameters));
    engine.get_parameters(best.data());
  }

  // Loss and score of the rows that are watched; false: stop.
  bool validate(Score score, TrainState& state) {
    const std::size_t n = validation.rows.size();
    predictions.resize(n * std::size_t(network.n_outputs()));
    const double loss =
        engine.evaluate(validation.data, validation.rows.data(), std::int64_t(n), predictions.data()) / loss_share;
    std::optional<double> answer = -loss;
    if (!std::all_of(predictions.begin(), predictions.end(), [](T p) { return std::isfinite(p); }))
      answer = std::nan("");
    else if (score == Score::accuracy)
      answer = accuracy(network, validation.data, validation.rows, predictions.data());
    else if (score == Score::r2)
      answer = r2(network, validation.data, validation.rows, predictions.data());
    else if (score == Score::given)
      answer = hooks.score(loss);
    if (validation.data.loss && validation.data.loss->failed()) answer = std::nullopt;
    state.validation_losses.push_back(loss);
    state.validation_scores.push_back(answer.value_or(std::nan("")));
    return answer.has_value();
  }

  Engine<T>& engine;
  const Network& network;
  const Dataset<T>& data;
  std::vector<std::int64_t>& order;
  const Validation<T>& validation;
  MT19937& random;
  const Hooks& hooks;
  double loss_share = 1;
  bool averages = false;
  std::vector<std::int64_t> permutation, shuffled;
  std::vector<T> predictions;
};

} // namespace fastmlp
