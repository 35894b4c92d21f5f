// Forward and backward through the layers, for some panels of a batch on one thread.
#pragma once

#include "layout.hpp"

namespace fastmlp {

template <class T> class Propagation {
public:
  Propagation(const Network& network, const Kernels<T>& kernels)
      : kernels(kernels), R(kernels.rows), n_outputs(network.n_outputs()) {
    for (int l = 0; l < network.n_layers(); ++l) {
      const int activation = l + 1 == network.n_layers() ? -1 : network.activations[l];
      layers.emplace_back(network.sizes[l], network.sizes[l + 1], activation, R);
    }
  }

  // Panel `from` of the rows to panel `to` of the workspace; sparse rows go through the first layer at once.
  void enter(Workspace<T>& space, const Matrix<T>& X, const RowRange& rows, std::int64_t from, int to,
             T* scratch) const {
    const std::int64_t start = rows.first + from * R;
    const int n = int(std::min<std::int64_t>(R, rows.n - from * R));
    if (X.indptr) {
      PanelProduct<T> product = forward_product(space, 0, to, 1);
      product.M = layers[0].wt.data();
      product.ldm = layers[0].ldt;
      kernels.forward_sparse({X.data, X.indices, X.indptr, rows.numbers, start, n}, product, scratch);
      return;
    }
    kernels.gather(X.data, X.stride, rows.numbers, start, n, X.n_columns,
                   space.panels[0].data() + to * space.panel_stride[0],
                   space.columns[0].data() + std::ptrdiff_t(to) * R * R, space.column_stride);
  }

  // Targets and weights of a panel of rows; rows that are missing in the last panel weigh nothing.
  void enter_targets(Workspace<T>& space, const Dataset<T>& data, const RowRange& rows, int panel) const {
    T* y = space.targets.data() + std::ptrdiff_t(panel) * n_outputs * R;
    T* weights = space.weights.data() + panel * R;
    for (int i = 0; i < R; ++i) {
      const std::int64_t in_batch = std::int64_t(panel) * R + i, row = rows[std::min(in_batch, rows.n - 1)];
      weights[i] = in_batch >= rows.n ? T(0) : data.sample_weight ? data.sample_weight[row] : T(1);
      for (int k = 0; k < n_outputs; ++k)
        y[k * R + i] = data.labels ? T(data.labels[row] == k) : data.y[row * n_outputs + k];
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
    product.M = above.wt.data();
    product.ldm = above.ldt;
    set_panels(space, l + 1, l, panel, product);
    if (below.keeps_z) product.z = space.z[l].data() + panel * product.out_stride;
    product.n_in = above.n_out;
    product.n_out = above.n_in;
    product.n_panels = count;
    product.activation = below.activation;
    kernels.backward(product, scratch);
  }

  std::vector<Layer<T>> layers;

private:
  PanelProduct<T> forward_product(Workspace<T>& space, int l, int panel, int count) const {
    const Layer<T>& layer = layers[l];
    PanelProduct<T> product{};
    product.M = layer.w.data();
    product.ldm = layer.ldw;
    product.bias = layer.b.data();
    set_panels(space, l, l + 1, panel, product);
    if (layer.keeps_z) product.z = space.z[l + 1].data() + panel * product.out_stride;
    product.n_in = layer.n_in;
    product.n_out = layer.n_out;
    product.n_panels = count;
    product.activation = layer.activation;
    return product;
  }

  static void set_panels(Workspace<T>& space, int from, int to, int panel, PanelProduct<T>& product) {
    product.in_stride = space.panel_stride[from];
    product.out_stride = space.panel_stride[to];
    product.in = space.panels[from].data() + panel * product.in_stride;
    product.out = space.panels[to].data() + panel * product.out_stride;
  }

  const Kernels<T>& kernels;
  const int R, n_outputs;
};

} // namespace fastmlp
