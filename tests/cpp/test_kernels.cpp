// Each kernel against plain loops in double.
#include "check.hpp"

#include "../../src/cpp/activations.hpp"
#include "../../src/cpp/cpu/kernels.hpp"
#include "../../src/cpp/network.hpp"
#include "../../src/cpp/optimizers.hpp"

#include <algorithm>
#include <iterator>

namespace fastmlp {

namespace {

// Sizes around those at which kernels change their ways: 1, vectors, register tiles, weight tiles, depth chunks.
constexpr int sizes[] = {1, 7, 16, 33, 100, 330};
constexpr int n_panels = 3;

template <class T> struct Check {
  const Kernels<T>& k = kernels<T>();
  const int R = k.rows;
  RandomNumbers<T> numbers{42};

  std::ptrdiff_t padded(int n) const { return (n + R - 1) / R * R; }
  std::string named(const char* kernel, int n_in, int n_out, const char* entry = "") const {
    return std::string(k.name) + (sizeof(T) == 4 ? " float " : " double ") + kernel + " " + std::to_string(n_in) +
           " -> " + std::to_string(n_out) + " " + entry;
  }

  // Rows by number to panels and columns; the second panel lacks rows.
  void gather(int n_features) {
    const int n_rows = 2 * R - 1;
    const Array<T> X = numbers.array(std::size_t(3 * R) * n_features);
    std::vector<std::int64_t> rows;
    for (int i = 0; i < n_rows; ++i) rows.push_back((7 * i + 2) % (3 * R));
    Array<T> panels(2 * padded(n_features) * R, T(5)), columns(panels.size(), T(5));
    const std::ptrdiff_t stride = 2 * R * R;
    for (int p = 0; p < 2; ++p)
      k.gather({X.data(), n_features, rows.data(), p * R, R, std::min(R, n_rows - p * R), p ? 0 : R - 1}, n_features,
               panels.data() + p * padded(n_features) * R, columns.data() + p * R * R, stride);
    bool same = true;
    for (int p = 0; p < 2; ++p)
      for (int f = 0; f < padded(n_features); ++f)
        for (int i = 0; i < R; ++i) {
          const std::int64_t row = rows[std::min(p * R + i, n_rows - 1)];
          const T x = f < n_features ? X[row * n_features + f] : T(0);
          same = same && panels[(p * padded(n_features) + f) * R + i] == x &&
                 columns[f / R * stride + (p * R + i) * R + f % R] == x;
        }
    check(same, named("gather", n_features, R));
    for (bool streams : {false, true}) {
      Array<T> again(columns.size(), T(5));
      for (int p = 0; p < 2; ++p)
        k.panel_to_columns(panels.data() + p * padded(n_features) * R, n_features, again.data() + p * R * R, stride,
                           streams);
      check(again == columns, named("panel_to_columns", n_features, R));
    }
    Array<T> back(std::size_t(R) * n_features);
    k.panel_to_rows(panels.data(), n_features, R, back.data(), n_features);
    same = true;
    for (int i = 0; i < R; ++i)
      same = same && std::equal(&X[rows[i] * n_features], &X[rows[i] * n_features] + n_features, &back[i * n_features]);
    check(same, named("panel_to_rows", n_features, R));
  }

  // Both products of one layer, with every activation.
  void products(int n_in, int n_out) {
    const std::ptrdiff_t ldm = padded(n_in), in_size = padded(n_in) * R, out_size = padded(n_out) * R;
    const Array<T> M = numbers.array(padded(n_out) * ldm, 1 / std::sqrt(n_in)), bias = numbers.array(padded(n_out)),
                   in = numbers.array(n_panels * in_size);
    Array<T> scratch(k.scratch_size(n_panels, std::max(n_in, n_out)));
    for (int activation = -1; activation < Activations::size; ++activation) {
      const std::string name = activation < 0 ? "no activation" : Activations::names()[activation];
      Array<T> out(n_panels * out_size), z(out.size());
      PanelProduct<T> product{};
      product.M = M.data();
      product.ldm = ldm;
      product.bias = bias.data();
      product.in = in.data();
      product.in_stride = in_size;
      product.out = out.data();
      product.out_stride = out_size;
      product.z = z.data();
      product.n_in = n_in;
      product.n_out = n_out;
      product.n_panels = n_panels;
      product.activation = activation;
      k.forward(product, scratch.data());
      std::vector<double> sums = plain(M, ldm, bias, in, n_in, n_out), values = sums;
      if (activation >= 0)
        Activations::visit(activation, [&](auto entry) {
          for (double& value : values) value = entry.value(value);
        });
      check_close(units(out, n_out), values, named("forward", n_in, n_out, name.c_str()));
      Array<T> halved(out.size(), T(7)), halved_z(out.size());
      product.out = halved.data();
      product.z = halved_z.data();
      product.ends_in_half = true;
      k.forward(product, scratch.data());
      if (activation >= 0) check_half_of_z(z, halved_z, n_out, activation);
      check_half(out, halved, n_out, value_of_0(activation),
                 named("forward of half a panel", n_in, n_out, name.c_str()));
      product.out = out.data();
      product.z = z.data();
      product.ends_in_half = false;
      if (activation < 0) continue;
      one_row(product, in, out, M, ldm);
      bool needs_z = false;
      const Array<T> a = units(out, n_out), before = units(z, n_out);
      std::vector<double> deltas = plain(M, ldm, {}, in, n_in, n_out);
      Activations::visit(activation, [&](auto entry) {
        needs_z = !entry.slope_from_output;
        for (std::size_t i = 0; i < deltas.size(); ++i)
          deltas[i] *= entry.slope(double(needs_z ? before[i] : a[i]), double(a[i]));
      });
      const Array<T> transposed = transpose(M, ldm, n_in, n_out);
      product.M = transposed.data();
      product.ldm = padded(n_out);
      product.bias = nullptr;
      if (!needs_z) product.z = nullptr;
      Array<T> apart(out.size());
      product.a = out.data();
      product.out = apart.data();
      k.backward(product, scratch.data());
      check_close(units(apart, n_out), deltas, named("backward", n_in, n_out, name.c_str()));
      product.out = halved.data();
      product.ends_in_half = true;
      k.backward(product, scratch.data());
      check_half(apart, halved, n_out, 0, named("backward of half a panel", n_in, n_out, name.c_str()));
      product.ends_in_half = false;
      product.out = out.data();
      k.backward(product, scratch.data());
      check(units(out, n_out) == units(apart, n_out), named("backward in place", n_in, n_out, name.c_str()));
    }
  }

  static T value_of_0(int activation) {
    T value = 0;
    if (activation >= 0) Activations::visit(activation, [&](auto entry) { value = entry.value(T(0)); });
    return value;
  }

  void check_half_of_z(const Array<T>& whole, const Array<T>& halved, int n, int activation) {
    bool keeps_z = false;
    Activations::visit(activation, [&](auto entry) { keeps_z = !entry.slope_from_output; });
    if (keeps_z) check_half(whole, halved, n, 0, named("z of half a panel", n, R));
  }

  // The second half of the last panel holds `rest`, all else the same bits as whole panels.
  void check_half(const Array<T>& whole, const Array<T>& halved, int n, T rest, const std::string& name) {
    Array<T> expected = units(whole, n);
    for (std::size_t at = expected.size() - std::size_t(n) * R; at < expected.size(); at += R)
      std::fill(&expected[at] + R / 2, &expected[at] + R, rest);
    check(units(halved, n) == expected, name);
  }

  // M[n_out][n_in] as [n_in][n_out]: the weights of the layer above as the backward product reads them.
  Array<T> transpose(const Array<T>& M, std::ptrdiff_t ldm, int n_in, int n_out) {
    Array<T> out(padded(n_in) * padded(n_out), T(0));
    k.transpose(M.data(), ldm, n_out, n_in, out.data(), padded(n_out));
    bool same = true;
    for (int i = 0; i < n_in; ++i)
      for (int j = 0; j < n_out; ++j) same = same && out[i * padded(n_out) + j] == M[j * ldm + i];
    check(same, named("transpose", n_in, n_out));
    return out;
  }

  // The units of all panels, one panel after the other, without padding.
  Array<T> units(const Array<T>& panels, int n) const {
    Array<T> all;
    for (int p = 0; p < n_panels; ++p)
      all.insert(all.end(), &panels[p * padded(n) * R], &panels[p * padded(n) * R] + std::ptrdiff_t(n) * R);
    return all;
  }

  std::vector<double> plain(const Array<T>& M, std::ptrdiff_t ldm, const Array<T>& bias, const Array<T>& in, int n_in,
                            int n_out) const {
    std::vector<double> sums;
    for (int p = 0; p < n_panels; ++p)
      for (int n = 0; n < n_out; ++n)
        for (int i = 0; i < R; ++i) {
          double sum = bias.empty() ? 0 : double(bias[n]);
          for (int d = 0; d < n_in; ++d) sum += double(M[n * ldm + d]) * double(in[(p * padded(n_in) + d) * R + i]);
          sums.push_back(sum);
        }
    return sums;
  }

  // The same bits for the first row alone, from the flat buffer.
  void one_row(const PanelProduct<T>& product, const Array<T>& in, const Array<T>& out, const Array<T>& M,
               std::ptrdiff_t ldm) {
    Array<T> flat, x, row(padded(product.n_out));
    for (int d = 0; d < product.n_in; ++d) {
      x.push_back(in[d * R]);
      for (int n = 0; n < product.n_out; ++n) flat.push_back(M[n * ldm + d]);
    }
    k.forward_row(flat.data(), product.n_out, product.bias, x.data(), product.n_in, product.n_out, product.activation,
                  row.data());
    bool same = true;
    for (int n = 0; n < product.n_out; ++n) same = same && row[n] == out[n * R];
    check(same, named("forward_row", product.n_in, product.n_out, Activations::names()[product.activation].c_str()));
  }

  // The first layer on rows where they lie, in any order, against the same rows in panels; the last panel lacks a row.
  void rows_in_place(int n_in, int n_out) {
    const int n_rows = n_panels * R - 1;
    const std::ptrdiff_t ld = n_in + 3, ldm = padded(n_in), in_size = ldm * R, out_size = padded(n_out) * R;
    const Array<T> X = numbers.array(n_rows * ld), bias = numbers.array(padded(n_out));
    Array<T> M = numbers.array(padded(n_out) * ldm, 1 / std::sqrt(n_in)), in(n_panels * in_size);
    for (int n = 0; n < n_out; ++n) std::fill(&M[n * ldm + n_in], &M[n * ldm] + ldm, T(0));
    std::vector<std::int64_t> order(n_rows);
    for (int i = 0; i < n_rows; ++i) order[i] = (i * std::int64_t(7) + 3) % n_rows;
    Array<T> out(n_panels * out_size), expected(out.size()), scratch(k.scratch_size(n_panels, n_out));
    Array<T> copies(n_panels * R * ldm, T(7));
    for (int p = 0; p < n_panels; ++p) {
      const int n = std::min(R, n_rows - p * R), n_next = std::min(R, n_rows - p * R - n);
      const DenseRows<T> rows{X.data(), ld, order.data(), p * R, (p + 1) * R, n, n_next};
      k.gather(rows, n_in, &in[p * in_size], nullptr, 0);
      PanelProduct<T> product{};
      product.M = M.data();
      product.ldm = ldm;
      product.bias = bias.data();
      product.in = &in[p * in_size];
      product.n_in = n_in;
      product.n_out = n_out;
      product.n_panels = 1;
      product.activation = Activations::find("relu", "activation");
      product.out = &expected[p * out_size];
      k.forward(product, scratch.data());
      product.out = &out[p * out_size];
      T* const copy = &copies[p * R * ldm];
      k.forward_of_rows(rows, product, copy, ldm, scratch.data());
      bool same = true;
      const int whole = (n_in + R / 2 - 1) / (R / 2) * (R / 2);
      for (int i = 0; i < R; ++i) {
        const T *row = &X[order[std::min(p * R + i, n_rows - 1)] * ld], *copied = copy + i * ldm;
        same = same && std::equal(row, row + n_in, copied) &&
               std::all_of(copied + n_in, copied + whole, [](T x) { return x == 0; });
      }
      check(same, named("copies of forward_of_rows", n_in, n_out));
    }
    check_close(out, std::vector<double>(expected.begin(), expected.end()), named("forward_of_rows", n_in, n_out));
    const Array<T> deltas = numbers.array(n_panels * out_size);
    for (int column = 0; column < n_in; column += R) {
      const int n_columns = std::min(R, n_in - column);
      std::vector<double> sums(std::size_t(n_out) * n_columns);
      for (int row = 0; row < n_rows; ++row)
        for (int n = 0; n < n_out; ++n)
          for (int f = 0; f < n_columns; ++f)
            sums[n * n_columns + f] +=
                double(deltas[row / R * out_size + n * R + row % R]) * double(X[order[row] * ld + column + f]);
      weight_gradient(n_out, n_columns, sums, "weight_gradient of copies", [&](bool adds, T* G) {
        k.weight_gradient(deltas.data(), out_size, &copies[column], ldm, n_rows, n_out, n_columns, adds, nullptr, false,
                          G);
      });
    }
  }

  // What `compute(adds, G)` makes of G, where whole registers of columns must be finite: the optimizer takes them.
  template <class F>
  void weight_gradient(int n, int n_columns, const std::vector<double>& expected, const char* name, F&& compute) {
    Array<T> G(std::size_t(n) * R, std::numeric_limits<T>::quiet_NaN()), weights;
    compute(false, G.data());
    Array<T> twice = G;
    compute(true, twice.data());
    bool adds = true, is_finite = true;
    for (int neuron = 0; neuron < n; ++neuron) {
      for (int f = 0; f < n_columns; ++f) adds = adds && twice[neuron * R + f] == 2 * G[neuron * R + f];
      for (int f = 0; f < (n_columns + R / 2 - 1) / (R / 2) * (R / 2); ++f)
        is_finite = is_finite && std::isfinite(G[neuron * R + f]);
      weights.insert(weights.end(), &G[neuron * R], &G[neuron * R] + n_columns);
    }
    check(adds, named("adding", n_columns, n, name));
    check(is_finite, named("padding", n_columns, n, name));
    check_close(weights, expected, named(name, n_columns, n));
  }

  // A tile of `n` neurons by `n_columns` inputs; the last panel lacks a row.
  void gradients(int n, int n_columns) {
    n = std::min(n, k.tile_rows);
    const int n_rows = n_panels * R - 1;
    const std::ptrdiff_t stride = padded(n) * R;
    Array<T> deltas = numbers.array(n_panels * stride), g(padded(n)), inputs(n_panels * R * R);
    const Array<T> columns = numbers.array(n_panels * R * R);
    for (int row = 0; row < n_panels * R; ++row)
      for (int f = 0; f < n_columns; ++f) inputs[(row / R * R + f) * R + row % R] = columns[row * R + f];
    for (int neuron = 0; neuron < n; ++neuron) deltas[(n_panels - 1) * stride + neuron * R + R - 1] = 0;
    std::vector<double> expected(std::size_t(n) * n_columns), expected_bias(n);
    for (int row = 0; row < n_rows; ++row)
      for (int neuron = 0; neuron < n; ++neuron) {
        const double delta = double(deltas[row / R * stride + neuron * R + row % R]);
        expected_bias[neuron] += delta;
        for (int f = 0; f < n_columns; ++f) expected[neuron * n_columns + f] += delta * double(columns[row * R + f]);
      }
    weight_gradient(n, n_columns, expected, "weight_gradient", [&](bool adds, T* G) {
      k.weight_gradient(deltas.data(), stride, columns.data(), R, n_rows, n, n_columns, adds, nullptr, false, G);
    });
    if (std::min(n, n_columns) <= few_units)
      weight_gradient(n, n_columns, expected, "weight_gradient_along_rows", [&](bool adds, T* G) {
        k.weight_gradient_along_rows(deltas.data(), stride, inputs.data(), R * R, n_panels, n, n_columns, adds, G);
      });
    const auto doubled = [](Array<T> once, const Array<T>& twice) {
      for (T& sum : once) sum += sum;
      return once == twice;
    };
    Array<T> twice;
    k.bias_gradient(deltas.data(), stride, n_panels, n, false, g.data());
    twice = g;
    k.bias_gradient(deltas.data(), stride, n_panels, n, true, twice.data());
    check(doubled(g, twice), named("bias_gradient that adds", R, n));
    Array<T> sum(g.size());
    k.add(g.data(), g.data(), padded(n), sum.data());
    check(sum == twice, named("add", R, n));
    Array<T> streamed(sum.size());
    k.stream(sum.data(), std::ptrdiff_t(sum.size()), streamed.data());
    check(streamed == sum, named("stream", R, n));
    g.resize(n);
    check_close(g, expected_bias, named("bias_gradient", R, n));
  }

  // With `extras`, gradients are clipped and weights averaged.
  void update(int optimizer, int n, int n_columns, bool extras, bool streams) {
    n = std::min(n, k.tile_rows);
    const T alpha = T(0.1), scale = T(0.25), decay = T(0.75),
            clip = extras ? T(0.1) : std::numeric_limits<T>::infinity();
    const std::ptrdiff_t ldw = 2 * R;
    Array<T> w = numbers.array(padded(n) * ldw), c(max_coefficients);
    const Array<T> G = numbers.array(std::size_t(n) * R);
    std::size_t n_slots = 0;
    Optimizers::visit(optimizer, [&](auto entry) { n_slots = std::size(entry.slots); });
    std::vector<Array<T>> slots(n_slots + extras);
    UpdateTile<T> tile{};
    tile.w = w.data();
    tile.ldw = tile.ld_slots = ldw;
    tile.n = n;
    tile.n_columns = n_columns;
    for (std::size_t s = 0; s < slots.size(); ++s) {
      slots[s] = numbers.array(w.size());
      for (T& x : slots[s]) x = std::abs(x); // some are sums of squares
      tile.slots[s] = slots[s].data();
    }
    std::vector<double> expected(w.begin(), w.end()), expected_slots;
    double squares = 0;
    Optimizers::visit(optimizer, [&](auto entry) {
      double h[std::size(entry.hyperparameters)], wide[max_coefficients] = {};
      std::transform(std::begin(entry.hyperparameters), std::end(entry.hyperparameters), h,
                     [](const Hyperparameter& p) { return p.default_value; });
      entry.prepare(h, 0.01, 3, wide);
      for (int i = 0; i < max_coefficients; ++i) wide[i] = double(c[i] = T(wide[i]));
      for (int i = 0; i < n * R; ++i) {
        if (i % R >= n_columns) continue;
        const std::ptrdiff_t at = i / R * ldw + i % R;
        const double weight = double(w[at]), gradient = (double(G[i]) + double(alpha) * weight) * double(scale);
        double s[max_slots + 1];
        for (std::size_t slot = 0; slot < slots.size(); ++slot) s[slot] = double(slots[slot][at]);
        squares += weight * weight;
        entry.update(expected[at], std::clamp(gradient, -double(clip), double(clip)), s, wide);
        if (extras) s[n_slots] = double(decay) * s[n_slots] + (1 - double(decay)) * expected[at];
        expected_slots.insert(expected_slots.end(), s, s + slots.size());
      }
    });
    const double sum = k.update(optimizer, {c.data(), alpha, scale, clip, decay}, G.data(), tile, streams);
    Array<T> kept;
    for (int i = 0; i < n * R; ++i)
      for (std::size_t s = 0; s < slots.size() && i % R < n_columns; ++s) kept.push_back(slots[s][i / R * ldw + i % R]);
    const std::string what = named("update", R, n, Optimizers::names()[optimizer].c_str());
    check_close(w, expected, what);
    check_close(kept, expected_slots, what + ", slots");
    check_close(Array<T>{T(sum)}, {squares}, what + ", squares");
  }

  void loss(const LossChoice& choice, int n_targets) {
    const RowLoss loss{choice.number, choice.hyperparameters(), n_targets, n_targets * choice.outputs_per_target};
    const int m = loss.n_outputs;
    Array<T> z = numbers.array(std::size_t(m) * R, 2), y(std::size_t(n_targets) * R), weights = numbers.array(R);
    std::vector<double> gradients(z.size());
    double sum = 0;
    Losses::visit(loss.number, [&](auto entry) {
      for (std::size_t i = 0; i < y.size(); ++i) {
        y[i] = entry.class_numbers ? T(int(i) / R == int(i) % R % n_targets) : numbers();
        if (!entry.valid(double(y[i]), loss.h)) y[i] = T(1 + i % 2);
        if (!entry.valid(double(y[i]), loss.h)) y[i] = T(i % 2);
      }
      for (int i = 0; i < R; ++i) {
        std::vector<double> row, target;
        for (int j = 0; j < m; ++j) row.push_back(double(z[j * R + i]));
        for (int j = 0; j < n_targets; ++j) target.push_back(double(y[j * R + i]));
        sum += double(weights[i]) * entry.row(row.data(), target.data(), n_targets, 1, loss.h);
        for (int j = 0; j < m; ++j) gradients[j * R + i] = row[j] * double(weights[i]);
      }
    });
    const T total = T(k.loss(loss, z.data(), y.data(), weights.data()));
    const std::string what = named("loss", m, n_targets, Losses::names()[loss.number].c_str());
    check_close(z, gradients, what);
    check_close(Array<T>{total}, {sum}, what + ", sum");
  }
};

} // namespace

template <class T> void test_kernels() {
  Check<T> run;
  for (int n : sizes) {
    run.gather(n);
    for (int n_columns : {1, 2, 3, 4, run.R - 1, run.R}) run.gradients(n, n_columns);
    for (int n_out : sizes) run.products(n, n_out);
    for (int optimizer = 0; optimizer < Optimizers::size; ++optimizer)
      for (bool extras : {false, true})
        for (int n_columns : {run.R - 1, run.R})
          for (bool streams : {false, true}) run.update(optimizer, n, n_columns, extras, streams);
  }
  for (int n : {2, 3, 4}) run.gradients(n, run.R);
  for (int n_in : {128, 130, 331, 700})
    for (int n_out : {1, 5, 10, 12}) run.rows_in_place(n_in, n_out);
  for (int n_targets : {1, 3, 10}) {
    for (const std::string& name : Losses::names()) run.loss({name, {}}, n_targets);
    run.loss({"log_loss", {0.1}}, n_targets); // smoothed labels
    run.loss({"quantile", {0.1, 0.5, 0.9}}, n_targets);
  }
}

template void test_kernels<float>();
template void test_kernels<double>();

} // namespace fastmlp
