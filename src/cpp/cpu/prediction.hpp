// Predictions: rows through the layers, in panels on some threads, or one by one.
#pragma once

#include "propagation.hpp"
#include "threads.hpp"

namespace fastmlp {

constexpr int panels_at_once = 16; // weights are read once for so many: more than in training, which keeps more of each
constexpr int few_rows = 4;        // packing the weights for panels costs about as much as so many rows one by one

// The weights [n_in][ldw] and biases of a layer as a row meets them; `n_out` may count padding.
template <class T> struct RowWeights {
  const T* w;
  std::ptrdiff_t ldw;
  const T* b;
  int n_out;
};

// Output of `layer` for dense rows one by one, to out (n, sizes[layer]), with the weights that `weights(l)` gives.
template <class T, class Weights>
void predict_by_row(const Network& network, const Kernels<T>& kernels, const Weights& weights, const Matrix<T>& X,
                    const RowRange& rows, int layer, T* out) {
  thread_local AlignedArray<T> buffers; // no allocation from call to call
  thread_local std::ptrdiff_t room = 0;
  const std::ptrdiff_t widest = round_up(*std::max_element(network.sizes.begin(), network.sizes.end()), kernels.rows);
  if (room < widest) {
    buffers = AlignedArray<T>(std::size_t(2 * widest));
    room = widest;
  }
  const FlushDenormals mode;
  for (std::int64_t i = 0; i < rows.n; ++i) {
    const T* from = X.data + rows[i] * X.stride;
    T *to = buffers.data(), *next = to + room;
    for (int l = 0; l < layer; ++l) {
      const RowWeights<T> w = weights(l);
      const int activation = l + 1 < network.n_layers() ? network.activations[l] : -1;
      kernels.forward_row(w.w, w.ldw, w.b, from, network.sizes[l], w.n_out, activation, to);
      if (l + 1 == network.n_layers()) kernels.link_row(network.loss, to, network.n_outputs());
      from = to;
      std::swap(to, next);
    }
    std::copy_n(from, network.sizes[layer], out + i * network.sizes[layer]);
  }
}

// The same from the flat parameters, as they lie.
template <class T>
void predict_by_row(const Network& network, const Kernels<T>& kernels, const T* parameters, const Matrix<T>& X,
                    const RowRange& rows, int layer, T* out) {
  const auto weights = [&](int l) -> RowWeights<T> {
    const int n_out = network.sizes[l + 1];
    return {parameters + network.coefs[l], n_out, parameters + network.biases[l], n_out};
  };
  predict_by_row(network, kernels, weights, X, rows, layer, out);
}

template <class T> struct PanelPrediction {
  const Network& network;
  const Propagation<T>& propagation;

  // Output of `layer` for many rows, panel by panel on some threads, with the parameters of `propagation`. Each panel's
  // rows, n from `first`, must please `accepts(first, n)`: it returns false, with `out` unfinished, if some do not.
  template <class Accepts>
  bool run(const Matrix<T>& X, const RowRange& rows, int layer, int most_threads, T* out,
           const Accepts& accepts) const {
    const Kernels<T>& kernels = propagation.kernels;
    const int R = kernels.rows;
    const std::int64_t n_panels = (rows.n + R - 1) / R;
    const int n_threads =
        int(std::min<std::int64_t>(most_threads, (n_panels + panels_per_block - 1) / panels_per_block));
    std::vector<Workspace<T>> spaces; // a block of panels for each thread
    std::vector<AlignedArray<T>> scratch;
    for (int i = 0; i < n_threads; ++i) {
      spaces.emplace_back(network, propagation.layers, R, int(std::min<std::int64_t>(n_panels, panels_at_once)) * R,
                          X.indptr != nullptr, false);
      scratch.emplace_back(kernels.scratch_size(panels_at_once, network.sizes[1]));
    }
    std::atomic<bool> accepted{true};
    parallel(n_threads, [&](const Team& team) {
      const FlushDenormals mode;
      const std::int64_t end = part(n_panels, team, 1);
      for (std::int64_t p = part(n_panels, team); p < end && accepted; p += panels_at_once) {
        const int count = int(std::min<std::int64_t>(panels_at_once, end - p));
        if (!block(spaces[team.thread], X, rows, p, count, layer, scratch[team.thread].data(), out, accepts))
          accepted = false;
      }
    });
    return accepted;
  }

private:
  template <class Accepts>
  bool block(Workspace<T>& space, const Matrix<T>& X, const RowRange& rows, std::int64_t first_panel, int count,
             int layer, T* scratch, T* out, const Accepts& accepts) const {
    const Kernels<T>& kernels = propagation.kernels;
    const int width = network.sizes[layer], R = kernels.rows;
    const auto rows_of = [&](std::int64_t panel) { return int(std::min<std::int64_t>(R, rows.n - panel * R)); };
    for (int p = 0; p < count; ++p) { // rows are looked at when they are about to be read anyway
      if (!accepts((first_panel + p) * R, rows_of(first_panel + p))) return false;
      propagation.enter(space, X, rows, first_panel + p, p, scratch);
    }
    for (int l = 0; l < layer; ++l) propagation.forward(space, l, 0, count, scratch);
    for (int p = 0; p < count; ++p) {
      T* panel = space.panels[layer] + p * space.panel_stride[layer];
      if (layer == network.n_layers()) kernels.link(network.loss, panel, width);
      kernels.panel_to_rows(panel, width, rows_of(first_panel + p), out + (first_panel + p) * R * width, width);
    }
    return true;
  }
};

} // namespace fastmlp
