// What a kernel set offers to the CPU engine: plain functions on plain memory, one table per instruction set.
//
// Layouts. R rows of a batch make a panel; the batch is the SIMD dimension.
//   panels   [panel][feature][R]           activations; features padded to a multiple of R with zeros
//   columns  [feature / R][panel][R][R]    the same numbers transposed in R x R blocks, read by the weight gradient
//   W        [fan_out][ldw]                weights, one row a neuron, padded to a multiple of R with zeros
// Nothing is repacked between steps: forward, backward and the optimizer all work on W.
// The framework knows no instruction set, a kernel knows no thread, network or batch.
#pragma once

#include "../losses.hpp"
#include "../normalizations.hpp"
#include "../random.hpp"

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace fastmlp {

// A part of a matrix that will be read soon.
template <class T> struct Region {
  const T* first;
  std::ptrdiff_t ld;
  int rows, columns;
};

// A product of one layer for consecutive panels: out = f(M * in + bias), with an optional epilogue.
template <class T> struct PanelProduct {
  const T* M; // forward [n_out][ldm]; backward [n_in][ldm], taken as its transpose
  std::ptrdiff_t ldm;
  Region<T> next;           // weights that the next product will read, or none
  const T* bias;            // [n_out] or null for 0
  const T* in;              // panels of n_in features
  std::ptrdiff_t in_stride; // from panel to panel
  T* out;                   // panels of n_out features
  std::ptrdiff_t out_stride;
  const T* a;      // backward: panels of activations, in place of which deltas may go (same stride as out)
  T* z;            // panels of pre-activations (same stride as out): written forward, read backward; may be null
  const T* addend; // panels added to the result (same stride as out); may be null. Then there is no activation
  int n_in, n_out, n_panels;
  int activation;    // number in Activations; -1: none
  bool ends_in_half; // at most R / 2 rows of the last panel are there: the others get what sums of 0 come to
};

// Which of the units of a panel training leaves out: by random numbers for each row and unit.
template <class T> struct Dropout {
  RandomKey key;
  std::uint32_t threshold = 0; // of 2^32; 0: none is left out
  std::uint32_t first_row = 0; // of the panel, in the batch
  T scale = 1;                 // of those that stay
};

// One panel of a hidden layer that does more than its activation: a = dropout(activation(normalisation(z))).
template <class T> struct HiddenPanel {
  int n; // units
  int activation;
  Statistics statistics;
  bool centred;
  const T *scale, *offset; // [n] of the normalisation; offset may be null
  T *mean, *inverse;       // and inverse deviation: of_units [n], read; of_rows [R], written forward and read backward
  const T* z;
  Dropout<T> dropout;
};

// The same layer for a row alone; what is not needed is null.
template <class T> struct HiddenRow {
  int n; // units
  int activation;
  Statistics statistics;
  bool centred;
  const T *scale, *offset, *mean, *inverse; // [n] each
};

// Rows of a compressed sparse matrix: first, first + 1, ..., by number if `rows` is given.
template <class T> struct SparseRows {
  const T* values;
  const std::int32_t* indices;
  const std::int64_t *indptr, *rows;
  std::int64_t first;
  int n;
};

// Rows of a dense matrix, likewise, n > 0; the n_next from `next` on will be used next.
template <class T> struct DenseRows {
  const T* data;
  std::ptrdiff_t ld;
  const std::int64_t* rows;
  std::int64_t first, next;
  int n, n_next;
};

// A tile of the weights of one layer, up to `tile_rows` neurons by R inputs; or a row of biases of any length.
template <class T> struct UpdateTile {
  T* w; // [n][ldw]
  std::ptrdiff_t ldw;
  T* slots[5]; // what the optimizer keeps for each weight, then the weight's moving average or null, [n][ld_slots]
  std::ptrdiff_t ld_slots;
  int n, n_columns;
};

// How a tile is updated from its gradient G: the optimizer gets (G + alpha w) * scale, brought into +-clip_value.
template <class T> struct UpdateRule {
  const T* coefficients;
  T alpha, scale, clip_value, ema_decay;
};

template <class T> struct Kernels {
  const char* name;
  int rows;      // R
  int tile_rows; // neurons in a weight tile, a multiple of every block that transposes use

  // At most R rows of k features to one panel and its blocks of columns. Missing rows repeat the last one: whatever
  // they compute stays finite, and their weight is 0. `columns` may be null.
  void (*gather)(const DenseRows<T>& X, int k, T* panel, T* columns, std::ptrdiff_t column_stride);
  // Here and below, what other cores read is written past the caches if it `streams` (see shared_lines.hpp).
  void (*panel_to_columns)(const T* panel, int k, T* columns, std::ptrdiff_t column_stride, bool streams);
  void (*panel_to_rows)(const T* panel, int k, int n, T* out, std::ptrdiff_t ld);

  void (*forward)(const PanelProduct<T>& product, T* scratch);
  void (*backward)(const PanelProduct<T>& product, T* scratch); // multiplies by the slope of `activation`
  // The first layer for one panel of compressed sparse rows, and its weight gradient: G[input][ldt] of the neurons
  // [block * R, block * R + R) from their deltas, transposed like columns. Work goes with the stored values; sums run
  // in the order of the dense kernels on panels, so that both give the same bits. forward_sparse: M is W's transpose.
  void (*forward_sparse)(const SparseRows<T>& X, const PanelProduct<T>& product, T* scratch);
  void (*weight_gradient_sparse)(const SparseRows<T>& X, const T* deltas, int block, T* G, std::ptrdiff_t ldt,
                                 int n_in);
  // A first layer of few neurons on rows where they lie: a panel of units from at most R of them, missing ones repeat
  // the last. `copies` gets the rows, R of them, padded to whole registers with zeros.
  void (*forward_of_rows)(const DenseRows<T>& X, const PanelProduct<T>& product, T* copies, std::ptrdiff_t ld_copies,
                          T* scratch);
  std::size_t (*scratch_size)(int n_panels, int widest); // elements that forward and backward need

  // Hidden layers that do more than their activation, one panel each. Forward: a from z.
  void (*activate)(const HiddenPanel<T>& panel, T* a);
  // Backward: in place of a the deltas from g, the derivatives with respect to a. [n] sums over the panel's rows of
  // what scale and offset get as gradients go to `gradients`, then [n] more; for of_units deltas lack the way through
  // the statistics, which `centre` adds. The panel `addend` is added at last; may be null.
  void (*differentiate)(const HiddenPanel<T>& panel, const T* g, T* a, T* gradients, const T* addend);
  // Of each unit the weighted mean over the panel's rows, and the sum of the weighted squared distances from it: [n]
  // and [n] to `moments`.
  void (*moments)(const T* z, const T* weights, int n, T* moments);
  // delta -= share of the row * (a + b * normalised z), then times the inverse deviation and plus `addend`.
  void (*centre)(const HiddenPanel<T>& panel, const T* shares, const T* a, const T* b, T* delta, const T* addend);
  void (*drop)(const Dropout<T>& dropout, int n, T* panel); // of the inputs

  void (*link)(const RowLoss& loss, T* z); // one panel, in place
  // One panel: z becomes the gradient times the row weights; returns the weighted sum of the row losses. Rows that
  // weigh nothing have no loss and no gradient, finite or not.
  double (*loss)(const RowLoss& loss, T* z, const T* y, const T* weights);

  // G[n][R] = delta[n][:] . columns[:][R] over n_rows rows, the first `n_columns` of each; delta panels are
  // `delta_stride` apart, rows of columns `ld`: R in blocks of columns, more in copies of rows. With `adds` G gets the
  // finished sum on top of what it holds. `next`, a tile that will be updated soon, is fetched meanwhile; may be null.
  // `new_deltas`: they were not read for the tile before.
  void (*weight_gradient)(const T* delta, std::ptrdiff_t delta_stride, const T* columns, std::ptrdiff_t ld, int n_rows,
                          int n, int n_columns, bool adds, const UpdateTile<T>* next, bool new_deltas, T* G);
  // The same from panels of inputs, one product along the rows for each weight: for layers of few inputs or few
  // neurons, which need no columns then.
  void (*weight_gradient_along_rows)(const T* delta, std::ptrdiff_t delta_stride, const T* inputs,
                                     std::ptrdiff_t input_stride, int n_panels, int n, int n_columns, bool adds, T* G);
  void (*bias_gradient)(const T* delta, std::ptrdiff_t delta_stride, int n_panels, int n, bool adds, T* g);
  void (*add)(const T* a, const T* b, std::ptrdiff_t n, T* sum); // n a multiple of the lanes
  void (*stream)(const T* from, std::ptrdiff_t n, T* to);        // a copy past the caches, likewise

  // G = (G + alpha w) * scale: the gradient of the mean loss with its L2 penalty; returns the sum of w^2. Rows of G are
  // R apart, as many columns as the tile has count.
  double (*finish_gradient)(T alpha, T scale, T* G, const UpdateTile<T>& tile);
  // A step of the optimizer on w and slots; G stays as it is. Returns the sum of w^2 before it.
  double (*update)(int optimizer, const UpdateRule<T>& rule, const T* G, const UpdateTile<T>& tile, bool streams);
  // out[j][i] = in[i][j] for whole blocks of lanes that cover (rows, columns): both have room for them.
  void (*transpose)(const T* in, std::ptrdiff_t ld, int rows, int columns, T* out, std::ptrdiff_t ld_out);

  // A single row through one layer, out = activation(x W + b), same bits as `forward`; W is [n_in][ldw], b may be null.
  // Quickest where n_out is a multiple of R / 2; out has room for a multiple of R.
  void (*forward_row)(const T* W, std::ptrdiff_t ldw, const T* b, const T* x, int n_in, int n_out, int activation,
                      T* out);
  void (*activate_row)(const HiddenRow<T>& row, const T* z, T* a); // same bits as `activate`; room as above
  void (*link_row)(const RowLoss& loss, T* z);
  bool (*all_finite)(const T* x, std::int64_t n); // neither NaN nor infinity

  // The catalogues applied to arrays, for tests. apply_loss: `n` rows, one by one.
  void (*apply_activation)(int activation, const T* z, std::ptrdiff_t n, T* value, T* slope);
  void (*apply_loss)(const RowLoss& loss, const T* z, const T* y, std::ptrdiff_t n, T* prediction, T* row_loss,
                     T* grad);
  double (*multiply_adds)(long rounds); // runs independent multiply-adds, returns how many operations: the peak rate
};

constexpr int most_panel_rows = 32;                // R of the widest registers
constexpr int few_units = 4;                       // of a layer whose weight gradient goes along the rows
constexpr int few_neurons = 12, many_inputs = 128; // of a first layer that reads rows where they lie
constexpr std::ptrdiff_t few_parameters = 1 << 15; // so many, with what an optimizer keeps, are in the level-2 cache

// The kernel set in use, and the one for a network of so many parameters: where wide registers are no faster, those of
// few parameters take shorter panels.
template <class T> const Kernels<T>& kernels();
template <> const Kernels<float>& kernels<float>();
template <> const Kernels<double>& kernels<double>();
template <class T> const Kernels<T>& kernels_for(std::ptrdiff_t n_parameters);
template <> const Kernels<float>& kernels_for<float>(std::ptrdiff_t n_parameters);
template <> const Kernels<double>& kernels_for<double>(std::ptrdiff_t n_parameters);

// Those compiled into this build that the machine can run, best last; and the choice of one for all networks, or of
// "auto".
std::vector<std::string> instruction_sets();
void set_instruction_set(const std::string& name);

} // namespace fastmlp
