// Every normalisation of the pre-activations of a hidden layer. Each unit then has a scale and, if the mean was taken
// off, an offset, both learned.
//
// To add one: write a struct like its neighbours and name it in the list at the bottom. Engines know three kinds of
// statistics: none, those of a row over its units, and those of a unit over the rows of a batch. The latter are also
// averaged over the steps of training, for predictions.
#pragma once

#include "catalog.hpp"

namespace fastmlp {

enum class Statistics { none, of_rows, of_units };

constexpr double normalization_epsilon = 1e-5; // added to variances, as in PyTorch
constexpr double running_share = 0.1;          // of a batch in the averages over steps

struct NoNormalization {
  static constexpr const char* name = "none";
  static constexpr const char* formula = "z";
  static constexpr Statistics statistics = Statistics::none;
  static constexpr bool centred = false;
};

// Ioffe, Szegedy 2015, arXiv:1502.03167. The mean and variance are weighted like the rows; the running variance is that
// of the population, estimated from the batch.
struct BatchNorm {
  static constexpr const char* name = "batch_norm";
  static constexpr const char* formula = "(z - mean) / sqrt(var + 1e-5) scale + offset, over the rows of the batch";
  static constexpr Statistics statistics = Statistics::of_units;
  static constexpr bool centred = true;
};

// Ba, Kiros, Hinton 2016, arXiv:1607.06450
struct LayerNorm {
  static constexpr const char* name = "layer_norm";
  static constexpr const char* formula = "(z - mean) / sqrt(var + 1e-5) scale + offset, over the units of the row";
  static constexpr Statistics statistics = Statistics::of_rows;
  static constexpr bool centred = true;
};

// Zhang, Sennrich 2019, arXiv:1910.07467
struct RmsNorm {
  static constexpr const char* name = "rms_norm";
  static constexpr const char* formula = "z / sqrt(mean(z^2) + 1e-5) scale, over the units of the row";
  static constexpr Statistics statistics = Statistics::of_rows;
  static constexpr bool centred = false;
};

using Normalizations = Catalog<NoNormalization, BatchNorm, LayerNorm, RmsNorm>;

} // namespace fastmlp
