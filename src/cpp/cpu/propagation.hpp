// Forward and backward through the layers, for some panels of a batch on one thread.
#pragma once

#include "layout.hpp"

namespace fastmlp {

constexpr int panels_per_block = 8; // weights are read once for so many panels

template <class T> class Propagation {
public:
  Propagation(const Network& network, const Kernels<T>& kernels)
      : kernels(kernels), R(kernels.rows), n_targets(network.n_targets()) {
    std::vector<std::size_t> sizes;
    for (int l = 0; l < network.n_layers(); ++l) {
      Layer<T> layer{};
      layer.n_in = network.sizes[l];
      layer.n_out = network.sizes[l + 1];
      layer.activation = l + 1 == network.n_layers() ? -1 : network.activations[l];
      if (layer.activation >= 0)
        Activations::visit(layer.activation, [&](auto entry) { layer.keeps_z = !entry.slope_from_output; });
      layer.ldw = leading_dimension<T>(layer.n_in, R);
      layer.ldt = leading_dimension<T>(layer.n_out, R);
      sizes.push_back(std::size_t(round_up(layer.n_out, R) * layer.ldw));
      sizes.push_back(std::size_t(round_up(layer.n_out, R)));
      layers.push_back(std::move(layer));
    }
    memory = AlignedPieces<T>(sizes);
    for (std::size_t l = 0; l < layers.size(); ++l) {
      layers[l].w = memory[2 * l];
      layers[l].b = memory[2 * l + 1];
    }
  }

  // Panel `from` of the rows to panel `to` of the workspace; sparse rows go through the first layer at once.
  void enter(Workspace<T>& space, const Matrix<T>& X, const RowRange& rows, std::int64_t from, int to,
             T* scratch) const {
    const std::int64_t start = rows.first + from * R;
    const std::int64_t left = rows.n - from * R;
    const int n = int(std::min<std::int64_t>(R, left)), n_next = int(std::min<std::int64_t>(R, left - n));
    if (X.indptr) {
      PanelProduct<T> product = forward_product(space, 0, to, 1);
      product.M = layers[0].wt.data();
      product.ldm = layers[0].ldt;
      kernels.forward_sparse({X.data, X.indices, X.indptr, rows.numbers, start, n}, product, scratch);
      return;
    }
    kernels.gather(X.data, X.stride, rows.numbers, start, n, n_next, X.n_columns,
                   space.panels[0] + to * space.panel_stride[0],
                   space.training ? space.columns[0] + std::ptrdiff_t(to) * R * R : nullptr, space.column_stride);
  }

  // Targets and weights of a panel of rows; rows that are missing in the last panel weigh nothing.
  void enter_targets(Workspace<T>& space, const Dataset<T>& data, const RowRange& rows, int panel) const {
    T* y = space.targets.data() + std::ptrdiff_t(panel) * n_targets * R;
    T* weights = space.weights.data() + panel * R;
    if (data.labels) std::fill_n(y, n_targets * R, T(0));
    for (int i = 0; i < R; ++i) {
      const std::int64_t in_batch = std::int64_t(panel) * R + i, row = rows[std::min(in_batch, rows.n - 1)];
      weights[i] = in_batch >= rows.n ? T(0) : data.sample_weight ? data.sample_weight[row] : T(1);
      if (data.labels)
        y[data.labels[row] * R + i] = T(1);
      else
        for (int k = 0; k < n_targets; ++k) y[k * R + i] = data.y[row * n_targets + k];
    }
  }

  // Units of layer l + 1 from those of l; pre-activations at the output.
  void forward(Workspace<T>& space, int l, int panel, int count, T* scratch) const {
    if (l == 0 && space.sparse) return; // done by `enter`
    kernels.forward(forward_product(space, l, panel, count), scratch);
  }

  // Deltas of the units of layer l from those of l + 1, in place of the activations.
  void backward(Workspace<T>& space, int l, int panel, int count, T* scratch) const {
    const Layer<T>&above = layers[l], &below = layers[l - 1];
    PanelProduct<T> product{};
    product.M = above.w;
    product.ldm = above.ldw;
    if (l > 1) product.next = {below.w, below.ldw, std::min(below.n_out, soon), std::min(below.n_in, soon)};
    set_panels(space, l + 1, l, panel, product);
    if (below.keeps_z) product.z = space.z[l] + panel * product.out_stride;
    product.n_in = above.n_out;
    product.n_out = above.n_in;
    product.n_panels = count;
    product.activation = below.activation;
    kernels.backward(product, scratch);
  }

  const Kernels<T>& kernels;
  std::vector<Layer<T>> layers;

private:
  PanelProduct<T> forward_product(Workspace<T>& space, int l, int panel, int count) const {
    const Layer<T>& layer = layers[l];
    PanelProduct<T> product{};
    product.M = layer.w;
    product.ldm = layer.ldw;
    if (l + 1 < int(layers.size())) {
      const Layer<T>& above = layers[l + 1];
      product.next = {above.w, above.ldw, std::min(above.n_out, soon), std::min(above.n_in, soon)};
    }
    product.bias = layer.b;
    set_panels(space, l, l + 1, panel, product);
    if (layer.keeps_z && space.training) product.z = space.z[l + 1] + panel * product.out_stride;
    product.n_in = layer.n_in;
    product.n_out = layer.n_out;
    product.n_panels = count;
    product.activation = layer.activation;
    return product;
  }

  static void set_panels(Workspace<T>& space, int from, int to, int panel, PanelProduct<T>& product) {
    product.in_stride = space.panel_stride[from];
    product.out_stride = space.panel_stride[to];
    product.in = space.panels[from] + panel * product.in_stride;
    product.out = space.panels[to] + panel * product.out_stride;
  }

  static constexpr int soon = 128; // rows and columns of the next weights that are fetched ahead

  const int R, n_targets;
  AlignedPieces<T> memory; // of the layers
};

} // namespace fastmlp
