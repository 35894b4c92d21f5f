// What a device does in a step: a list of operations, each plain data, on numbered buffers.
//
// All matrices are row by row with a leading dimension. An operation says which parts of which buffers it reads and
// writes (accesses.hpp): the orders in which a device may run the list follow from that alone. What changes from step
// to step is in the state (step_state.hpp), so that a list can be run again as it is.
#pragma once

#include "../engine.hpp"

#include <cstddef>
#include <cstdint>
#include <variant>
#include <vector>

namespace fastmlp::cuda {

enum class Element { real, bfloat16, wide, int32, int64, byte }; // real: the T of the engine; wide: double

// Buffers that every list may use; those of layers follow, numbered by the plan.
enum Buffer : int {
  features,    // real (rows, ld): X
  targets,     // real (rows, n_targets)
  labels,      // int32 (rows)
  row_weights, // real (rows)
  row_order,   // int64: the rows of an epoch, batch after batch
  state,       // one StepState
  step_table,  // a StepCoefficients for each step of an epoch
  reports,     // a BatchReport for each batch of an epoch
  parameters,  // real: layout.hpp
  gradient,    // real, likewise
  slots,       // real, likewise, one after another
  shadow,      // bfloat16: a copy of the matrices among the parameters
  partial_sums, // byte: what blocks of a kernel hand over to the last of them
  n_shared_buffers
};

struct View {
  int buffer = -1;
  std::ptrdiff_t offset = 0; // in elements
  int ld = 0;

  explicit operator bool() const { return buffer >= 0; }
};

// The rows of a batch: row i is number state.first + i, of the order if there is one.
struct Rows {
  int n = 0;
  bool ordered = true, has_labels = false, has_weights = false;
};

struct Drop { // dropout of the units of one layer; none in predictions
  double share = 0;
  int layer = 0;
};

enum class Precision { ieee, tf32, bf16 };

struct Gather { // rows of the features to out (n, columns)
  Rows rows;
  View X, out;
  int columns;
  Drop drop;
};

struct Product { // c (m, n) = op(a) (m, k) op(b) (k, n) + addend + bias, then max(0, .) if `relu`
  int m, n, k;
  bool transpose_a, transpose_b;
  View a, b, c, addend, bias;
  bool relu;
  Precision precision; // bf16: a and b are of bfloat16
  View workspace;      // products that share one run one after another
};

// How the sums of a layer become its units: a = dropout(activation(normalisation(z))).
struct Hidden {
  int n, units, activation, normalization;
  View z, a, statistics; // mean and inverse deviation: of units [2][units], of rows [2][n]
  View scale, offset;
  Drop drop;
};

struct Moments { // statistics of units over the rows of a batch, and their running averages
  Rows rows;
  Hidden layer;
  View running_mean, running_variance;
};

struct UseRunning { // statistics of units from the running averages: predictions
  Hidden layer;
  View running_mean, running_variance;
};

struct Activate { // statistics of rows are computed on the way
  Hidden layer;
};

struct LossRows { // outputs to gradient times weight, or by the link to predictions; the sums to the state
  Rows rows;
  View in, out;
  bool gradient;
};

struct Slope { // delta = gradient by the units times the slope of the activation, for what stays; + addend
  Hidden layer;
  View gradient, delta, addend;
};

struct ScaleGradients { // sums over the rows of delta * normalised z and of delta: gradients of scale and offset
  Hidden layer;
  View delta, scale_gradient, offset_gradient;
};

struct Denormalize { // delta of the normalised sums to that of the sums, in place; + addend
  Rows rows;
  Hidden layer;
  View delta, scale_gradient, offset_gradient, addend;
};

struct ColumnSums { // over n rows
  int n, columns;
  View in, out;
};

struct Norm { // the finished gradient, in place: its penalty added, divided by the weight; its squares to the state
  double alpha;
  std::ptrdiff_t matrices, trained; // elements
};

struct Update { // a step of the optimizer for all that is trained, unless the state says that there is none
  double alpha, clip_norm, clip_value;
  int optimizer, n_slots; // without that of the average
  bool averages, finished; // whether the gradient is finished
  int n_rows; // of the batch: where the next one begins
  std::ptrdiff_t matrices, trained, slot_size;
};

struct Shadow { // the matrices in bfloat16
  std::ptrdiff_t matrices;
};

using Op = std::variant<Gather, Product, Moments, UseRunning, Activate, LossRows, Slope, ScaleGradients, Denormalize,
                        ColumnSums, Norm, Update, Shadow>;

struct BufferSize {
  Element element;
  std::size_t n;
};

} // namespace fastmlp::cuda
