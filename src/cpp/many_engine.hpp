// THE OTHER SEAM: what a device can do for many networks of one shape that train at once, each on its own rows and by
// its own rule. engine.hpp says what one can do for a single network.
#pragma once

#include "step.hpp"

namespace fastmlp {

// One of the networks. It learns from some rows of the data, in an order of their numbers for each epoch.
struct ManyModel {
  int data = 0; // number of what it learns from
  std::int64_t n_rows = 0, batch_size = 1;
  Rule rule; // of it only the optimizer, what is clipped, whether weights are averaged, and the seed
  double alpha = 0, tol = 0, n_iter_no_change = infinity;
  std::int64_t most_epochs = 1; // of one launch
  // Flat, and in the orders of engine.hpp; read when the engine is made. Where weights are averaged, the parameters are
  // the averages, and the last slot is what steps start from.
  float* parameters = nullptr;
  std::vector<float*> slots;

  std::int64_t steps_of_epoch() const { return (n_rows - 1) / batch_size + 1; }
};

// The epochs of one of them in a launch.
struct ManyEpochs {
  int model;
  std::int64_t n_epochs;
  int half;                       // where its orders are,
  std::int64_t first;             // from which of them on
  std::vector<Step<float>> steps; // those after number t
  long long t;
  double best_loss;
  std::int64_t no_improvement_count;
};

// What became of them: fewer epochs if the loss did not improve for too long, or became NaN in a batch.
struct ManyResult {
  std::vector<double> losses; // of epochs, as they are reported: mean loss, divided by a share of it, and penalty
  long long t = 0;
  std::int64_t failed_batch = 0; // the first (from 1) whose loss is NaN, else 0
};

class ManyEngine {
public:
  virtual ~ManyEngine() = default;

  // Orders of the next epochs of a model, [n_epochs][n_rows], into one of two halves of its room: one that no epochs
  // use which are under way. At most `most_epochs` of them; copied at once.
  virtual void give_orders(int model, int half, const std::int64_t* orders, std::int64_t n_epochs) = 0;
  // Begins epochs of some models, once each; returns at once. The same rules as for an Engine's epoch, and
  // scikit-learn's for when to stop.
  virtual void launch(const std::vector<ManyEpochs>& epochs) = 0;
  // Waits for them.
  virtual std::vector<ManyResult> wait() = 0;
  // Writes parameters and slots back.
  virtual void get() = 0;
};

} // namespace fastmlp
