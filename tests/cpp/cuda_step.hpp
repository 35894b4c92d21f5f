// Training steps by the kernels of src/cpp/cuda/kernels on the host, with products in plain loops: what an engine does,
// without its speed. To be included after cuda_on_host.hpp.
#pragma once

#include "check.hpp"

#include "../../src/cpp/cpu/layout.hpp"
#include "../../src/cpp/cuda/kernels/gather.cuh"
#include "../../src/cpp/cuda/kernels/hidden_layers.cuh"
#include "../../src/cpp/cuda/kernels/loss_rows.cuh"
#include "../../src/cpp/cuda/kernels/sums.cuh"
#include "../../src/cpp/cuda/kernels/update.cuh"
#include "../../src/cpp/engine.hpp"

#include <numeric>

namespace fastmlp::cuda {

// out (n, m) [+]= sum over k of A(i, k) B(k, j), given as functions.
template <class T, class A, class B> void product(int n, int m, int depth, A&& a, B&& b, T* out, int ld, bool adds) {
  for (int i = 0; i < n; ++i)
    for (int j = 0; j < m; ++j) {
      double sum = adds ? double(out[i * ld + j]) : 0;
      for (int k = 0; k < depth; ++k) sum += double(a(i, k)) * double(b(k, j));
      out[i * ld + j] = T(sum);
    }
}

// A: what products read.
template <class T, class A> class StepByKernels {
public:
  StepByKernels(const Network& network, const Dataset<T>& data, int most_rows)
      : network(network), data(data), L(network.n_layers()), loss(network.row_loss()) {
    for (int l = 0; l <= L; ++l) {
      const std::size_t size = std::size_t(most_rows) * ld(l);
      a.emplace_back(size), z.emplace_back(size), g.emplace_back(size), delta.emplace_back(size);
      operand.emplace_back(size);
      const std::size_t statistics = std::size_t(std::max(most_rows, network.sizes[l]));
      mean.emplace_back(statistics), inverse.emplace_back(statistics);
    }
    w.resize(std::size_t(network.n_parameters)), gradient.resize(w.size());
    slots.assign(max_slots + 1, Array<T>(w.size()));
    partials.resize(100000), room.resize(1000000);
  }

  int ld(int l) const { return (network.sizes[l] + 7) / 8 * 8; }

  EpochResult epoch(const std::int64_t* order, int n, int batch_size, double alpha, Rule& rule) {
    std::vector<StepCoefficients<T>> table;
    const int n_batches = ceil_div(n, batch_size);
    for (long long t = rule.t + 1; t <= rule.t + n_batches; ++t) {
      const Step<T> step(rule, t);
      StepCoefficients<T> c;
      std::copy_n(step.weights, max_coefficients, c.weights);
      std::copy_n(step.others, max_coefficients, c.others);
      c.ema_decay = step.ema_decay;
      table.push_back(c);
    }
    std::vector<BatchReport> reports(std::size_t(n_batches), BatchReport{-1, -1});
    state = StepState{};
    state.t = state.table_after = rule.t;
    state.seed = {std::uint32_t(rule.seed), std::uint32_t(rule.seed >> 32)};
    Parameters<T> p{};
    p.w = w.data();
    p.gradient = gradient.data();
    p.n_parts = 1;
    const int n_slots = number_of_slots(rule);
    for (int s = 0; s < n_slots + (rule.ema_decay > 0); ++s) p.slots[s] = slots[std::size_t(s)].data();
    p.n = network.n_trainable;
    p.matrices_end = network.biases[0];
    p.matrices_again = network.n_trainable;
    for (std::ptrdiff_t at : network.projections)
      if (at != Network::none) p.matrices_again = std::min(p.matrices_again, at);
    for (int first = 0; first < n; first += batch_size) {
      const int n_rows = std::min(batch_size, n - first);
      compute({order, &state, n_rows});
      const UpdateHow<T> how{rule.optimizer, T(alpha),        T(rule.clip_value), rule.clip_norm,
                             table.data(),   partials.data(), reports.data(),     std::int64_t(n_rows)};
      if (rule.clip_norm < infinity) launch_finish_gradient<T>(nullptr, p, T(alpha), partials.data(), &state);
      launch_update<T>(nullptr, p, how, &state);
    }
    EpochResult result;
    for (int i = 0; i < state.batch; ++i)
      result.add(reports[i].loss, reports[i].penalty, std::min(batch_size, n - i * batch_size));
    rule.t = state.t;
    return result;
  }

  // Gradients of all parameters, and the loss in the state.
  void compute(const BatchRows& rows) {
    const int n = rows.n;
    launch_gather<T>(nullptr, data.X.data, data.X.stride, rows, network.n_inputs(), dropout(0), operand[0].data(),
                     ld(0));
    for (int l = 1; l < L; ++l) forward(rows, l);
    multiply(n, L);
    const OutputRows<T> out{z[L].data(), n, ld(L), w.data() + network.biases[L - 1], network.activation_of(L - 1),
                            loss};
    launch_loss_rows<T, A>(nullptr, out, rows, targets(), room.data(), operand_delta(L), ld(L), partials.data(),
                           &state);
    for (int l = L; l > 0; --l) backward(rows, l);
  }

  Array<T> w, gradient;
  std::vector<Array<T>> slots;
  StepState state;

  int number_of_slots(const Rule& rule) const {
    int n = 0;
    Optimizers::visit(rule.optimizer, [&](auto entry) { n = int(std::size(entry.slots)); });
    return n;
  }

private:
  Targets<T> targets() const { return {data.y, data.labels, data.sample_weight}; }
  Dropout<T> dropout(int l) const { return Dropout<T>(l, network.dropout[l]); }
  bool skips(int l) const { return network.has_skip(l - 1); } // from hidden layer l - 1 to l
  bool projects(int l) const { return network.projections[l - 1] != Network::none; }
  A* operand_delta(int l) { return deltas.resize(std::size_t(L) + 1), deltas[l].resize(a[l].size()), deltas[l].data(); }

  HiddenRows<T> hidden(int l, int n_rows) {
    HiddenRows<T> rows{};
    rows.n_rows = n_rows;
    rows.n = network.sizes[l];
    rows.ld = ld(l);
    rows.activation = network.activation_of(l - 1);
    if (l < L) {
      Normalizations::visit(network.normalizations[l - 1], [&](auto entry) {
        rows.statistics = entry.statistics;
        rows.centred = entry.centred;
      });
      if (rows.statistics != Statistics::none) rows.scale = w.data() + network.scales[l - 1];
      if (network.offsets[l - 1] != Network::none) rows.offset = w.data() + network.offsets[l - 1];
      rows.dropout = dropout(l);
    }
    rows.mean = mean[l].data();
    rows.inverse = inverse[l].data();
    rows.z = z[l].data();
    rows.state = &state;
    return rows;
  }

  void multiply(int n, int l) { // z_l = a_{l-1} W
    const int m = network.sizes[l];
    const T* W = w.data() + network.coefs[l - 1];
    product(
        n, m, network.sizes[l - 1], [&](int i, int k) { return T(operand[l - 1][i * ld(l - 1) + k]); },
        [&](int k, int j) { return T(A(W[k * m + j])); }, z[l].data(), ld(l), false);
    if (l < L && skips(l) && projects(l)) {
      const T* P = w.data() + network.projections[l - 1];
      product(
          n, m, network.sizes[l - 1], [&](int i, int k) { return z[l - 1][i * ld(l - 1) + k]; },
          [&](int k, int j) { return P[k * m + j]; }, z[l].data(), ld(l), true);
    }
  }

  void forward(const BatchRows& rows, int l) {
    multiply(rows.n, l);
    const HiddenRows<T> layer = hidden(l, rows.n);
    const T *bias = w.data() + network.biases[l - 1], *addend = skips(l) && !projects(l) ? z[l - 1].data() : nullptr;
    if (layer.statistics == Statistics::of_units) {
      launch_add_bias<T>(nullptr, layer, bias, addend);
      launch_unit_moments<T>(nullptr, layer, rows, targets(), partials.data(), w.data() + network.means[l - 1],
                             w.data() + network.variances[l - 1]);
      bias = addend = nullptr;
    }
    launch_activate<T, A>(nullptr, layer, bias, addend, true, operand[l].data(), ld(l));
  }

  // From the deltas of layer l: gradients of the weights below it, and the deltas of layer l - 1.
  void backward(const BatchRows& rows, int l) {
    const int n = rows.n, m = network.sizes[l], k = network.sizes[l - 1];
    const std::vector<A>& d = deltas[l];
    HiddenRows<T> layer = hidden(l, n);
    layer.statistics = Statistics::none;
    launch_sum_columns<T, A>(nullptr, layer, d.data(), ld(l), gradient.data() + network.biases[l - 1], nullptr,
                             room.data());
    const auto delta_of = [&](int i, int j) { return T(d[i * ld(l) + j]); };
    product(
        k, m, n, [&](int i, int row) { return T(operand[l - 1][row * ld(l - 1) + i]); }, delta_of,
        gradient.data() + network.coefs[l - 1], m, false);
    const bool projected = l < L && skips(l) && projects(l);
    if (projected)
      product(
          k, m, n, [&](int i, int row) { return z[l - 1][row * ld(l - 1) + i]; }, delta_of,
          gradient.data() + network.projections[l - 1], m, false);
    if (l == 1) return;
    const T* W = w.data() + network.coefs[l - 1];
    product(n, k, m, delta_of, [&](int j, int i) { return T(A(W[i * m + j])); }, g[l - 1].data(), ld(l - 1), false);
    T* addend = nullptr; // what comes back along a skip
    if (l < L && skips(l)) {
      skip.assign(std::size_t(n) * ld(l - 1), T(0));
      addend = skip.data();
      const T* P = w.data() + network.projections[l - 1];
      if (projected)
        product(n, k, m, delta_of, [&](int j, int i) { return P[i * m + j]; }, addend, ld(l - 1), false);
      else
        for (int i = 0; i < n; ++i)
          for (int j = 0; j < k; ++j) addend[i * ld(l - 1) + j] = delta_of(i, j);
    }
    differentiate_layer(rows, l - 1, addend);
  }

  void differentiate_layer(const BatchRows& rows, int l, T* addend) {
    const HiddenRows<T> layer = hidden(l, rows.n);
    const bool plain = layer.statistics == Statistics::none;
    A* to = operand_delta(l);
    launch_differentiate<T, A>(nullptr, layer, g[l].data(), ld(l), operand[l].data(), ld(l), plain ? addend : nullptr,
                               ld(l), delta[l].data(), ld(l), plain ? to : nullptr);
    if (plain) return;
    T* const scale_gradient = gradient.data() + network.scales[l - 1];
    T* const offset_gradient = layer.offset ? gradient.data() + network.offsets[l - 1] : nullptr;
    launch_sum_columns<T, T>(nullptr, layer, delta[l].data(), ld(l), offset_gradient, scale_gradient, room.data());
    if (layer.statistics == Statistics::of_rows)
      launch_through_rows<T, A>(nullptr, layer, addend, delta[l].data(), to, ld(l));
    else
      launch_through_units<T, A>(nullptr, layer, rows, targets(), scale_gradient, offset_gradient, addend,
                                 delta[l].data(), to, ld(l));
  }

  const Network& network;
  const Dataset<T>& data;
  const int L;
  const RowLoss loss;
  std::vector<Array<T>> a, z, g, delta, mean, inverse;
  std::vector<std::vector<A>> operand, deltas;
  Array<T> skip, room;
  std::vector<double> partials;
};

} // namespace fastmlp::cuda
