// Every optimizer that treats each weight by itself, for one weight or a vector of weights, host and device.
//
// To add one: write a struct like its neighbours and name it in the list at the bottom.
//   hyperparameters        name, default and the closed range of valid values; estimators pass theirs by name
//   slots                  names of the numbers kept for each weight between steps, all 0 at the start
//   prepare(h, rate, t, c) once a step: what is the same for all weights, in double, from hyper-parameters h, the
//                          learning rate and the number t = 1, 2, ... of the step, written to c[0..max_coefficients)
//   update(w, g, s, c)     new weight w and slots s[0], s[1] ... from the gradient g
#pragma once

#include "catalog.hpp"
#include "vector_math.hpp"

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

// Kingma, Ba 2014, arXiv:1412.6980, in the form that corrects the bias of both moments in the step size.
struct Adam {
  static constexpr const char* name = "adam";
  static constexpr const char* formula = "m = beta_1 m + (1 - beta_1) g; v = beta_2 v + (1 - beta_2) g^2; "
                                         "w -= rate sqrt(1 - beta_2^t) / (1 - beta_1^t) m / (sqrt(v) + epsilon)";
  static constexpr Hyperparameter hyperparameters[] = {
      {"beta_1", 0.9, 0, below_one},
      {"beta_2", 0.999, 0, below_one},
      {"epsilon", 1e-8, above_zero, std::numeric_limits<double>::max()}};
  static constexpr const char* slots[] = {"m", "v"};

  static void prepare(const double* h, double rate, long long t, double* c) {
    c[0] = h[0];
    c[1] = 1 - h[0];
    c[2] = h[1];
    c[3] = 1 - h[1];
    c[4] = h[2];
    c[5] = rate * std::sqrt(1 - std::pow(h[1], double(t))) / (1 - std::pow(h[0], double(t)));
  }
  template <class S> FASTMLP_INLINE void update(S& w, S g, S* s, const scalar_of<S>* c) {
    s[0] = splat<S>(c[0]) * s[0] + splat<S>(c[1]) * g;
    s[1] = splat<S>(c[2]) * s[1] + splat<S>(c[3]) * (g * g);
    w -= splat<S>(c[5]) * s[0] / (square_root(s[1]) + splat<S>(c[4]));
  }
};

using Optimizers = Catalog<Sgd, Adam>;

} // namespace fastmlp
