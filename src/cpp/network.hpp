// What a network IS: layer sizes, what each hidden layer does, the loss (which owns the output activation). Plain data;
// it knows no device and no training.
//
// With a_0 the input, hidden layer l = 1 ... computes
//   z_l = a_{l-1} W_l + b_l, and with skips for l > 1: + z_{l-1}, or + z_{l-1} P_l where the widths differ
//   a_l = dropout(activation(normalisation(z_l)))
// so that skips join the layers before their activations (He et al. 2016, arXiv:1603.05027). The output is linear,
// unless an activation is chosen for it, of which the loss is then taken.
//
// Parameters are one flat buffer: all weight matrices first, each (fan_in, fan_out) row by row, then all biases; then
// all scales, all offsets, all projections P, and all running means and variances, which no optimizer changes.
#pragma once

#include "activations.hpp"
#include "losses.hpp"
#include "normalizations.hpp"

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

// What hidden layers do beyond weights and activation; nothing where a list is empty.
struct HiddenExtras {
  std::vector<std::string> normalizations; // one per hidden layer
  std::vector<double> dropout;             // share of units left out in training: inputs, then each hidden layer
  bool residual = false;                   // skips from hidden layer to hidden layer
};

struct Network {
  static constexpr std::ptrdiff_t none = -1;

  std::vector<int> sizes;          // units per layer, input first
  std::vector<int> activations;    // numbers in Activations, one per hidden layer
  int output_activation = -1;      // likewise, before the loss and its link; -1: none
  std::vector<int> normalizations; // numbers in Normalizations, one per hidden layer
  std::vector<double> dropout;     // of the inputs, then of each hidden layer
  bool residual = false;
  LossChoice loss;
  std::vector<std::ptrdiff_t> coefs;                             // offset of each weight matrix in the flat buffer
  std::vector<std::ptrdiff_t> biases;                            // offset of each bias
  std::vector<std::ptrdiff_t> scales, offsets, means, variances; // one per hidden layer; or none
  std::vector<std::ptrdiff_t> projections;                       // one per layer of weights; or none
  std::ptrdiff_t n_trainable = 0, n_parameters = 0;              // without and with running statistics

  Network(const std::vector<std::int64_t>& layer_sizes, const std::vector<std::string>& activation_names,
          const std::string& loss_name, const std::vector<double>& loss_values = {}, const HiddenExtras& extras = {},
          const std::string& output_activation_name = "identity")
      : residual(extras.residual), loss(loss_name, loss_values) {
    // 2^31 units would overflow the kernels' counters; 2^40 parameters are 4 TB, more than any machine trains on
    constexpr std::int64_t most_units = std::int64_t(1) << 30;
    if (layer_sizes.size() < 2) throw std::invalid_argument("a network needs at least 2 layer sizes (input, output)");
    for (std::int64_t size : layer_sizes) {
      if (size < 1 || size > most_units)
        throw std::invalid_argument("layer sizes must be between 1 and 2**30, got " + std::to_string(size));
      sizes.push_back(int(size));
    }
    need("activation", "hidden layer", activation_names.size(), n_hidden());
    for (const std::string& name : activation_names) activations.push_back(HiddenActivations::find(name, "activation"));
    if (!extras.normalizations.empty()) need("normalization", "hidden layer", extras.normalizations.size(), n_hidden());
    for (const std::string& name : extras.normalizations)
      normalizations.push_back(Normalizations::find(name, "normalization"));
    normalizations.resize(n_hidden(), Normalizations::find("none", "normalization"));
    dropout = extras.dropout;
    if (!dropout.empty()) need("dropout", "layer of inputs or hidden units", dropout.size(), n_hidden() + 1);
    for (double share : dropout)
      if (!(share >= 0 && share < 1))
        throw std::invalid_argument("dropout must be at least 0 and below 1, got " + std::to_string(share));
    dropout.resize(n_hidden() + 1, 0.0);
    if (n_outputs() % loss.outputs_per_target != 0)
      throw std::invalid_argument("the loss '" + loss_name + "' needs " + std::to_string(loss.outputs_per_target) +
                                  " outputs for each target, and so a multiple of it, got " +
                                  std::to_string(n_outputs()) + " outputs");
    if (output_activation_name != "identity") set_output_activation(output_activation_name);
    place_parameters();
  }

  int n_layers() const { return int(sizes.size()) - 1; } // layers of weights
  int n_inputs() const { return sizes.front(); }
  int n_outputs() const { return sizes.back(); }
  int n_targets() const { return n_outputs() / loss.outputs_per_target; }
  RowLoss row_loss() const { return {loss.number, loss.hyperparameters(), n_targets(), n_outputs()}; }
  int loss_share() const { // what reports divide the loss by
    int share = 1;
    Losses::visit(loss.number, [&](auto entry) { share = entry.mean_over_outputs ? n_outputs() : 1; });
    return share;
  }
  std::size_t n_hidden() const { return sizes.size() - 2; }
  // Number in Activations of what is applied to the sums of weights `l`; -1: nothing.
  int activation_of(int l) const { return l + 1 < n_layers() ? activations[std::size_t(l)] : output_activation; }

  // Whether each hidden layer is an activation of weighted sums, and nothing else.
  bool is_plain() const {
    for (double share : dropout)
      if (share > 0) return false;
    for (int l = 0; l < n_layers(); ++l)
      if (!is_direct(l)) return false;
    return true;
  }

  // Whether weights `l` are passed by a skip: they stand between two hidden layers.
  bool has_skip(int l) const { return residual && l > 0 && l + 1 < n_layers(); }

  // Whether nothing stands between the sums of weights `l` and the activation, and no skip needs the sums.
  bool is_direct(int l) const {
    if (l + 1 == n_layers()) return true;
    return !has_skip(l) && !has_skip(l + 1) && statistics_of(normalizations[l]) == Statistics::none;
  }

  static Statistics statistics_of(int normalization) {
    Statistics statistics = Statistics::none;
    Normalizations::visit(normalization, [&](auto entry) { statistics = entry.statistics; });
    return statistics;
  }

private:
  // Only where the outputs are the predictions: any other link is one half of its loss.
  void set_output_activation(const std::string& name) {
    output_activation = Activations::find(name, "output activation");
    Losses::visit(loss.number, [&](auto entry) {
      const std::string link = entry.link_name;
      if (link != "identity")
        throw std::invalid_argument(std::string("the loss '") + entry.name + "' has the output activation '" + link +
                                    "' and takes no other, got '" + name + "'");
    });
  }

  static void need(const char* what, const char* of, std::size_t given, std::size_t needed) {
    if (given != needed)
      throw std::invalid_argument(std::string("one ") + what + " per " + of + " is needed: " + std::to_string(needed) +
                                  ", got " + std::to_string(given));
  }

  std::ptrdiff_t place(bool wanted, std::ptrdiff_t rows, std::ptrdiff_t columns) {
    constexpr std::ptrdiff_t most_parameters = std::ptrdiff_t(1) << 40;
    if (!wanted) return none;
    const std::ptrdiff_t start = n_parameters;
    n_parameters += rows * columns;
    if (n_parameters > most_parameters)
      throw std::invalid_argument("the network would have more than 2**40 parameters");
    return start;
  }

  void place_parameters() {
    for (int l = 0; l < n_layers(); ++l) coefs.push_back(place(true, sizes[l], sizes[l + 1]));
    for (int l = 0; l < n_layers(); ++l) biases.push_back(place(true, 1, sizes[l + 1]));
    const auto of_hidden = [&](std::vector<std::ptrdiff_t>& places, auto&& is_wanted) {
      for (std::size_t h = 0; h < n_hidden(); ++h)
        Normalizations::visit(normalizations[h],
                              [&](auto entry) { places.push_back(place(is_wanted(entry), 1, sizes[h + 1])); });
    };
    of_hidden(scales, [](auto entry) { return entry.statistics != Statistics::none; });
    of_hidden(offsets, [](auto entry) { return entry.centred; });
    for (int l = 0; l < n_layers(); ++l)
      projections.push_back(place(has_skip(l) && sizes[l] != sizes[l + 1], sizes[l], sizes[l + 1]));
    n_trainable = n_parameters;
    of_hidden(means, [](auto entry) { return entry.statistics == Statistics::of_units; });
    of_hidden(variances, [](auto entry) { return entry.statistics == Statistics::of_units; });
  }
};

} // namespace fastmlp
