// Predictions: rows through the layers, in panels on some threads, or one by one.
#pragma once

#include "outside_loss.hpp"
#include "propagation.hpp"
#include "threads.hpp"

#include <numeric>
#include <optional>

namespace fastmlp {

constexpr int panels_at_once = 16; // weights are read once for so many: more than in training, which keeps more of each
constexpr int few_rows = 4;        // packing the weights for panels costs about as much as so many rows one by one

// A layer as a row meets it: weights and, or null, projection [n_in][ldw], and biases; `n_out` may count padding.
// Without `hidden` there is nothing between the sums and the activation, and no skip that needs them.
template <class T> struct RowLayer {
  const T* w;
  std::ptrdiff_t ldw;
  const T* b;
  int n_out;
  const T* projection;
  std::optional<HiddenRow<T>> hidden;
};

// Room for one row on its way, kept from call to call.
template <class T> struct RowSpace {
  T *units, *next_units, *sums, *next_sums, *spare;

  explicit RowSpace(std::ptrdiff_t widest) {
    thread_local AlignedArray<T> memory;
    thread_local std::ptrdiff_t room = 0;
    if (room < widest) {
      memory = AlignedArray<T>(std::size_t(5 * widest));
      room = widest;
    }
    T** const places[] = {&units, &next_units, &sums, &next_sums, &spare};
    for (int i = 0; i < 5; ++i) *places[i] = memory.data() + i * room;
  }
};

// To the sums of a layer those of the layer below.
template <class T>
void add_skip(const Network& network, const Kernels<T>& kernels, const RowLayer<T>& w, int l, RowSpace<T>& space) {
  const T* below = space.sums;
  if (w.projection) {
    below = space.next_units;
    kernels.forward_row(w.projection, w.ldw, nullptr, space.sums, network.sizes[l], w.n_out, -1, space.next_units);
  }
  for (int j = 0; j < w.n_out; ++j) space.next_sums[j] += below[j];
}

// Output of `layer` for dense rows one by one, to out (n, sizes[layer]). `layers(l, room)` gives the layers of weights;
// `room` is for as many numbers as a layer has units.
template <class T, class Layers>
void predict_by_row(const Network& network, const Kernels<T>& kernels, const Layers& layers, const Matrix<T>& X,
                    const RowRange& rows, int layer, T* out) {
  RowSpace<T> space(round_up(*std::max_element(network.sizes.begin(), network.sizes.end()), kernels.rows));
  const FlushDenormals mode;
  for (std::int64_t i = 0; i < rows.n; ++i) {
    const T* from = X.data + rows[i] * X.stride;
    for (int l = 0; l < layer; ++l) {
      const RowLayer<T> w = layers(l, space.spare);
      const bool last = l + 1 == network.n_layers();
      const int activation = w.hidden ? -1 : network.activation_of(l);
      T* const to = w.hidden ? space.next_sums : space.next_units;
      kernels.forward_row(w.w, w.ldw, w.b, from, network.sizes[l], w.n_out, activation, to);
      if (w.hidden) {
        if (network.has_skip(l)) add_skip(network, kernels, w, l, space);
        kernels.activate_row(*w.hidden, space.next_sums, space.next_units);
      }
      if (last) kernels.link_row(network.row_loss(), to);
      from = space.next_units;
      std::swap(space.units, space.next_units);
      std::swap(space.sums, space.next_sums);
    }
    std::copy_n(from, network.sizes[layer], out + i * network.sizes[layer]);
  }
}

// The same from the flat parameters, as they lie.
template <class T>
void predict_by_row(const Network& network, const Kernels<T>& kernels, const T* parameters, const Matrix<T>& X,
                    const RowRange& rows, int layer, T* out) {
  const auto at = [&](std::ptrdiff_t start) { return start == Network::none ? nullptr : parameters + start; };
  const auto layers = [&](int l, T* inverse) -> RowLayer<T> {
    const int n_out = network.sizes[l + 1];
    RowLayer<T> w{at(network.coefs[l]), n_out, at(network.biases[l]), n_out, at(network.projections[l]), {}};
    if (network.is_direct(l)) return w;
    HiddenRow<T> hidden{n_out,
                        network.activations[l],
                        Statistics::none,
                        false,
                        at(network.scales[l]),
                        at(network.offsets[l]),
                        at(network.means[l]),
                        inverse};
    Normalizations::visit(network.normalizations[l], [&](auto entry) {
      hidden.statistics = entry.statistics;
      hidden.centred = entry.centred;
    });
    if (hidden.statistics == Statistics::of_units) invert_deviations(at(network.variances[l]), n_out, inverse);
    w.hidden = hidden;
    return w;
  };
  predict_by_row(network, kernels, layers, X, rows, layer, out);
}

template <class T> struct PanelPrediction {
  const Network& network;
  const Propagation<T>& propagation;

  // Output of `layer` for many rows, panel by panel on some threads, with the parameters of `propagation`. Each panel's
  // rows, n from `first`, must please `accepts(first, n)`: it returns false, with `out` unfinished, if some do not.
  template <class Accepts>
  bool run(const Matrix<T>& X, const RowRange& rows, int layer, int most_threads, T* out,
           const Accepts& accepts) const {
    return run(X, rows, layer, most_threads, out, accepts, [](std::int64_t, const T*) {});
  }

  // The same for the rows of a dataset; returns their weighted mean loss, 0 if the weights sum to 0.
  double evaluate(const Dataset<T>& data, const RowRange& rows, int most_threads, T* out) const {
    const Batch<T> batch(data, rows, propagation.kernels.rows);
    if (data.loss) return evaluate_outside(batch, most_threads, out);
    const std::ptrdiff_t R = batch.R, n_targets = network.n_targets(), n_outputs = network.n_outputs();
    std::vector<double> losses(std::size_t(batch.n_panels)); // of panels, so that their sum has one order
    const auto all = [](std::int64_t, int) { return true; };
    run(data.X, rows, network.n_layers(), most_threads, out, all, [&](std::int64_t panel, const T* z) {
      const AlignedArray<T> memory(std::size_t((n_targets + n_outputs + 1) * R));
      T *y = memory.data(), *delta = y + n_targets * R, *weights = delta + n_outputs * R;
      propagation.enter_targets(data, rows, panel, y, weights);
      std::copy_n(z, n_outputs * R, delta);
      losses[std::size_t(panel)] = propagation.kernels.loss(network.row_loss(), delta, y, weights);
    });
    const double sum = std::accumulate(losses.begin(), losses.end(), 0.0);
    return batch.weight != 0 ? sum / batch.weight : 0;
  }

private:
  double evaluate_outside(const Batch<T>& batch, int most_threads, T* out) const {
    OutsideLoss<T> outside(propagation.kernels, network.n_outputs());
    outside.prepare(batch.rows.n);
    const auto all = [](std::int64_t, int) { return true; };
    run(batch.data.X, batch.rows, network.n_layers(), most_threads, out, all,
        [&](std::int64_t panel, const T* z) { outside.take(z, panel * batch.R, batch.rows_of(panel)); });
    outside.evaluate(batch);
    return outside.mean;
  }

  // `judge(panel, z)` sees the last layer of each panel before its link.
  template <class Accepts, class Judge>
  bool run(const Matrix<T>& X, const RowRange& rows, int layer, int most_threads, T* out, const Accepts& accepts,
           const Judge& judge) const {
    const Kernels<T>& kernels = propagation.kernels;
    const int R = kernels.rows;
    const std::int64_t n_panels = (rows.n + R - 1) / R;
    const int n_threads =
        int(std::min<std::int64_t>(most_threads, (n_panels + panels_per_block - 1) / panels_per_block));
    std::vector<Workspace<T>> spaces; // a block of panels for each thread
    std::vector<AlignedArray<T>> scratch;
    for (int i = 0; i < n_threads; ++i) {
      spaces.emplace_back(network, propagation.layers, R, int(std::min<std::int64_t>(n_panels, panels_at_once)) * R,
                          propagation.enters_sparse(X), false);
      scratch.emplace_back(kernels.scratch_size(panels_at_once, network.sizes[1]));
    }
    std::atomic<bool> accepted{true};
    parallel(n_threads, [&](const Team& team) {
      const FlushDenormals mode;
      const std::int64_t end = part(n_panels, team, 1);
      for (std::int64_t p = part(n_panels, team); p < end && accepted; p += panels_at_once) {
        const int count = int(std::min<std::int64_t>(panels_at_once, end - p));
        if (!block(spaces[team.thread], X, rows, p, count, layer, scratch[team.thread].data(), out, accepts, judge))
          accepted = false;
      }
    });
    return accepted;
  }

  template <class Accepts, class Judge>
  bool block(Workspace<T>& space, const Matrix<T>& X, const RowRange& rows, std::int64_t first_panel, int count,
             int layer, T* scratch, T* out, const Accepts& accepts, const Judge& judge) const {
    const Kernels<T>& kernels = propagation.kernels;
    const int width = network.sizes[layer], R = kernels.rows;
    const auto rows_of = [&](std::int64_t panel) { return int(std::min<std::int64_t>(R, rows.n - panel * R)); };
    const Block<T> all{0, count, rows_of(first_panel + count - 1) <= R / 2, scratch, {}};
    for (int p = 0; p < count; ++p) { // rows are looked at when they are about to be read anyway
      if (!accepts((first_panel + p) * R, rows_of(first_panel + p))) return false;
      propagation.enter(space, X, rows.panel(first_panel + p, R), rows.panel(first_panel + p + 1, R), p, all);
    }
    for (int l = 0; l < layer; ++l) {
      propagation.forward(space, l, all);
      propagation.activate(space, l + 1, all);
    }
    for (int p = 0; p < count; ++p) {
      T* panel = space.panels[layer] + p * space.panel_stride[layer];
      if (layer == network.n_layers()) {
        judge(first_panel + p, panel);
        kernels.link(network.row_loss(), panel);
      }
      kernels.panel_to_rows(panel, width, rows_of(first_panel + p), out + (first_panel + p) * R * width, width);
    }
    return true;
  }
};

} // namespace fastmlp
