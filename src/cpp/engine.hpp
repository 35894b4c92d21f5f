// THE SEAM: what a device can do for a network. The trainer and the bindings know only this page.
//
// An engine holds the parameters in the layout its kernels like; set_parameters/get_parameters translate from and to
// the flat buffer of network.hpp. The optimizer's slots are the caller's arrays, updated where they lie: large as the
// parameters each, they should not be there twice. One engine serves one caller at a time.
#pragma once

#include "network.hpp"
#include "optimizers.hpp"
#include "random.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <numeric>
#include <utility>
#include <vector>

namespace fastmlp {

// Rows of features: dense with unit column stride, or compressed sparse rows when `indptr` is set.
template <class T> struct Matrix {
  std::int64_t n_rows = 0;
  int n_columns = 0;
  const T* data = nullptr;
  std::ptrdiff_t stride = 0; // between dense rows, in elements
  const std::int32_t* indices = nullptr;
  const std::int64_t* indptr = nullptr;
  bool on_device = false; // `data`, dense, is in the memory of the engine's device, and not in the host's
};

// A loss from outside, of all rows of a batch at once, in place of the network's.
template <class T> class BatchLoss {
public:
  virtual ~BatchLoss() = default;
  // The mean loss of n rows, by number or (null) the first n, with these outputs (n, n_outputs), and its gradient with
  // respect to them. Only the thread that called the engine calls it. It must not throw: after a failure training ends.
  virtual double evaluate(const std::int64_t* rows, std::int64_t n, const T* outputs, T* gradient) = 0;
  virtual bool failed() const = 0;
};

// What is learned from: features, targets (n_rows, n_targets) or class numbers, and optional sample weights.
template <class T> struct Dataset {
  Matrix<T> X;
  const T* y = nullptr;
  const std::int32_t* labels = nullptr;
  const T* sample_weight = nullptr;
  BatchLoss<T>* loss = nullptr; // if not null, what a step descends
};

constexpr double infinity = std::numeric_limits<double>::infinity();

// How weights move: one optimizer step is number `t` (counted from 1).
struct Rule {
  int optimizer = 0;
  std::vector<double> hyperparameters;
  double learning_rate = 0;
  long long t = 0;                // steps done so far
  double clip_norm = infinity;    // a gradient longer than this is shortened to it (Pascanu et al. 2013)
  double clip_value = infinity;   // then each of its numbers is brought into [-clip_value, clip_value]
  double ema_decay = 0;           // if not 0, the last slot is the moving average of the weights after each step
  std::vector<double> rates = {}; // if not empty: the learning rates of the steps after number `rates_after`
  long long rates_after = 0;
  std::uint64_t seed = 0; // of the random numbers of dropout; 0: there is none

  double rate(long long step) const {
    return rates.empty() ? learning_rate : rates[std::size_t(step - rates_after - 1)];
  }
  RandomKey dropout_key(long long step) const {
    if (seed == 0) return {};
    return RandomKey{std::uint32_t(seed), std::uint32_t(seed >> 32)}.of(std::uint64_t(step));
  }
};

// The loss of a batch as a training notes it: NaN, at which it ends, also where single rows have overflowed.
inline double finite_or_nan(double loss) { return std::isfinite(loss) ? loss : std::nan(""); }

struct EpochResult {
  double loss = 0, penalty = 0;  // sums over batches of the mean loss and of the L2 penalty, times the batch's rows
  std::int64_t failed_batch = 0; // first batch (from 1) whose loss is NaN, else 0
  bool interrupted = false;
  std::vector<std::pair<double, double>> batches; // mean loss and penalty of each

  void add(double batch_loss, double batch_penalty, std::int64_t n_rows) {
    batches.emplace_back(batch_loss, batch_penalty);
    loss += batch_loss * double(n_rows);
    penalty += batch_penalty * double(n_rows);
    if (std::isnan(batch_loss + batch_penalty)) failed_batch = std::int64_t(batches.size());
  }
};

// Asks a callback whether to stop, at most every 50 ms: it takes the GIL. One lives as long as the training.
class Poll {
public:
  explicit Poll(std::function<bool()> ask) : ask(std::move(ask)) {}
  bool operator()() {
    const auto now = std::chrono::steady_clock::now();
    if (!ask || now - last < std::chrono::milliseconds(50)) return false;
    last = now;
    return ask();
  }

private:
  std::function<bool()> ask;
  std::chrono::steady_clock::time_point last = std::chrono::steady_clock::now();
};

template <class T> class Engine {
public:
  virtual ~Engine() = default;

  virtual std::ptrdiff_t parameter_count() const = 0;
  virtual void set_parameters(const T* flat) = 0;
  virtual void get_parameters(T* flat) const = 0;
  // Lends the slots to the engine until it is lent others; they are up to date after get_slots(). Each is as long as
  // the parameters and in their order, but for the weights of a layer: they are (fan_out, fan_in) here.
  virtual void set_slots(const std::vector<T*>& lent) = 0;
  virtual void get_slots() {}
  // Swaps the parameters with the last slot, which is their moving average.
  virtual void exchange_average() = 0;

  // Says which data will be asked for again and again and stay as they are until this is said anew: a device that has
  // its own memory copies them.
  virtual void hold(const std::vector<const Dataset<T>*>&) {}

  // One pass over the rows `order` in batches, a step after each; `poll` is asked now and then whether to stop. A batch
  // whose weights sum to 0 says nothing and is passed over; one whose loss is NaN ends it without a step, so that the
  // parameters that led there can be looked at. This one is the plain path; a device may do better.
  virtual EpochResult epoch(const Dataset<T>& data, const std::int64_t* order, std::int64_t n, std::int64_t batch_size,
                            double alpha, Rule& rule, Poll& poll);

  // The plain path, first half: weighted mean loss of the rows, L2 penalty, and the gradient of their sum (flat); all 0
  // if the weights sum to 0. `rows` may be null for the first n rows. Dropout leaves out what `dropout` draws; running
  // statistics follow those of the rows. Nothing is meant by the numbers once `data.loss` has failed.
  virtual double loss_and_gradient(const Dataset<T>& data, const std::int64_t* rows, std::int64_t n, double alpha,
                                   RandomKey dropout, double& penalty, T* gradient) = 0;

  // The plain path, second half: one step of the rule with a given gradient.
  virtual void apply(const T* gradient, Rule& rule) = 0;

  // Output of layer `layer` (0 is the input, n_layers the predictions) for rows of X, to out (n, sizes[layer]), with
  // the parameters `flat`, or those of the engine if it is null.
  virtual void predict(const T* flat, const Matrix<T>& X, const std::int64_t* rows, std::int64_t n, int layer,
                       T* out) = 0;

  // Predictions for rows of the data with the engine's own parameters, to out (n, n_outputs); returns their weighted
  // mean loss.
  virtual double evaluate(const Dataset<T>& data, const std::int64_t* rows, std::int64_t n, T* out) = 0;

  // Gradients by the inputs: for each row of X and each of its vectors, (n_rows, n_vectors, n_outputs), the vector
  // times the derivatives of the outputs before the link by the inputs, to out (n_rows, n_vectors, n_inputs). With
  // `flat` and running statistics as in `predict`.
  virtual void input_gradient(const T* flat, const Matrix<T>& X, const T* vectors, int n_vectors, T* out) = 0;
};

template <class T>
double sum_of_weights(const Dataset<T>& data, const std::int64_t* rows, std::int64_t first, std::int64_t n) {
  if (!data.sample_weight) return double(n);
  double sum = 0;
  for (std::int64_t i = first; i < first + n; ++i) sum += double(data.sample_weight[rows ? rows[i] : i]);
  return sum;
}

// Shortens a gradient; the order of the sum depends on nothing but the length.
template <class T> void clip_norm(std::vector<T>& gradient, double longest) {
  constexpr std::size_t lanes = 8;
  double squares[lanes] = {};
  for (std::size_t i = 0; i < gradient.size(); i += lanes)
    for (std::size_t j = 0; j < lanes && i + j < gradient.size(); ++j)
      squares[j] += double(gradient[i + j]) * double(gradient[i + j]);
  const double norm = std::sqrt(std::accumulate(squares, squares + lanes, 0.0));
  if (norm > longest)
    for (T& g : gradient) g *= T(longest / norm);
}

template <class T>
EpochResult Engine<T>::epoch(const Dataset<T>& data, const std::int64_t* order, std::int64_t n, std::int64_t batch_size,
                             double alpha, Rule& rule, Poll& poll) {
  EpochResult result;
  std::vector<T> gradient(static_cast<std::size_t>(parameter_count()));
  for (std::int64_t first = 0; first < n && result.failed_batch == 0; first += batch_size) {
    const std::int64_t count = std::min(batch_size, n - first);
    if (poll()) {
      result.interrupted = true;
      break;
    }
    double loss = 0, penalty = 0;
    if (sum_of_weights(data, order, first, count) != 0) {
      loss =
          loss_and_gradient(data, order + first, count, alpha, rule.dropout_key(rule.t + 1), penalty, gradient.data());
      if (data.loss && data.loss->failed()) {
        result.interrupted = true;
        break;
      }
      loss = finite_or_nan(loss);
      if (rule.clip_norm < infinity) clip_norm(gradient, rule.clip_norm);
      if (!std::isnan(loss)) apply(gradient.data(), rule);
    }
    result.add(loss, penalty, count);
  }
  return result;
}

template <class T> std::unique_ptr<Engine<T>> make_cpu_engine(const Network& network, int n_threads);

// The predictions of one network whose parameters never change; serves any number of callers at once.
template <class T> class Predictor {
public:
  virtual ~Predictor() = default;
  // To out (X.n_rows, n_outputs) for dense X without gaps between its rows. False if a number of X is not finite, which
  // `assume_finite` does not look for: out is unfinished then.
  virtual bool predict(const Matrix<T>& X, bool assume_finite, T* out) const = 0;
};

template <class T>
std::unique_ptr<Predictor<T>> make_cpu_predictor(const Network& network, const T* flat, int n_threads);

// The same for a single prediction with the parameters `flat`, by an engine of its own unless so few rows need none.
template <class T>
bool cpu_predict(const Network& network, const T* flat, const Matrix<T>& X, int n_threads, bool assume_finite, T* out);

// Whether n numbers are neither NaN nor infinite.
template <class T> bool cpu_all_finite(const T* x, std::int64_t n, int n_threads);

// The Hessian by the parameters `flat` of what loss_and_gradient computes without dropout, times `vector`, to out;
// flat. 0 for running statistics.
void cpu_hessian_vector_product(const Network& network, const double* flat, const Dataset<double>& data, double alpha,
                                const double* vector, int n_threads, double* out);

} // namespace fastmlp
