// Forward and backward through the layers, for some panels of a batch on one thread.
#pragma once

#include "layout.hpp"

namespace fastmlp {

constexpr int panels_per_block = 8; // weights are read once for so many panels

// Consecutive panels of a batch, and the thread's room for products.
template <class T> struct Block {
  int first, count;
  bool ends_in_half; // the last of them has rows for one register only
  T* scratch;
  RandomKey dropout;    // of this step
  int before = 0;       // panels of the batch that another workspace has
  bool streams = false; // columns, which other threads read
};

template <class T> class Propagation {
public:
  Propagation(const Network& network, const Kernels<T>& kernels)
      : network(network), kernels(kernels), R(kernels.rows), n_targets(network.n_targets()) {
    for (int l = 0; l < network.n_layers(); ++l) layers.push_back(describe(l));
    place_parameters();
  }

  void read(const T* flat) {
    for (const Parameter<T>& parameter : parameters) parameter.read(flat);
    for (Layer<T>& layer : layers) layer.refresh_transpose();
  }
  void write(T* flat) const {
    for (const Parameter<T>& parameter : parameters) parameter.write(flat);
  }
  // All that training changes, but for what statistics of units and sparse rows need besides.
  void copy_parameters(const Propagation& other) { memory.copy(other.memory); }
  void use_running_statistics() {
    for (Layer<T>& layer : layers) layer.use_running_statistics();
  }

  // A panel of rows to panel `to` of the workspace, or at once through the first product. The panel `next` will be read
  // next, if there are any.
  void enter(Workspace<T>& space, const Matrix<T>& X, const RowRange& rows, const RowRange& next, int to,
             const Block<T>& block) const {
    const DenseRows<T> dense{X.data, X.stride, rows.numbers, rows.first, next.first, int(rows.n), int(next.n)};
    if (space.in_place) {
      PanelProduct<T> product = forward_product(space, 0, {to, 1, false, block.scratch, {}});
      if (!space.sparse)
        return kernels.forward_of_rows(dense, product, space.row_copy(to * R), space.ld_rows, block.scratch);
      product.M = layers[0].wt.data();
      product.ldm = layers[0].ldt;
      kernels.forward_sparse({X.data, X.indices, X.indptr, rows.numbers, rows.first, int(rows.n)}, product,
                             block.scratch);
      return;
    }
    const bool drops = space.training && network.dropout[0] > 0 && block.dropout.is_set();
    const bool copies_later = drops || block.streams; // a panel is made from the columns just written
    T* panel = space.panels[0] + to * space.panel_stride[0];
    T* columns = space.training && !layers[0].is_narrow ? space.columns[0] + std::ptrdiff_t(to) * R * R : nullptr;
    if (X.indptr) return scatter(X, rows, panel);
    kernels.gather(dense, X.n_columns, panel, copies_later ? nullptr : columns, space.column_stride);
    if (drops) kernels.drop(dropout_of(0, to, block), X.n_columns, panel);
    if (columns && copies_later)
      kernels.panel_to_columns(panel, X.n_columns, columns, space.column_stride, block.streams);
  }

  // Targets and weights of a panel of rows; rows that are missing in the last panel weigh nothing.
  void enter_targets(const Dataset<T>& data, const RowRange& rows, std::int64_t panel, T* y, T* weights) const {
    const RowRange some = rows.panel(panel, R);
    const int n = int(some.n);
    std::int64_t row[most_panel_rows];
    for (int i = 0; i < R; ++i) row[i] = some[std::min(i, n - 1)];
    std::fill_n(weights, n, T(1));
    std::fill_n(weights + n, R - n, T(0));
    if (data.sample_weight)
      for (int i = 0; i < n; ++i) weights[i] = data.sample_weight[row[i]];
    if (data.labels) {
      std::fill_n(y, n_targets * R, T(0));
      for (int i = 0; i < R; ++i) y[data.labels[row[i]] * R + i] = T(1);
      return;
    }
    for (int k = 0; k < n_targets; ++k)
      for (int i = 0; i < R; ++i) y[k * R + i] = data.y[row[i] * n_targets + k];
  }

  void enter_targets(Workspace<T>& space, const Dataset<T>& data, const RowRange& rows, int panel) const {
    enter_targets(data, rows, panel, space.targets.data() + std::ptrdiff_t(panel) * n_targets * R,
                  space.weights.data() + panel * R);
  }

  // Sums of layer l + 1 from the units of l, and its activations unless there is more to do: see `activate`.
  void forward(Workspace<T>& space, int l, const Block<T>& block) const {
    const Layer<T>& layer = layers[l];
    PanelProduct<T> product = forward_product(space, l, block);
    if (l > 0 || !space.in_place) kernels.forward(product, block.scratch); // else rows entered through it
    if (!layer.projection) return;
    if (space.training) to_columns(space, space.z[l], l, block, space.z_columns[l]);
    product.addend = product.out;
    product.M = layer.projection;
    product.bias = nullptr;
    product.in = space.z[l] + block.first * product.in_stride;
    kernels.forward(product, block.scratch);
  }

  void activate(Workspace<T>& space, int l, const Block<T>& block) const {
    if (l == 0 || layers[l - 1].is_fused) return;
    for (int panel = block.first; panel < block.first + block.count; ++panel)
      kernels.activate(hidden_panel(space, l, panel, block), panel_of(space, l, panel));
  }

  // Deltas of the units of layer l from those of l + 1; where statistics of units are in between, without the way
  // through them: see `centre`.
  void backward(Workspace<T>& space, int l, const Block<T>& block) const {
    const Layer<T>&above = layers[l], &below = layers[l - 1];
    PanelProduct<T> product{};
    product.M = above.w;
    product.ldm = above.ldw;
    if (l > 1) product.next = start_of(below);
    set_deltas(space, l, block, product);
    product.activation = below.activation;
    if (below.is_fused) {
      if (below.keeps_z) product.z = space.z[l] + block.first * product.out_stride;
      return kernels.backward(product, block.scratch);
    }
    T* g = spare_room(block);
    product.out = g;
    product.activation = -1;
    kernels.backward(product, block.scratch);
    for (int i = 0; i < block.count; ++i) {
      const int panel = block.first + i;
      T* gradients = below.statistics == Statistics::none ? nullptr : sums_of(space, l, panel);
      kernels.differentiate(hidden_panel(space, l, panel, block), g + i * product.out_stride,
                            deltas_of(space, l, panel), gradients,
                            below.statistics == Statistics::of_units ? nullptr : skip(space, l, panel));
    }
    if (below.statistics != Statistics::of_units) add_projected(space, l, block);
  }

  // The rest of `backward` for statistics of units: deltas lose their mean `a` and their part along z, `b`.
  void centre(Workspace<T>& space, int l, const Block<T>& block, const T* a, const T* b) const {
    for (int panel = block.first; panel < block.first + block.count; ++panel)
      kernels.centre(hidden_panel(space, l, panel, block), space.shares.data() + panel * R, a, b,
                     deltas_of(space, l, panel), skip(space, l, panel));
    add_projected(space, l, block);
  }

  // What the weight gradient of layer l reads, where that is not the panels.
  void keep_inputs(Workspace<T>& space, int l, const Block<T>& block) const {
    if (l > 0 && !layers[l].is_narrow) to_columns(space, space.panels[l], l, block, space.columns[l]);
  }

  void to_columns(Workspace<T>& space, const T* panels, int l, const Block<T>& block, T* columns) const {
    for (int panel = block.first; panel < block.first + block.count; ++panel)
      kernels.panel_to_columns(panels + panel * space.panel_stride[l], network.sizes[l],
                               columns + std::ptrdiff_t(panel) * R * R, space.column_stride, block.streams);
  }

  // Room for a block's products, and for what comes back to a layer before its activation.
  std::size_t scratch_size() const {
    std::ptrdiff_t widest = 0;
    for (const Layer<T>& layer : layers)
      if (!layer.is_fused || (&layer == &layers.back() && layer.activation >= 0))
        widest = std::max(widest, round_up(layer.n_out, R));
    return kernels.scratch_size(panels_per_block, network.sizes[1]) + std::size_t(widest) * R * panels_per_block;
  }
  T* spare_room(const Block<T>& block) const { // behind that of products
    return block.scratch + kernels.scratch_size(panels_per_block, network.sizes[1]);
  }

  // Deltas of the output activation from `gradients`, in place of a panel of outputs.
  void differentiate_outputs(Workspace<T>& space, int panel, const T* gradients) const {
    const int l = network.n_layers();
    HiddenPanel<T> outputs{};
    outputs.n = network.n_outputs();
    outputs.activation = layers.back().activation;
    outputs.z = space.z[l] + panel * space.panel_stride[l];
    kernels.differentiate(outputs, gradients, panel_of(space, l, panel), nullptr, nullptr);
  }

  T* panel_of(const Workspace<T>& space, int l, int panel) const {
    return space.panels[l] + panel * space.panel_stride[l];
  }
  T* deltas_of(const Workspace<T>& space, int l, int panel) const {
    return space.deltas[l] + panel * space.panel_stride[l];
  }
  // Whether rows of X enter through the first product, stored values only.
  bool enters_sparse(const Matrix<T>& X) const { return X.indptr && !layers[0].is_narrow; }
  // Per unit of layer l and panel: moments of z, or gradients of scale and offset.
  T* sums_of(const Workspace<T>& space, int l, int panel) const {
    return space.sums[l] + std::ptrdiff_t(panel) * 2 * network.sizes[l];
  }

  const Network& network;
  const Kernels<T>& kernels;
  std::vector<Layer<T>> layers;
  std::vector<Parameter<T>> parameters;

private:
  Layer<T> describe(int l) const {
    Layer<T> layer{};
    const bool hidden = l + 1 < network.n_layers();
    layer.n_in = network.sizes[l];
    layer.n_out = network.sizes[l + 1];
    layer.activation = network.activation_of(l);
    layer.has_skip = network.has_skip(l);
    layer.dropout = hidden ? network.dropout[l + 1] : 0;
    if (hidden) {
      layer.normalization = network.normalizations[l];
      Normalizations::visit(layer.normalization, [&](auto entry) {
        layer.statistics = entry.statistics;
        layer.centred = entry.centred;
      });
      Activations::visit(layer.activation, [&](auto entry) { layer.keeps_z = !entry.slope_from_output; });
    }
    layer.reads_rows = l == 0 && layer.n_out <= few_neurons && layer.n_in >= many_inputs;
    layer.is_narrow =
        std::min(layer.n_in, layer.n_out) <= few_units && !layer.reads_rows && (l == 0 || layers.back().is_fused);
    layer.is_fused = network.is_direct(l) && layer.dropout == 0;
    layer.keeps_z = layer.keeps_z || !layer.is_fused || (!hidden && layer.activation >= 0);
    if (layer.statistics == Statistics::of_units) layer.unit_statistics = AlignedArray<T>(2 * std::size_t(layer.n_out));
    layer.ldw = leading_dimension<T>(layer.n_in, R);
    layer.ldt = leading_dimension<T>(layer.n_out, R);
    return layer;
  }

  void place_parameters() {
    using P = Parameter<T>;
    const auto add = [&](typename P::Role role, int l, std::ptrdiff_t flat) {
      if (flat == Network::none) return;
      const Layer<T>& layer = layers[l];
      if (role == P::weights || role == P::projection)
        parameters.push_back({role, l, flat, layer.n_out, layer.n_in, layer.ldw, nullptr});
      else
        parameters.push_back({role, l, flat, 1, layer.n_out, round_up(layer.n_out, R), nullptr});
    };
    for (int l = 0; l < network.n_layers(); ++l) {
      add(P::weights, l, network.coefs[l]);
      add(P::bias, l, network.biases[l]);
      add(P::projection, l, network.projections[l]);
      if (l + 1 == network.n_layers()) break;
      add(P::scale, l, network.scales[l]);
      add(P::offset, l, network.offsets[l]);
      add(P::running_mean, l, network.means[l]);
      add(P::running_variance, l, network.variances[l]);
    }
    std::vector<std::size_t> sizes;
    for (const P& p : parameters) sizes.push_back(std::size_t(p.is_matrix() ? round_up(p.rows, R) * p.ld : p.ld));
    memory = AlignedPieces<T>(sizes);
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      P& p = parameters[i];
      Layer<T>& layer = layers[p.layer];
      T** const places[] = {&layer.w,
                            &layer.b,
                            &layer.scale,
                            &layer.offset,
                            &layer.projection,
                            &layer.running_mean,
                            &layer.running_variance};
      p.data = *places[p.role] = memory[i];
    }
  }

  PanelProduct<T> forward_product(Workspace<T>& space, int l, const Block<T>& block) const {
    const Layer<T>& layer = layers[l];
    PanelProduct<T> product{};
    product.M = layer.w;
    product.ldm = layer.ldw;
    if (l + 1 < int(layers.size())) product.next = start_of(layers[l + 1]);
    product.bias = layer.b;
    set_panels(space, l, l + 1, block, product);
    product.n_in = layer.n_in;
    product.n_out = layer.n_out;
    product.n_panels = block.count;
    product.ends_in_half = block.ends_in_half;
    product.activation = layer.activation;
    T* z = layer.keeps_z && (space.training || !layer.is_fused) ? space.z[l + 1] + block.first * product.out_stride
                                                                : nullptr;
    if (layer.is_fused) {
      product.z = z;
      return product;
    }
    product.out = z;
    product.activation = -1;
    if (layer.has_skip && !layer.projection) product.addend = space.z[l] + block.first * product.in_stride;
    return product;
  }

  static void set_panels(const Workspace<T>& space, int from, int to, const Block<T>& block, PanelProduct<T>& product) {
    product.in_stride = space.panel_stride[from];
    product.out_stride = space.panel_stride[to];
    product.in = space.panels[from] + block.first * product.in_stride;
    product.out = space.panels[to] + block.first * product.out_stride;
  }

  // From the deltas of layer l + 1 to those of layer l.
  void set_deltas(const Workspace<T>& space, int l, const Block<T>& block, PanelProduct<T>& product) const {
    product.in_stride = space.panel_stride[l + 1];
    product.out_stride = space.panel_stride[l];
    product.in = space.deltas[l + 1] + block.first * product.in_stride;
    product.out = space.deltas[l] + block.first * product.out_stride;
    product.a = space.panels[l] + block.first * product.out_stride;
    product.n_in = layers[l].n_out;
    product.n_out = layers[l].n_in;
    product.n_panels = block.count;
    product.ends_in_half = block.ends_in_half;
  }

  HiddenPanel<T> hidden_panel(const Workspace<T>& space, int l, int panel, const Block<T>& block) const {
    const Layer<T>& layer = layers[l - 1];
    T* statistics = layer.unit_statistics.data();
    if (layer.statistics == Statistics::of_rows) statistics = space.statistics[l] + std::ptrdiff_t(panel) * 2 * R;
    const int n = layer.statistics == Statistics::of_rows ? R : layer.n_out;
    return {layer.n_out,
            layer.activation,
            layer.statistics,
            layer.centred,
            layer.scale,
            layer.offset,
            statistics,
            statistics ? statistics + n : nullptr,
            space.z[l] + panel * space.panel_stride[l],
            dropout_of(l, panel, block)};
  }

  Dropout<T> dropout_of(int l, int panel, const Block<T>& block) const {
    const double share = network.dropout[l];
    if (share == 0 || !block.dropout.is_set()) return {};
    return {block.dropout.of(std::uint64_t(l)), std::uint32_t(share * 4294967296.0),
            std::uint32_t(block.before + panel) * R, T(1 / (1 - share))};
  }

  // Deltas that reach layer l along a skip from above, as they are; null if none do, or through a projection.
  const T* skip(const Workspace<T>& space, int l, int panel) const {
    return layers[l].has_skip && !layers[l].projection ? deltas_of(space, l + 1, panel) : nullptr;
  }

  void add_projected(Workspace<T>& space, int l, const Block<T>& block) const {
    const Layer<T>& above = layers[l];
    if (!above.projection) return;
    PanelProduct<T> product{};
    product.M = above.projection;
    product.ldm = above.ldw;
    set_deltas(space, l, block, product);
    product.addend = product.out;
    kernels.backward(product, block.scratch);
  }

  // The dense rows of a narrow first layer; missing ones repeat the last.
  void scatter(const Matrix<T>& X, const RowRange& rows, T* panel) const {
    std::fill_n(panel, round_up(X.n_columns, R) * R, T(0));
    for (int i = 0; i < R; ++i) {
      const std::int64_t row = rows[std::min<std::int64_t>(i, rows.n - 1)];
      for (std::int64_t e = X.indptr[row]; e < X.indptr[row + 1]; ++e) panel[X.indices[e] * R + i] += X.data[e];
    }
  }

  // The weights that the next product begins with, to be fetched ahead; small networks are in the cache.
  Region<T> start_of(const Layer<T>& layer) const {
    constexpr int most = 128;
    if (network.n_parameters <= few_parameters) return {};
    return {layer.w, layer.ldw, std::min(layer.n_out, most), std::min(layer.n_in, most)};
  }

  const int R, n_targets;
  AlignedPieces<T> memory; // of the parameters
};

} // namespace fastmlp
