// Every loss function, for one row or a vector of rows side by side, host and device.
//
// A loss owns its output activation (the link) and the targets it accepts, so that the rule "gradient = prediction
// minus target" is never applied to a pair for which it is wrong. losses/loss.hpp says what makes one.
#pragma once

#include "losses/classes.hpp"
#include "losses/distances.hpp"
#include "losses/distributions.hpp"

namespace fastmlp {

using Losses = decltype(ClassLosses() + DistanceLosses() + DistributionLosses());

// What an engine asks its kernels to compute for each row.
struct RowLoss {
  int number; // in Losses
  Hyperparameters h;
  int n_targets, n_outputs;
};

} // namespace fastmlp
