// Hessian-vector products: the derivative of the gradient along a direction, found by running forward and backward with
// dual numbers, whose tangents start as the direction. Pearlmutter 1994, Fast Exact Multiplication by the Hessian.
// Rows go one by one; the sums over rows run in their order, whatever the threads do.
#include "dual_rows.hpp"
#include "threads.hpp"

namespace fastmlp {

namespace {

class HessianVectorProduct {
public:
  HessianVectorProduct(const Network& network, const double* flat, const double* vector, const Dataset<double>& data,
                       double* out)
      : network(network), kernels(kernels_for<double>(network.n_parameters)), last(network.n_layers()), flat(flat),
        vector(vector), data(data), weight(sum_of_weights(data, nullptr, 0, data.X.n_rows)), out(out) {
    for (int l = 0; l < last; ++l) {
      const int n_in = network.sizes[l], n_out = network.sizes[l + 1];
      weights.emplace_back(flat, vector, network.coefs[l], n_in, n_out, kernels.rows);
      projections.emplace_back(flat, vector, network.projections[l], n_in, n_out, kernels.rows);
      flops_per_row += 16.0 * n_in * n_out;
    }
    widest = *std::max_element(network.sizes.begin(), network.sizes.end());
    // So many that the deltas of the widest layer stay in the cache while every weight sums over them.
    constexpr std::int64_t cached = 1 << 14, fewest = 64, most = 1024;
    max_rows = std::clamp(cached / widest, fewest, most);
    for (int normalization : network.normalizations)
      if (Network::statistics_of(normalization) == Statistics::of_units) max_rows = data.X.n_rows;
    max_rows = std::min(max_rows, data.X.n_rows);
    for (int l = 0; l <= last; ++l) units.push_back(make_units(l));
  }

  void run(double alpha, int requested_threads) {
    std::fill_n(out, network.n_parameters, 0.0);
    if (weight == 0) return;
    const int wanted = choose_threads(requested_threads, flops_per_row * double(data.X.n_rows));
    const int n_threads = int(std::min<std::int64_t>(wanted, max_rows));
    std::vector<Room> rooms;
    for (int i = 0; i < n_threads; ++i) rooms.emplace_back(network, widest, max_rows, kernels.rows);
    parallel(n_threads, [&](const Team& team) {
      const FlushDenormals mode;
      for (std::int64_t first = 0; first < data.X.n_rows; first += max_rows) {
        const Chunk chunk{first, std::min(max_rows, data.X.n_rows - first), team, rooms[std::size_t(team.thread)]};
        forward(chunk);
        backward(chunk);
        team.barrier();
        add_gradients(chunk);
        team.barrier();
      }
    });
    for (const auto* matrices : {&weights, &projections}) // the L2 penalty
      for (const DualMatrix& m : *matrices)
        for (std::ptrdiff_t i = 0; m.place != Network::none && i < m.factor.ld * m.factor.n_in; ++i)
          out[m.place + i] += alpha / weight * m.factor.tangent[i];
  }

private:
  // A thread's.
  struct Room {
    DualRows row, column;
    std::vector<Number> z, y; // of a row's loss
    Room(const Network& network, int widest, std::int64_t n_rows, int R)
        : row(1, widest, R), column(1, int(n_rows), R), z(std::size_t(network.n_outputs())),
          y(std::size_t(network.n_targets())) {}
  };

  struct Chunk {
    std::int64_t first, n; // rows
    const Team& team;
    Room& room;
  };

  Units make_units(int l) const {
    const auto rows = [&](bool needed, int width) {
      return needed ? DualRows(std::ptrdiff_t(max_rows), width, kernels.rows) : DualRows();
    };
    Units u;
    u.n = network.sizes[l];
    const bool hidden = l > 0 && l < last;
    if (hidden)
      Normalizations::visit(network.normalizations[l - 1], [&](auto entry) {
        u.statistics = entry.statistics;
        u.centred = entry.centred;
      });
    u.a = rows(l < last, u.n);
    u.z = rows(l > 0, u.n);
    u.slopes = rows(hidden, u.n);
    u.deltas = rows(l > 0, u.n);
    u.of_rows = rows(u.statistics == Statistics::of_rows, 2);
    if (u.statistics == Statistics::of_units)
      for (auto* numbers : {&u.mean, &u.inverse, &u.sum, &u.along}) numbers->resize(std::size_t(u.n));
    return u;
  }

  template <class F> static void each_row(const Chunk& chunk, F&& visit) {
    const std::int64_t end = part(chunk.n, chunk.team, 1);
    for (std::int64_t i = part(chunk.n, chunk.team); i < end; ++i) visit(i);
  }
  template <class F> static void each_of(std::int64_t n, const Chunk& chunk, F&& visit) {
    const std::int64_t end = part(n, chunk.team, 1);
    for (std::int64_t j = part(n, chunk.team); j < end; ++j) visit(int(j));
  }

  // out = start + x M; `start` may be out, or nothing.
  void multiply(const Factor& M, Row x, Row start, const DualRows& out, std::int64_t i) const {
    const auto product = [&](const double* factor, const double* from, const double* row, double* to) {
      kernels.forward_row(factor, M.ld, from, row, M.n_in, M.n_out, -1, to);
    };
    product(M.value, start.value, x.value, out.value(i));
    if (x.tangent) product(M.value, start.tangent, x.tangent, out.tangent(i));
    product(M.tangent, x.tangent ? out.tangent(i) : start.tangent, x.value, out.tangent(i));
  }

  static Row row_of(const DualRows& rows, std::int64_t i) { return {rows.value(i), rows.tangent(i)}; }
  Number parameter(std::ptrdiff_t place, int j) const {
    return place == Network::none ? Number() : Number(flat[place + j], vector[place + j]);
  }
  double share(const Chunk& chunk, std::int64_t i) const {
    return (data.sample_weight ? data.sample_weight[chunk.first + i] : 1.0) / weight;
  }

  // --- forward -------------------------------------------------------------------------------------------------------

  void forward(const Chunk& chunk) {
    each_row(chunk, [&](std::int64_t i) { copy_rows(data.X, {nullptr, chunk.first + i, 1}, units[0].a.value(i)); });
    for (int l = 0; l < last; ++l) {
      each_row(chunk, [&](std::int64_t i) { sums(l, i); });
      if (l + 1 == last) break;
      if (units[l + 1].statistics == Statistics::of_units) {
        chunk.team.barrier();
        each_of(units[l + 1].n, chunk, [&](int j) { unit_statistics(chunk, units[l + 1], j); });
        chunk.team.barrier();
      }
      each_row(chunk, [&](std::int64_t i) { activate(l + 1, i); });
    }
  }

  void sums(int l, std::int64_t i) {
    const Units &below = units[l], &above = units[l + 1];
    const Row x{below.a.value(i), l > 0 ? below.a.tangent(i) : nullptr};
    multiply(weights[l].factor, x, {flat + network.biases[l], vector + network.biases[l]}, above.z, i);
    if (network.has_skip(l)) add_skip(projections[l].place, projections[l].factor, below.z, above.z, i);
  }

  void add_skip(std::ptrdiff_t place, const Factor& projection, const DualRows& from, const DualRows& to,
                std::int64_t i) const {
    if (place != Network::none) return multiply(projection, row_of(from, i), row_of(to, i), to, i);
    for (std::ptrdiff_t j = 0; j < to.ld; ++j) {
      to.value(i)[j] += from.value(i)[j];
      to.tangent(i)[j] += from.tangent(i)[j];
    }
  }

  static Number inverse_deviation(Number variance) {
    return Number(1) / square_root(variance + Number(normalization_epsilon));
  }

  void unit_statistics(const Chunk& chunk, Units& u, int j) const {
    Number mean, variance;
    for (std::int64_t i = 0; i < chunk.n; ++i) mean += Number(share(chunk, i)) * u.z.get(i, j);
    for (std::int64_t i = 0; i < chunk.n; ++i) {
      const Number distance = u.z.get(i, j) - mean;
      variance += Number(share(chunk, i)) * distance * distance;
    }
    u.mean[j] = mean;
    u.inverse[j] = inverse_deviation(variance);
  }

  static void row_statistics(const Units& u, std::int64_t i) {
    const Number n = double(u.n);
    Number mean, squares;
    for (int j = 0; u.centred && j < u.n; ++j) mean += u.z.get(i, j) / n;
    for (int j = 0; j < u.n; ++j) {
      const Number distance = u.z.get(i, j) - mean;
      squares += distance * distance;
    }
    u.of_rows.set(i, 0, mean);
    u.of_rows.set(i, 1, inverse_deviation(squares / n));
  }

  static Number standard(const Units& u, std::int64_t i, int j) { // before scale and offset
    const Number z = u.z.get(i, j);
    if (u.statistics == Statistics::none) return z;
    if (u.statistics == Statistics::of_rows) return (z - u.of_rows.get(i, 0)) * u.of_rows.get(i, 1);
    return (z - u.mean[j]) * u.inverse[j];
  }
  Number scale(int l, int j) const {
    return units[l].statistics == Statistics::none ? Number(1) : parameter(network.scales[l - 1], j);
  }
  Number argument(int l, std::int64_t i, int j) const { // of the activation
    const Number s = standard(units[l], i, j);
    return units[l].statistics == Statistics::none ? s : s * scale(l, j) + parameter(network.offsets[l - 1], j);
  }

  void activate(int l, std::int64_t i) const {
    const Units& u = units[l];
    if (u.statistics == Statistics::of_rows) row_statistics(u, i);
    Activations::visit(network.activations[l - 1], [&](auto activation) {
      for (int j = 0; j < u.n; ++j) u.a.set(i, j, activation.value(argument(l, i, j)));
    });
  }

  // --- backward ------------------------------------------------------------------------------------------------------

  void backward(const Chunk& chunk) {
    each_row(chunk, [&](std::int64_t i) { loss(chunk, i); });
    for (int l = last - 1; l > 0; --l) {
      each_row(chunk, [&](std::int64_t i) { differentiate(chunk, l, i); });
      if (units[l].statistics == Statistics::of_units) {
        chunk.team.barrier();
        each_of(units[l].n, chunk, [&](int j) { unit_slopes(chunk, l, j); });
        chunk.team.barrier();
      }
      each_row(chunk, [&](std::int64_t i) {
        normalize_back(chunk, l, i);
        const DualMatrix& projection = projections[l];
        if (network.has_skip(l)) add_skip(projection.place, projection.back, units[l + 1].deltas, units[l].deltas, i);
      });
    }
  }

  void loss(const Chunk& chunk, std::int64_t i) {
    std::vector<Number>&z = chunk.room.z, &y = chunk.room.y;
    const int n_outputs = network.n_outputs(), n_targets = network.n_targets();
    const std::int64_t row = chunk.first + i;
    for (int k = 0; k < n_outputs; ++k) z[k] = units[last].z.get(i, k);
    activate_outputs(i, z,
                     [](auto activation, Number argument, Number& output) { output = activation.value(argument); });
    for (int k = 0; k < n_targets; ++k)
      y[k] = data.labels ? double(data.labels[row] == k) : data.y[row * n_targets + k];
    const Number weight = share(chunk, i);
    Losses::visit(network.loss.number,
                  [&](auto entry) { entry.row(z.data(), y.data(), n_targets, 1, network.loss.hyperparameters()); });
    activate_outputs(i, z, [](auto activation, Number argument, Number& gradient) {
      gradient = gradient * activation.slope(argument, activation.value(argument));
    });
    for (int k = 0; k < n_outputs; ++k) units[last].deltas.set(i, k, weight * z[k]);
  }

  // `f(activation, sum, number)` for each output, if there is an activation before the loss.
  template <class F> void activate_outputs(std::int64_t i, std::vector<Number>& numbers, const F& f) const {
    if (network.output_activation < 0) return;
    Activations::visit(network.output_activation, [&](auto activation) {
      for (int k = 0; k < network.n_outputs(); ++k) f(activation, units[last].z.get(i, k), numbers[k]);
    });
  }

  void differentiate(const Chunk& chunk, int l, std::int64_t i) const {
    const Units& u = units[l];
    const DualRows& g = chunk.room.row;
    multiply(weights[l].back, row_of(units[l + 1].deltas, i), {nullptr, nullptr}, g, 0);
    Activations::visit(network.activations[l - 1], [&](auto activation) {
      for (int j = 0; j < u.n; ++j) {
        const Number a = u.a.get(i, j), z = activation.slope_from_output ? a : argument(l, i, j);
        u.slopes.set(i, j, g.get(0, j) * activation.slope(z, a));
      }
    });
  }

  void unit_slopes(const Chunk& chunk, int l, int j) {
    Units& u = units[l];
    Number sum, along;
    for (std::int64_t i = 0; i < chunk.n; ++i) {
      sum += u.slopes.get(i, j);
      along += u.slopes.get(i, j) * standard(u, i, j);
    }
    u.sum[j] = scale(l, j) * sum;
    u.along[j] = scale(l, j) * along;
  }

  // Deltas of a row from its slopes: these lose their mean and their part along z.
  void normalize_back(const Chunk& chunk, int l, std::int64_t i) const {
    const Units& u = units[l];
    const Number n = double(u.n), of_batch = share(chunk, i);
    Number mean, along;
    for (int j = 0; u.statistics == Statistics::of_rows && j < u.n; ++j) {
      const Number slope = u.slopes.get(i, j) * scale(l, j) / n;
      if (u.centred) mean += slope;
      along += slope * standard(u, i, j);
    }
    for (int j = 0; j < u.n; ++j) {
      Number delta = u.slopes.get(i, j) * scale(l, j);
      if (u.statistics == Statistics::of_rows) delta = (delta - mean - standard(u, i, j) * along) * u.of_rows.get(i, 1);
      if (u.statistics == Statistics::of_units)
        delta = (delta - of_batch * (u.sum[j] + standard(u, i, j) * u.along[j])) * u.inverse[j];
      u.deltas.set(i, j, delta);
    }
  }

  // --- the tangents of the gradient, each summed over the rows by one thread
  // -------------------------------------------

  void add_gradients(const Chunk& chunk) {
    for (int l = 0; l < last; ++l) {
      const Units& above = units[l + 1];
      add_matrix(chunk, weights[l], units[l].a, above);
      if (projections[l].place != Network::none) add_matrix(chunk, projections[l], units[l].z, above);
      each_of(above.n, chunk, [&](int j) {
        for (std::int64_t i = 0; i < chunk.n; ++i) out[network.biases[l] + j] += above.deltas.tangent(i)[j];
      });
      if (above.statistics == Statistics::none) continue;
      each_of(above.n, chunk, [&](int j) {
        Number scale, offset;
        for (std::int64_t i = 0; i < chunk.n; ++i) {
          scale += above.slopes.get(i, j) * standard(above, i, j);
          offset += above.slopes.get(i, j);
        }
        out[network.scales[l] + j] += scale.tangent;
        if (above.centred) out[network.offsets[l] + j] += offset.tangent;
      });
    }
  }

  // Row k of the matrix gets column k of what it multiplies, times the deltas above.
  void add_matrix(const Chunk& chunk, const DualMatrix& m, const DualRows& below, const Units& above) {
    const DualRows &column = chunk.room.column, &row = chunk.room.row;
    const int n_rows = int(chunk.n), n_out = above.n;
    each_of(m.factor.n_in, chunk, [&](int k) {
      for (int i = 0; i < n_rows; ++i) column.set(0, i, below.get(i, k));
      double* const g = out + m.place + std::ptrdiff_t(k) * n_out;
      const std::ptrdiff_t ld = above.deltas.ld;
      kernels.forward_row(above.deltas.value(0), ld, g, column.tangent(0), n_rows, n_out, -1, row.value(0));
      kernels.forward_row(above.deltas.tangent(0), ld, row.value(0), column.value(0), n_rows, n_out, -1, row.value(0));
      std::copy_n(row.value(0), n_out, g);
    });
  }

  const Network& network;
  const Kernels<double>& kernels;
  const int last; // layer of units
  const double *flat, *vector;
  const Dataset<double>& data;
  const double weight; // of all rows
  double* out;
  double flops_per_row = 0;
  int widest = 0;
  std::int64_t max_rows = 0;
  std::vector<DualMatrix> weights, projections;
  std::vector<Units> units;
};

} // namespace

void cpu_hessian_vector_product(const Network& network, const double* flat, const Dataset<double>& data, double alpha,
                                const double* vector, int n_threads, double* out) {
  HessianVectorProduct(network, flat, vector, data, out).run(alpha, n_threads);
}

} // namespace fastmlp
