// The first phase of a step: rows through all layers and back, until each layer has its deltas.
#pragma once

#include "outside_loss.hpp"
#include "propagation.hpp"
#include "threads.hpp"

namespace fastmlp {

template <class T> class Deltas {
public:
  explicit Deltas(Propagation<T>& propagation)
      : network(propagation.network), kernels(propagation.kernels), R(kernels.rows), propagation(propagation),
        layers(propagation.layers), outside(kernels, network.n_outputs()) {
    for (int l = 0; l < network.n_layers(); ++l)
      if (layers[l].statistics == Statistics::of_units) cuts.push_back(l + 1);
    if (needs_all_rows())
      unit_sums = AlignedArray<T>(2 * std::size_t(*std::max_element(network.sizes.begin(), network.sizes.end())));
    cuts.push_back(network.n_layers());
  }

  // Buffers for batches of `rows` rows of X, `n_outside` of them at once for a loss from outside.
  void prepare(int rows, const Matrix<T>& X, std::int64_t n_outside) {
    const bool sparse = propagation.enters_sparse(X);
    outside.prepare(n_outside);
    if (space.capacity < rows || space.sparse != sparse) space = Workspace<T>(network, layers, R, rows, sparse, true);
    if (sparse) layers[0].keep_transpose(R);
  }

  // Whether there are statistics over the rows of a batch, so that it must not be taken in parts.
  bool needs_all_rows() const { return cuts.size() > 1 && cuts[1] < network.n_layers(); }

  // How much of the way a batch goes: a loss from outside wants the outputs of all rows, also where these are taken in
  // parts. Each part goes to its outputs, the loss is asked, and each part goes the whole way with known gradients.
  enum class Way { there_and_back, to_outputs, with_known_gradients };

  // Block by block through all layers and back; `before`: see Block. Statistics of units, which need all rows, cut this
  // into pieces, and so does a loss from outside: false if it has failed.
  bool compute(const Batch<T>& batch, RandomKey dropout, T* scratch, const Team& team, Way way = Way::there_and_back,
               int before = 0) {
    const std::int64_t start = way == Way::there_and_back ? 0 : batch.rows.first;
    const bool asks = batch.data.loss && way != Way::with_known_gradients;
    const int last = int(cuts.size()) - 1;
    const auto for_each_block = [&](auto&& visit) {
      const int end = int(part(batch.n_panels, team, 1));
      for (int p = int(part(batch.n_panels, team)); p < end; p += panels_per_block) {
        const int count = std::min(panels_per_block, end - p);
        visit(Block<T>{p, count, batch.rows_of(p + count - 1) <= R / 2, scratch, dropout, before, team.streams});
      }
    };
    for (int i = 0; i < last; ++i) {
      for_each_block([&](const Block<T>& block) {
        if (i == 0) enter(batch, block, team);
        forward(block, cuts[i], cuts[i + 1]);
        if (i + 1 < last) return moments(block, cuts[i + 1]);
        if (asks) return hand_over(batch, block, start);
        loss(batch, block, start);
        backward(block, cuts[i + 1], cuts[i]);
      });
      if (i + 1 < last) combine_moments(batch, cuts[i + 1], team);
    }
    if (way == Way::to_outputs) return true;
    if (asks) {
      if (!ask(batch, team)) return false;
      for_each_block([&](const Block<T>& block) {
        loss(batch, block, start);
        backward(block, cuts[last], cuts[last - 1]);
      });
    }
    for (int i = last - 1; i > 0; --i) {
      combine_gradients(batch, cuts[i], team);
      for_each_block([&](const Block<T>& block) {
        propagation.centre(space, cuts[i], block, unit_sums.data(), unit_sums.data() + network.sizes[cuts[i]]);
        backward(block, cuts[i], cuts[i - 1]);
      });
    }
    return true;
  }

  // Asks the loss from outside once all threads have handed over their outputs; false if it has failed.
  bool ask(const Batch<T>& batch, const Team& team) {
    team.barrier();
    if (team.thread == 0) outside.evaluate(batch);
    team.barrier();
    return !batch.data.loss->failed();
  }

  double sum_of_losses(const Batch<T>& batch) const { // always in the same order
    if (batch.data.loss) return outside.mean * batch.weight;
    double sum = 0;
    for (int p = 0; p < batch.n_panels; ++p) sum += space.panel_loss[p];
    return sum;
  }

  Workspace<T> space;

private:
  void enter(const Batch<T>& batch, const Block<T>& block, const Team& team) {
    for (int panel = block.first; panel < block.first + block.count; ++panel) {
      propagation.enter_targets(space, batch.data, batch.rows, panel);
      propagation.enter(space, batch.data.X, batch.rows.panel(panel, R), batch.panel_after(panel, team), panel, block);
    }
    if (!needs_all_rows()) return;
    const T share = T(batch.weight != 0 ? 1 / batch.weight : 0);
    for (int i = block.first * R; i < (block.first + block.count) * R; ++i)
      space.shares.data()[i] = space.weights.data()[i] * share;
  }

  // From the sums of layer `from`, or the input, to those of layer `to`.
  void forward(const Block<T>& block, int from, int to) {
    for (int l = from; l < to; ++l) {
      propagation.activate(space, l, block);
      propagation.keep_inputs(space, l, block);
      propagation.forward(space, l, block);
    }
  }

  // Deltas of the outputs in their place. `start` is the row of a loss from outside with which the batch begins.
  void loss(const Batch<T>& batch, const Block<T>& block, std::int64_t start) {
    const RowLoss loss = network.row_loss();
    const bool activated = layers.back().activation >= 0;
    for (int panel = block.first; panel < block.first + block.count; ++panel) {
      T* outputs = propagation.panel_of(space, network.n_layers(), panel);
      T* gradients = activated ? propagation.spare_room(block) : outputs;
      if (batch.data.loss) {
        outside.give(gradients, start + std::int64_t(panel) * R, batch.rows_of(panel));
      } else {
        if (activated) std::copy_n(outputs, std::ptrdiff_t(loss.n_outputs) * R, gradients);
        space.panel_loss[panel] =
            kernels.loss(loss, gradients, space.targets.data() + std::ptrdiff_t(panel) * loss.n_targets * R,
                         space.weights.data() + panel * R);
      }
      if (activated) propagation.differentiate_outputs(space, panel, gradients);
    }
  }

  void hand_over(const Batch<T>& batch, const Block<T>& block, std::int64_t start) {
    for (int panel = block.first; panel < block.first + block.count; ++panel)
      outside.take(propagation.panel_of(space, network.n_layers(), panel), start + std::int64_t(panel) * R,
                   batch.rows_of(panel));
  }

  // From the deltas of layer `from` to those of layer `to`, or of the first.
  void backward(const Block<T>& block, int from, int to) {
    for (int l = from - 1; l > 0 && l >= to; --l) propagation.backward(space, l, block);
    if (to == 0 && space.sparse) propagation.to_columns(space, space.deltas[1], 1, block, space.first_deltas.data());
  }

  // --- statistics of units over the rows, each thread for some units; sums in the order of the panels ----------------

  void moments(const Block<T>& block, int l) {
    for (int panel = block.first; panel < block.first + block.count; ++panel)
      kernels.moments(space.z[l] + panel * space.panel_stride[l], space.weights.data() + panel * R, network.sizes[l],
                      propagation.sums_of(space, l, panel));
  }

  // Chan, Golub, LeVeque 1979: moments of the panels to those of the batch.
  void combine_moments(const Batch<T>& batch, int l, const Team& team) {
    team.barrier();
    Layer<T>& layer = layers[l - 1];
    const int n = layer.n_out, end = int(part(n, team, 1));
    const double weight = batch.weight != 0 ? batch.weight : 1, others = weight > 1 ? weight - 1 : weight;
    const auto over_panels = [&](auto&& f) {
      double sum = 0;
      for (int panel = 0; panel < batch.n_panels; ++panel) {
        double share = 0;
        for (int i = 0; i < R; ++i) share += double(space.weights.data()[panel * R + i]);
        sum += f(propagation.sums_of(space, l, panel), share);
      }
      return sum;
    };
    for (int j = int(part(n, team)); j < end; ++j) {
      const double mean = over_panels([&](const T* m, double share) { return share * double(m[j]); }) / weight;
      const double squares = over_panels([&](const T* m, double share) {
        return double(m[n + j]) + share * (double(m[j]) - mean) * (double(m[j]) - mean);
      });
      layer.unit_statistics.data()[j] = T(mean);
      layer.unit_statistics.data()[n + j] = T(1 / std::sqrt(squares / weight + normalization_epsilon));
      if (batch.weight == 0) continue; // it says nothing
      layer.running_mean[j] += T(running_share * (mean - double(layer.running_mean[j])));
      layer.running_variance[j] += T(running_share * (squares / others - double(layer.running_variance[j])));
    }
    team.barrier();
  }

  // What `centre` takes off: the sums over the batch of the deltas, and of the deltas times the normalised z.
  void combine_gradients(const Batch<T>& batch, int l, const Team& team) {
    team.barrier();
    const Layer<T>& layer = layers[l - 1];
    const int n = layer.n_out, end = int(part(n, team, 1));
    for (int j = int(part(n, team)); j < end; ++j) {
      T with_z = 0, alone = 0;
      for (int panel = 0; panel < batch.n_panels; ++panel) {
        with_z += propagation.sums_of(space, l, panel)[j];
        alone += propagation.sums_of(space, l, panel)[n + j];
      }
      unit_sums.data()[j] = alone * layer.scale[j];
      unit_sums.data()[n + j] = with_z * layer.scale[j];
    }
    team.barrier();
  }

  const Network& network;
  const Kernels<T>& kernels;
  const int R;
  Propagation<T>& propagation;
  std::vector<Layer<T>>& layers;
  std::vector<int> cuts{0}; // layers whose statistics need all rows, between the input and the output
  AlignedArray<T> unit_sums;
  OutsideLoss<T> outside;
};

} // namespace fastmlp
