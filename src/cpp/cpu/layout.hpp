// How the CPU engine lays out parameters and a batch in memory; the panel layout itself is described in kernels.hpp.
#pragma once

#include "../engine.hpp"
#include "../step.hpp"
#include "kernels.hpp"
#include "memory.hpp"

#include <algorithm>
#include <cmath>

namespace fastmlp {

inline std::ptrdiff_t round_up(std::ptrdiff_t n, int multiple) { return (n + multiple - 1) / multiple * multiple; }

// Rows `n` elements long, rounded up to `R`; one R more when rows would otherwise fall on the same cache sets.
template <class T> std::ptrdiff_t leading_dimension(std::ptrdiff_t n, int R) {
  const std::ptrdiff_t ld = round_up(n, R);
  return ld * std::ptrdiff_t(sizeof(T)) % 512 == 0 ? ld + R : ld;
}

// B[j][i] = A[i][j].
template <class T> void transpose(const T* A, std::ptrdiff_t lda, int rows, int columns, T* B, std::ptrdiff_t ldb) {
  const Kernels<T>& kernels = fastmlp::kernels<T>();
  const int R = kernels.rows, whole_rows = rows / R * R, whole_columns = columns / R * R;
  for (int i = 0; i < whole_rows; i += R) kernels.transpose(A + i * lda, lda, R, whole_columns, B + i, ldb);
  for (int i = 0; i < rows; ++i)
    for (int j = i < whole_rows ? whole_columns : 0; j < columns; ++j) B[j * ldb + i] = A[i * lda + j];
}

// Rows first .. first + n, by number if `numbers` is given.
struct RowRange {
  const std::int64_t* numbers;
  std::int64_t first, n;
  std::int64_t operator[](std::int64_t i) const { return numbers ? numbers[first + i] : first + i; }
  // The rows from number `begin` on, at most so many; none behind the last.
  RowRange part(std::int64_t begin, std::int64_t most) const {
    begin = std::min(begin, n);
    return {numbers, first + begin, std::min(most, n - begin)};
  }
  RowRange panel(std::int64_t p, int R) const { return part(p * R, R); }
};

// Those rows of X, dense, to out (n, n_columns).
template <class T> void copy_rows(const Matrix<T>& X, const RowRange& rows, T* out) {
  for (std::int64_t i = 0; i < rows.n; ++i, out += X.n_columns) {
    if (!X.indptr) {
      std::copy_n(X.data + rows[i] * X.stride, X.n_columns, out);
      continue;
    }
    std::fill_n(out, X.n_columns, T(0));
    for (std::int64_t e = X.indptr[rows[i]]; e < X.indptr[rows[i] + 1]; ++e) out[X.indices[e]] += X.data[e];
  }
}

// One array of parameters of a layer of weights: where it stands in the flat buffer, and in the engine.
template <class T> struct Parameter {
  enum Role { weights, bias, scale, offset, projection, running_mean, running_variance };

  Role role;
  int layer;
  std::ptrdiff_t flat;
  int rows, columns; // neurons and inputs; a vector is one row
  std::ptrdiff_t ld; // from row to row here; padded to R with zeros
  T* data;

  bool is_matrix() const { return role == weights || role == projection; } // in the flat buffer (columns, rows)
  bool is_trained() const { return role != running_mean && role != running_variance; }

  void read(const T* parameters) const {
    for (int row = 0; row < rows; ++row) // a training that diverged may have left anything there
      std::fill(data + row * ld + columns, data + (row + 1) * ld, T(0));
    if (is_matrix())
      fastmlp::transpose(parameters + flat, rows, columns, rows, data, ld);
    else
      std::copy_n(parameters + flat, columns, data);
  }
  void write(T* parameters) const {
    if (is_matrix())
      fastmlp::transpose(data, ld, rows, columns, parameters + flat, rows);
    else
      std::copy_n(data, columns, parameters + flat);
  }
};

// 1 / sqrt(variance + epsilon) of n units.
template <class T> void invert_deviations(const T* variances, int n, T* inverse) {
  for (int j = 0; j < n; ++j) inverse[j] = T(1 / std::sqrt(double(variances[j]) + normalization_epsilon));
}

// One layer of weights and the units above it.
template <class T> struct Layer {
  int n_in, n_out;
  int activation;    // number in Activations; -1 at the output, unless one comes before the loss and its link
  int normalization; // number in Normalizations
  Statistics statistics;
  bool centred;
  double dropout;
  bool has_skip;   // what is below joins the sums; through `projection` if widths differ
  bool is_fused;   // the product applies the activation, as there is nothing else to do
  bool keeps_z;    // pre-activations are needed later
  bool is_narrow;  // few inputs or neurons, and the inputs can be kept: the weight gradient goes along the rows
  bool reads_rows; // few neurons and many inputs: the first layer reads dense rows where they lie
  std::ptrdiff_t ldw, ldt;
  T *w, *b; // [n_out][ldw], [n_out], rows padded to R with zeros
  T *projection, *scale, *offset, *running_mean, *running_variance; // null where there is none
  AlignedArray<T> wt;              // W's transpose [n_in][ldt], kept beside it for the first layer of sparse input only
  AlignedArray<T> unit_statistics; // mean and inverse deviation, [n_out] each: of the batch, or the running ones

  void keep_transpose(int R) {
    if (wt.data()) return;
    wt = AlignedArray<T>(std::size_t(round_up(n_in, R) * ldt));
    refresh_transpose();
  }
  void refresh_transpose() {
    if (wt.data()) fastmlp::transpose(w, ldw, n_out, n_in, wt.data(), ldt);
  }
  void use_running_statistics() {
    if (statistics != Statistics::of_units) return;
    std::copy_n(running_mean, n_out, unit_statistics.data());
    invert_deviations(running_variance, n_out, unit_statistics.data() + n_out);
  }
};

// Buffers for up to `capacity` rows of a batch.
template <class T> struct Workspace {
  int capacity = 0;            // rows, a multiple of R
  AlignedPieces<T> panels;     // per layer of units, input first
  std::vector<T*> deltas;      // of the same units: in place of them, unless a narrow layer above needs both
  AlignedPieces<T> z;          // pre-activations, where kept
  AlignedPieces<T> columns;    // per layer of weights: its input, transposed, unless it is narrow
  AlignedPieces<T> z_columns;  // and the pre-activations below, for projections
  AlignedPieces<T> statistics; // per layer of units and panel: mean and inverse deviation of its rows, [R] each
  AlignedPieces<T> sums;       // per layer of units and panel: moments of units, then gradients of scale and offset
  std::vector<std::ptrdiff_t> panel_stride;
  std::ptrdiff_t column_stride = 0;
  AlignedArray<T> targets, weights, shares;     // shares: weights over their sum
  AlignedArray<T> first_deltas, first_gradient; // sparse input only: columns of layer 1's deltas; G[n_in][ldt]
  std::vector<double> panel_loss;
  bool sparse = false, training = false; // without training there is no room for what only gradients need
  bool in_place = false;                 // rows enter through the first product, which reads them where they lie
  AlignedArray<T> row_copies;            // and leaves copies here, which the weight gradient reads
  std::ptrdiff_t ld_rows = 0;

  Workspace() = default;
  // Input that is read where it lies gets no panels; sparse input gets room for the first layer's whole gradient.
  Workspace(const Network& network, const std::vector<Layer<T>>& layers, int R, int rows, bool sparse, bool training)
      : capacity(int(round_up(rows, R))), column_stride(std::ptrdiff_t(capacity) * R), panel_loss(capacity / R),
        sparse(sparse), training(training),
        in_place(sparse || (training && layers[0].reads_rows && network.dropout[0] == 0)) {
    std::vector<std::size_t> panel_sizes, delta_sizes, z_sizes, column_sizes, z_column_sizes, statistics_sizes,
        sums_sizes;
    for (std::size_t l = 0; l < network.sizes.size(); ++l) {
      const std::ptrdiff_t padded = round_up(network.sizes[l], R);
      panel_stride.push_back(l == 0 && in_place ? 0 : padded * R);
      const Layer<T>* below = l > 0 ? &layers[l - 1] : nullptr;
      const std::size_t size = l == 0 && in_place ? 0 : std::size_t(capacity) * padded;
      const bool fused = !below || below->is_fused, feeds = training && l < layers.size();
      const bool projects = feeds && layers[l].projection, is_narrow = feeds && layers[l].is_narrow;
      panel_sizes.push_back(size);
      delta_sizes.push_back(is_narrow && l > 0 ? size : 0);
      z_sizes.push_back(below && (training ? below->keeps_z : !fused) ? size : 0);
      column_sizes.push_back(feeds && !is_narrow ? size : 0);
      z_column_sizes.push_back(projects ? size : 0);
      statistics_sizes.push_back(!fused && below->statistics == Statistics::of_rows ? std::size_t(2 * capacity) : 0);
      sums_sizes.push_back(training && !fused && below->statistics != Statistics::none
                               ? std::size_t(capacity / R) * 2 * std::size_t(below->n_out)
                               : 0);
    }
    panels = AlignedPieces<T>(panel_sizes);
    apart = AlignedPieces<T>(delta_sizes);
    if (in_place && !sparse) {
      ld_rows = leading_dimension<T>(layers[0].n_in, R);
      row_copies = AlignedArray<T>(std::size_t(capacity) * ld_rows);
    }
    for (std::size_t l = 0; l < panel_sizes.size(); ++l) deltas.push_back(delta_sizes[l] > 0 ? apart[l] : panels[l]);
    z = AlignedPieces<T>(z_sizes);
    columns = AlignedPieces<T>(column_sizes);
    z_columns = AlignedPieces<T>(z_column_sizes);
    statistics = AlignedPieces<T>(statistics_sizes);
    sums = AlignedPieces<T>(sums_sizes);
    if (!training) return;
    targets = AlignedArray<T>(std::size_t(capacity) * network.n_targets());
    weights = AlignedArray<T>(capacity);
    shares = AlignedArray<T>(capacity);
    if (!sparse) return;
    first_deltas = AlignedArray<T>(std::size_t(capacity) * round_up(layers[0].n_out, R));
    first_gradient = AlignedArray<T>(std::size_t(round_up(layers[0].n_in, R) * layers[0].ldt));
  }

  T* row_copy(int i) const { return row_copies.data() + i * ld_rows; }

private:
  AlignedPieces<T> apart; // deltas that are not in place of their units
};

} // namespace fastmlp
