// What changes from step to step, in the device's memory: a graph of kernels that reads it can be replayed unchanged.
#pragma once

#include "../catalog.hpp"
#include "../losses/loss.hpp"
#include "../optimizers.hpp"
#include "../random.hpp"

#include <cstdint>

namespace fastmlp::cuda {

struct StepState {
  // Set by the host before an epoch. Where a list of batches begins in the order of the rows; its last update moves it
  // on
  std::int64_t first = 0;
  // Progress
  std::int64_t batch = 0;    // batches done in this epoch
  long long t = 0;           // optimizer steps done
  long long table_after = 0; // the table of coefficients begins with step table_after + 1
  std::int64_t failed = 0;   // number (from 1) of the batch whose loss is NaN, after which nothing moves any more
  RandomKey seed;            // of the random numbers of dropout; not set: there is none
  RandomKey key;             // the same of one step, if set: that of the seed does not count then
  // Of the batch being worked on
  double loss = 0;             // sum over its rows of weight times loss
  double weight = 0;           // sum of their weights
  double gradient_squares = 0; // of the finished gradient, if it is clipped by its length
  // How many blocks are done, of kernels whose last block goes on alone; 0 between kernels
  unsigned arrived_loss = 0, arrived_norm = 0, arrived_update = 0;
  // At the barriers of a kernel whose blocks wait for one another, and at its end
  unsigned arrived_together = 0, arrived_end = 0;

  FASTMLP_HOST_DEVICE bool moves() const { // whether there is a step for this batch
    return failed == 0 && weight != 0 && loss == loss;
  }
};

// What the step number t has in common for all weights, and for all biases, scales and offsets; see Step in the CPU
// engine's layout.hpp. The host makes a table of them for an epoch.
template <class T> struct StepCoefficients {
  T weights[max_coefficients], others[max_coefficients];
  T ema_decay;
};

// Mean loss and L2 penalty of a batch.
struct BatchReport {
  double loss, penalty;
};

// The rows of a batch.
struct BatchRows {
  const std::int64_t* order; // their numbers, for all batches of an epoch; null: 0, 1, ...
  const StepState* state;    // says where the list of batches begins; null: at the start
  int n;
  std::int64_t ahead; // of this batch in the list

  BatchRows() = default;
  FASTMLP_HOST_DEVICE BatchRows(const std::int64_t* order, const StepState* state, int n, std::int64_t ahead = 0)
      : order(order), state(state), n(n), ahead(ahead) {}

  FASTMLP_HOST_DEVICE std::int64_t operator[](int i) const {
    const std::int64_t at = (state ? state->first : 0) + ahead + i;
    return order ? order[at] : at;
  }
};

// What rows are compared with: y (n_rows, n_targets) or class numbers, and weights or null for 1.
template <class T> struct Targets {
  const T* y;
  const std::int32_t* labels;
  const T* sample_weight;

  FASTMLP_HOST_DEVICE T weight(std::int64_t row) const { return sample_weight ? sample_weight[row] : T(1); }
};

} // namespace fastmlp::cuda
