// What a network IS: layer sizes, the activation of each hidden layer, the loss (which owns the output activation).
// Plain data; it knows no device and no training.
//
// Parameters are one flat buffer: all weight matrices first, each (fan_in, fan_out) row by row, then all biases.
#pragma once

#include "activations.hpp"
#include "losses.hpp"

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

namespace fastmlp {

// A loss with the values of its hyper-parameters, which the caller has checked; none for the defaults.
struct LossChoice {
  int number; // in Losses
  std::vector<double> values;
  int outputs_per_target = 1, central = 0; // which of these outputs scores compare with the target

  LossChoice(const std::string& name, std::vector<double> given) : number(Losses::find(name, "loss")), values(given) {
    Losses::visit(number, [&](auto entry) {
      outputs_per_target = int(std::size(entry.outputs));
      for (const Hyperparameter& h : entry.hyperparameters) {
        if (given.empty()) values.push_back(h.default_value);
        if (h.list) outputs_per_target *= int(values.size());
      }
      central = entry.central(hyperparameters());
    });
  }

  Hyperparameters hyperparameters() const { return {values.data(), int(values.size())}; }
};

struct Network {
  std::vector<int> sizes;       // units per layer, input first
  std::vector<int> activations; // numbers in Activations, one per hidden layer
  LossChoice loss;
  std::vector<std::ptrdiff_t> coefs;  // offset of each weight matrix in the flat buffer
  std::vector<std::ptrdiff_t> biases; // offset of each bias
  std::ptrdiff_t n_parameters = 0;

  Network(const std::vector<std::int64_t>& layer_sizes, const std::vector<std::string>& activation_names,
          const std::string& loss_name, const std::vector<double>& loss_values = {})
      : loss(loss_name, loss_values) {
    // 2^31 units would overflow the kernels' counters; 2^40 parameters are 4 TB, more than any machine trains on
    constexpr std::int64_t most_units = std::int64_t(1) << 30;
    constexpr std::ptrdiff_t most_parameters = std::ptrdiff_t(1) << 40;
    if (layer_sizes.size() < 2) throw std::invalid_argument("a network needs at least 2 layer sizes (input, output)");
    for (std::int64_t size : layer_sizes) {
      if (size < 1 || size > most_units)
        throw std::invalid_argument("layer sizes must be between 1 and 2**30, got " + std::to_string(size));
      sizes.push_back(int(size));
    }
    if (activation_names.size() + 2 != sizes.size())
      throw std::invalid_argument("one activation per hidden layer is needed: " + std::to_string(sizes.size() - 2) +
                                  " hidden layers, " + std::to_string(activation_names.size()) + " activations");
    for (const std::string& name : activation_names) activations.push_back(Activations::find(name, "activation"));
    if (n_outputs() % loss.outputs_per_target != 0)
      throw std::invalid_argument("the loss '" + loss_name + "' needs " + std::to_string(loss.outputs_per_target) +
                                  " outputs for each target, and so a multiple of it, got " +
                                  std::to_string(n_outputs()) + " outputs");
    for (int l = 0; l < n_layers(); ++l) {
      coefs.push_back(n_parameters);
      n_parameters += std::ptrdiff_t(sizes[l]) * sizes[l + 1];
      if (n_parameters > most_parameters)
        throw std::invalid_argument("the network would have more than 2**40 parameters");
    }
    for (int l = 0; l < n_layers(); ++l) {
      biases.push_back(n_parameters);
      n_parameters += sizes[l + 1];
    }
  }

  int n_layers() const { return int(sizes.size()) - 1; } // layers of weights
  int n_inputs() const { return sizes.front(); }
  int n_outputs() const { return sizes.back(); }
  int n_targets() const { return n_outputs() / loss.outputs_per_target; }
  RowLoss row_loss() const { return {loss.number, loss.hyperparameters(), n_targets(), n_outputs()}; }
};

} // namespace fastmlp
