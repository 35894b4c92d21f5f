// One step of the optimizer, prepared once for all weights.
#pragma once

#include "engine.hpp"

#include <algorithm>
#include <iterator>
#include <string_view>
#include <vector>

namespace fastmlp {

// What the step number `t` has in common for all weights, and for all biases, scales and offsets, which do not decay.
template <class T> struct Step {
  int optimizer;
  T weights[max_coefficients], others[max_coefficients];
  T clip_value, ema_decay;

  // The average begins with the weights after the first step.
  Step(const Rule& rule, long long t)
      : optimizer(rule.optimizer), clip_value(T(rule.clip_value)), ema_decay(T(t == 1 ? 0 : rule.ema_decay)) {
    prepare(rule, t, rule.hyperparameters, weights);
    std::copy_n(weights, max_coefficients, others);
    Optimizers::visit(rule.optimizer, [&](auto entry) {
      constexpr int decay = position_of_decay<decltype(entry)>();
      if constexpr (decay >= 0) {
        std::vector<double> without = rule.hyperparameters;
        without[decay] = 0;
        prepare(rule, t, without, others);
      }
    });
  }

private:
  template <class Entry> static constexpr int position_of_decay() { // -1: it has none
    for (int i = 0; i < int(std::size(Entry::hyperparameters)); ++i)
      if (Entry::hyperparameters[i].name == std::string_view("weight_decay")) return i;
    return -1;
  }
  static void prepare(const Rule& rule, long long t, const std::vector<double>& hyperparameters, T* c) {
    double wide[max_coefficients] = {};
    Optimizers::visit(rule.optimizer,
                      [&](auto entry) { entry.prepare(hyperparameters.data(), rule.rate(t), t, wide); });
    for (int i = 0; i < max_coefficients; ++i) c[i] = T(wide[i]);
  }
};

} // namespace fastmlp
