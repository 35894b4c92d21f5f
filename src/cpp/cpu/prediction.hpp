// Predictions: rows through the layers, in panels on some threads, or one by one.
#pragma once

#include "propagation.hpp"
#include "threads.hpp"

namespace fastmlp {

// The weights [n_in][ldw] and biases of a layer as a row meets them; `n_out` may count padding.
template <class T> struct RowWeights {
  const T* w;
  std::ptrdiff_t ldw;
  const T* b;
  int n_out;
};

template <class T> struct Prediction {
  const Network& network;
  const Propagation<T>& propagation;

  // Output of `layer` for many rows, to out (n, sizes[layer]), with the parameters of `propagation`.
  void by_panel(const Matrix<T>& X, const RowRange& rows, int layer, int most_threads, T* out) const {
    const Kernels<T>& kernels = propagation.kernels;
    const int R = kernels.rows;
    const std::int64_t n_panels = (rows.n + R - 1) / R;
    const int n_threads =
        int(std::min<std::int64_t>(most_threads, (n_panels + panels_per_block - 1) / panels_per_block));
    std::vector<Workspace<T>> spaces; // a block of panels for each thread
    std::vector<AlignedArray<T>> scratch;
    for (int i = 0; i < n_threads; ++i) {
      spaces.emplace_back(network, propagation.layers, R, int(std::min<std::int64_t>(n_panels, panels_per_block)) * R,
                          X.indptr != nullptr, false);
      scratch.emplace_back(kernels.scratch_size(panels_per_block, network.sizes[1]));
    }
    parallel(n_threads, [&](const Team& team) {
      const FlushDenormals mode;
      const std::int64_t end = part(n_panels, team, 1);
      for (std::int64_t p = part(n_panels, team); p < end; p += panels_per_block) {
        const int count = int(std::min<std::int64_t>(panels_per_block, end - p));
        block(spaces[team.thread], X, rows, p, count, layer, scratch[team.thread].data(), out);
      }
    });
  }

  // The same for few dense rows, from the flat parameters.
  void by_row(const T* parameters, const Matrix<T>& X, const RowRange& rows, int layer, T* out) const {
    const FlushDenormals mode;
    const int widest = *std::max_element(network.sizes.begin(), network.sizes.end());
    const std::ptrdiff_t room = round_up(widest, propagation.kernels.rows);
    const AlignedArray<T> buffers(2 * room);
    const auto weights = [&](int l) -> RowWeights<T> {
      const int n_out = network.sizes[l + 1];
      return {parameters + network.coefs[l], n_out, parameters + network.biases[l], n_out};
    };
    for (std::int64_t i = 0; i < rows.n; ++i)
      row(weights, X.data + rows[i] * X.stride, layer, buffers.data(), buffers.data() + room,
          out + i * network.sizes[layer]);
  }

  // One row, with the weights that `weights(l)` gives; `from` and `to` have room for a layer.
  template <class Weights> void row(Weights&& weights, const T* x, int layer, T* from, T* to, T* out) const {
    const Kernels<T>& kernels = propagation.kernels;
    for (int l = 0; l < layer; ++l) {
      const RowWeights<T> w = weights(l);
      kernels.forward_row(w.w, w.ldw, w.b, l ? from : x, network.sizes[l], w.n_out, propagation.layers[l].activation,
                          to);
      std::swap(from, to);
    }
    if (layer == network.n_layers()) kernels.link_row(network.row_loss(), from);
    std::copy_n(from, network.sizes[layer], out);
  }

private:
  void block(Workspace<T>& space, const Matrix<T>& X, const RowRange& rows, std::int64_t first_panel, int count,
             int layer, T* scratch, T* out) const {
    const Kernels<T>& kernels = propagation.kernels;
    for (int p = 0; p < count; ++p) propagation.enter(space, X, rows, first_panel + p, p, scratch);
    for (int l = 0; l < layer; ++l) propagation.forward(space, l, 0, count, scratch);
    const int width = network.sizes[layer], R = kernels.rows;
    for (int p = 0; p < count; ++p) {
      T* panel = space.panels[layer] + p * space.panel_stride[layer];
      if (layer == network.n_layers()) kernels.link(network.row_loss(), panel);
      const std::int64_t start = (first_panel + p) * R;
      kernels.panel_to_rows(panel, width, int(std::min<std::int64_t>(R, rows.n - start)), out + start * width, width);
    }
  }
};

} // namespace fastmlp
