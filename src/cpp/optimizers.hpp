// Every optimizer that treats each weight by itself, for one weight or a vector of weights, host and device.
//
// To add one: write a struct like its neighbours and name it in the list at the bottom.
//   hyperparameters        name, default and the closed range of valid values; estimators pass theirs by name.
//                          "weight_decay" is 0 where biases are stepped: they do not decay
//   slots                  names of the numbers kept for each weight between steps, all 0 at the start; for none,
//                          std::array<const char*, 0>
//   prepare(h, rate, t, c) once a step: what is the same for all weights, in double, from hyper-parameters h, the
//                          learning rate and the number t = 1, 2, ... of the step, written to c[0..max_coefficients)
//   update(w, g, s, c)     new weight w and slots s[0], s[1] ... from the gradient g
#pragma once

#include "catalog.hpp"
#include "vector_math.hpp"

#include <array>
#include <cmath>
#include <limits>

namespace fastmlp {

constexpr int max_slots = 4;
constexpr int max_coefficients = 8;

// Momentum as in Sutskever et al. 2013, "On the importance of initialization and momentum in deep learning".
struct Sgd {
  static constexpr const char* name = "sgd";
  static constexpr const char* formula = "v = momentum v - rate g; w += v (nesterov: w += momentum v - rate g)";
  static constexpr Hyperparameter hyperparameters[] = {{"momentum", 0.9, 0, 1}, {"nesterov", 1, 0, 1}};
  static constexpr const char* slots[] = {"velocity"};

  static void prepare(const double* h, double rate, long long, double* c) {
    c[0] = h[0];
    c[1] = rate;
    c[2] = h[1] != 0 ? 1 : 0;
  }
  template <class S> FASTMLP_INLINE void update(S& w, S g, S* s, const scalar_of<S>* c) {
    const S momentum = splat<S>(c[0]), step = splat<S>(c[1]) * g;
    s[0] = momentum * s[0] - step;
    w += c[2] != 0 ? momentum * s[0] - step : s[0];
  }
};

// 1 - beta^t, what a running mean that began at 0 must be divided by. beta^t is at most exp(-t (1 - beta)): where that
// is below half of what 1 can lose, nothing is left of it, and short steps are spared the power.
inline double bias_correction(double beta, long long t) {
  constexpr double nothing_left = 38; // exp(-38) < 2^-54
  return double(t) * (1 - beta) > nothing_left ? 1 : 1 - std::pow(beta, double(t));
}

// What Adam and its relatives keep: running means of the gradient and of its square. h is beta_1, beta_2.
struct Moments {
  static constexpr const char* slots[] = {"m", "v"};

  static void prepare(const double* h, double* c) {
    c[0] = h[0];
    c[1] = 1 - h[0];
    c[2] = h[1];
    c[3] = 1 - h[1];
  }
  template <class S> FASTMLP_INLINE void update(S g, S* s, const scalar_of<S>* c) {
    s[0] = splat<S>(c[0]) * s[0] + splat<S>(c[1]) * g;
    s[1] = splat<S>(c[2]) * s[1] + splat<S>(c[3]) * (g * g);
  }
};

// Kingma, Ba 2014, arXiv:1412.6980, in the form that corrects the bias of both moments in the step size.
struct Adam {
  static constexpr const char* name = "adam";
  static constexpr const char* formula = "m = beta_1 m + (1 - beta_1) g; v = beta_2 v + (1 - beta_2) g^2; "
                                         "w -= rate sqrt(1 - beta_2^t) / (1 - beta_1^t) m / (sqrt(v) + epsilon)";
  static constexpr Hyperparameter hyperparameters[] = {
      {"beta_1", 0.9, 0, below_one}, {"beta_2", 0.999, 0, below_one}, {"epsilon", 1e-8, above_zero, largest}};
  static constexpr auto& slots = Moments::slots;

  static void prepare(const double* h, double rate, long long t, double* c) {
    Moments::prepare(h, c);
    c[4] = h[2];
    c[5] = rate * std::sqrt(bias_correction(h[1], t)) / bias_correction(h[0], t);
  }
  template <class S> FASTMLP_INLINE void update(S& w, S g, S* s, const scalar_of<S>* c) {
    Moments::update(g, s, c);
    w -= splat<S>(c[5]) * s[0] / (square_root(s[1]) + splat<S>(c[4]));
  }
};

// Loshchilov, Hutter 2017, arXiv:1711.05101, with the bias of v corrected before epsilon is added, as in PyTorch.
struct AdamW {
  static constexpr const char* name = "adamw";
  static constexpr const char* formula =
      "m, v as adam; w -= rate weight_decay w + rate / (1 - beta_1^t) m / (sqrt(v / (1 - beta_2^t)) + epsilon)";
  static constexpr Hyperparameter hyperparameters[] = {{"beta_1", 0.9, 0, below_one},
                                                       {"beta_2", 0.999, 0, below_one},
                                                       {"epsilon", 1e-8, above_zero, largest},
                                                       {"weight_decay", 0.01, 0, largest}};
  static constexpr auto& slots = Moments::slots;

  static void prepare(const double* h, double rate, long long t, double* c) {
    Moments::prepare(h, c);
    c[4] = h[2];
    c[5] = 1 / std::sqrt(bias_correction(h[1], t));
    c[6] = rate / bias_correction(h[0], t);
    c[7] = rate * h[3];
  }
  template <class S> FASTMLP_INLINE void update(S& w, S g, S* s, const scalar_of<S>* c) {
    Moments::update(g, s, c);
    w -= splat<S>(c[7]) * w;
    w -= splat<S>(c[6]) * s[0] / (splat<S>(c[5]) * square_root(s[1]) + splat<S>(c[4]));
  }
};

// Dozat 2016, "Incorporating Nesterov momentum into Adam", with PyTorch's momentum_decay of 0.004.
struct NAdam {
  static constexpr const char* name = "nadam";
  static constexpr const char* formula =
      "m, v as adam; b_t = beta_1 (1 - 0.96^(0.004 t) / 2), B_t = b_1 ... b_t; w -= rate ((1 - b_t) / (1 - B_t) g + "
      "b_(t+1) / (1 - B_(t+1)) m) / (sqrt(v / (1 - beta_2^t)) + epsilon)";
  static constexpr auto& hyperparameters = Adam::hyperparameters;
  static constexpr auto& slots = Moments::slots;

  static void prepare(const double* h, double rate, long long t, double* c) {
    const auto momentum = [&](double decay) { return h[0] * (1 - decay / 2); };
    const double factor = std::pow(0.96, 0.004), decay = std::pow(factor, double(t)), next = momentum(decay * factor);
    double product = 1, power = 1; // each momentum is little more than half, so that soon the others do not matter
    for (long long i = 0; i < t && product > 1e-20; ++i) product *= momentum(power *= factor);
    Moments::prepare(h, c);
    c[4] = h[2];
    c[5] = 1 / std::sqrt(bias_correction(h[1], t));
    c[6] = rate * (1 - momentum(decay)) / (1 - product);
    c[7] = rate * next / (1 - product * next);
  }
  template <class S> FASTMLP_INLINE void update(S& w, S g, S* s, const scalar_of<S>* c) {
    Moments::update(g, s, c);
    w -= (splat<S>(c[6]) * g + splat<S>(c[7]) * s[0]) / (splat<S>(c[5]) * square_root(s[1]) + splat<S>(c[4]));
  }
};

// Hinton 2012, Neural Networks for Machine Learning, lecture 6e.
struct RmsProp {
  static constexpr const char* name = "rmsprop";
  static constexpr const char* formula = "v = rho v + (1 - rho) g^2; w -= rate g / (sqrt(v) + epsilon)";
  static constexpr Hyperparameter hyperparameters[] = {{"rho", 0.99, 0, below_one},
                                                       {"epsilon", 1e-8, above_zero, largest}};
  static constexpr const char* slots[] = {"v"};

  static void prepare(const double* h, double rate, long long, double* c) {
    c[0] = h[0];
    c[1] = 1 - h[0];
    c[2] = h[1];
    c[3] = rate;
  }
  template <class S> FASTMLP_INLINE void update(S& w, S g, S* s, const scalar_of<S>* c) {
    s[0] = splat<S>(c[0]) * s[0] + splat<S>(c[1]) * (g * g);
    w -= splat<S>(c[3]) * g / (square_root(s[0]) + splat<S>(c[2]));
  }
};

// Chen et al. 2023, "Symbolic discovery of optimization algorithms", arXiv:2302.06675, where rho is called beta_2.
struct Lion {
  static constexpr const char* name = "lion";
  static constexpr const char* formula =
      "w -= rate (sign(beta_1 m + (1 - beta_1) g) + weight_decay w); m = rho m + (1 - rho) g";
  static constexpr Hyperparameter hyperparameters[] = {
      {"beta_1", 0.9, 0, below_one}, {"rho", 0.99, 0, below_one}, {"weight_decay", 0.01, 0, largest}};
  static constexpr const char* slots[] = {"m"};

  static void prepare(const double* h, double rate, long long, double* c) {
    c[0] = h[0];
    c[1] = 1 - h[0];
    c[2] = h[1];
    c[3] = 1 - h[1];
    c[4] = rate;
    c[5] = rate * h[2];
  }
  template <class S> FASTMLP_INLINE void update(S& w, S g, S* s, const scalar_of<S>* c) {
    const S zero = splat<S>(0), step = splat<S>(c[4]), direction = splat<S>(c[0]) * s[0] + splat<S>(c[1]) * g;
    w -= splat<S>(c[5]) * w;
    w -= select(direction > zero, step, select(direction < zero, -step, direction)); // NaN stays NaN
    s[0] = splat<S>(c[2]) * s[0] + splat<S>(c[3]) * g;
  }
};

// How many numbers an optimizer keeps for each weight.
template <class Entry> constexpr int slot_count = int(std::size(Entry::slots));

using Optimizers = Catalog<Sgd, Adam, AdamW, NAdam, RmsProp, Lion>;

} // namespace fastmlp
