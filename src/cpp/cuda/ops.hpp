// What a device does in a step: a list of operations, each plain data, on numbered buffers.
//
// All matrices are row by row with a leading dimension. An operation says which parts of which buffers it reads and
// writes (accesses.hpp): the orders in which a device may run the list follow from that alone. What changes from step
// to step is in the state (step_state.hpp), so that a list can be run again as it is.
#pragma once

#include "../engine.hpp"
#include "cooperative_plan.hpp"
#include "fused_plan.hpp"
#include "precision.hpp"

#include <array>
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
  state,       // one StepState; its elements are the parts below
  step_table,  // a StepCoefficients for each step of an epoch
  reports,     // a BatchReport for each batch of an epoch
  parameters,  // real: layout.hpp
  gradient,    // real, likewise
  slots,       // real, likewise, one after another
  shadow,      // bfloat16: a copy of what is trained, of which products read the matrices
  n_shared_buffers
};

// Parts of the state that are written at different times.
enum StatePart : int { position, progress, batch_sums, n_state_parts };

struct View {
  int buffer = -1;
  std::ptrdiff_t offset = 0; // in elements
  int ld = 0;

  explicit operator bool() const { return buffer >= 0; }
};

// The rows of a batch: row i is number state.first + ahead + i, of the order if there is one.
struct Rows {
  int n = 0;
  bool ordered = true, has_labels = false, has_weights = false;
  std::int64_t ahead = 0; // rows of the batches before it in the same list
};

struct Drop { // dropout of the units of one layer; none in predictions
  double share = 0;
  int layer = 0;
};

struct Gather { // rows of the features to out (n, columns)
  Rows rows;
  View X, out;
  int columns;
  Drop drop;
};

// What becomes of the sums of a product.
enum class Finish { none, relu, relu_slope };

// c (m, n) = op(a) (m, k) op(b) (k, n) + addend + bias; then max(0, .), or 0 where the units are not above 0.
struct Product {
  int m, n, k;
  bool transpose_a, transpose_b;
  View a, b, c;
  Precision precision;         // bf16: a and b are of bfloat16
  View workspace;              // products that share one run one after another
  View addend = {}, bias = {}; // addend: none, or c itself
  Finish finish = Finish::none;
  bool narrow = false;              // c, bias and units are of bfloat16
  View units = {};                  // (m, n), of relu_slope
  View mask = {};                   // where relu may note which units are above 0, for relu_slope: bits (m, ld)
  View column_sums = {}, room = {}; // [n] sums over the rows of b, which is not transposed: gradients of biases
};

// How much of a product somebody has done: its sums are those with the addend.
enum class Done { nothing, sums, all };

// Rows of a hidden layer: a = dropout(activation(normalisation(z))).
struct Hidden {
  Rows rows;
  int units, activation, normalization;
  View z, a, statistics; // mean, then inverse deviation: of units [units], of rows [n]
  View scale, offset;
  Drop drop;
};

struct AddBias { // z += bias + addend
  Hidden layer;
  View bias, addend;
};

struct Moments { // statistics of units over the rows of a batch, and their running averages
  Hidden layer;
  View running_mean, running_variance, room;
};

struct UseRunning { // statistics of units from the running averages: predictions
  Hidden layer;
  View running_mean, running_variance;
};

struct Activate { // of z + bias + addend, which is kept in z if `keeps_z`; statistics of rows are found on the way
  Hidden layer;
  View bias, addend;
  bool keeps_z;
};

struct LossRows { // of z + bias; the gradient times weight to delta, if there is one; sums over the rows to the state
  Rows rows;
  View z, bias, delta, room, partials;
};

struct LinkRows { // predictions (n, n_outputs) of z + bias
  Rows rows;
  View z, bias, out, room;
};

// From the gradient by the units to that by what the activation was taken of, + addend; in real numbers, as the operand
// of a product, or both.
struct Differentiate {
  Hidden layer;
  View gradient, addend, delta, operand;
};

struct SumColumns { // sums over the rows: of deltas alone, and of deltas times the normalised z
  Hidden layer;
  View delta, alone, with_z, room;
};

struct ThroughNormalization { // delta of the normalised z to that of z, in place; + addend
  Hidden layer;
  View scale_gradient, offset_gradient, addend, delta, operand;
};

struct FusedStep { // from the features to parts of the gradient, of n_blocks blocks, and the sums of losses
  Rows rows;
  FusedPlan plan;
  Precision precision;
  int stride, n_blocks;
  View parts, sums;
};

struct CooperativeSteps { // whole steps of the optimizer, one after another
  Rows rows;              // of the first
  int n_steps;
  CooperativePlan plan;
  Precision precision;
  int stride, n_blocks;
  double alpha, clip_value;
  int optimizer, n_slots;
  bool averages, has_shadow;
  std::ptrdiff_t matrices, trained, slot_size;
  View room, sums, partials;
};

struct Gradient { // whole, or in parts that are still to be added up
  View view;
  int n_parts = 1;
};

struct FinishGradient { // gradient = (gradient + alpha w) / weight, in its first part; its squares to the state
  double alpha;
  std::ptrdiff_t matrices, trained; // elements
  Gradient gradient;
  View partials;
};

struct Update { // a step of the optimizer on all that is trained, if the state says so; ends the batch
  double alpha, clip_norm, clip_value; // with a clip_norm the gradient has been finished
  int optimizer, n_slots;              // without that of the average
  bool averages, has_shadow;
  std::int64_t advance; // rows that are done with it: those of all batches of a list, at the last of them
  std::ptrdiff_t matrices, trained, slot_size;
  Gradient gradient;
  View partials;
};

struct Cast { // rows of real numbers to bfloat16
  int n, columns;
  View in, out;
};

struct Shadow { // what is trained, in bfloat16
  std::ptrdiff_t trained;
};

using Op =
    std::variant<Gather, Product, AddBias, Moments, UseRunning, Activate, LossRows, LinkRows, Differentiate, SumColumns,
                 ThroughNormalization, FusedStep, CooperativeSteps, FinishGradient, Update, Cast, Shadow>;

constexpr std::size_t workspace_bytes = std::size_t(32) << 20; // for products that share it

// How steps are taken: as the plan chooses, or for comparisons always in one way, where it can be gone.
enum class Way { chosen, fused, cooperative, products };

// What a device can do, as far as plans depend on it.
struct Capabilities {
  int shared_bytes = 0; // that a block of threads can have
  int n_multiprocessors = 0, shared_of_multiprocessor = 0;
  Way way = Way::chosen;
  std::array<bool, 3> adds_up{true, true, true}; // whether products of a precision add up columns without a kernel more
};

struct BufferSize {
  Element element;
  std::size_t n;
};

} // namespace fastmlp::cuda
