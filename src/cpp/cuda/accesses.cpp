#include "accesses.hpp"

#include <algorithm>
#include <limits>

namespace fastmlp::cuda {

namespace {

// Collects the accesses of one operation.
class Accesses {
public:
  explicit Accesses(const Network& network) : network(network) {}

  void operator()(const Gather& op) {
    read_rows(op.rows);
    if (op.rows.has_labels) all(labels, false);
    all(features, false);
    write(op.out, op.rows.n, op.columns);
  }
  void operator()(const Product& op) {
    op.transpose_a ? read(op.a, op.k, op.m) : read(op.a, op.m, op.k);
    op.transpose_b ? read(op.b, op.n, op.k) : read(op.b, op.k, op.n);
    read(op.addend, op.m, op.n);
    read(op.bias, 1, op.n);
    write(op.c, op.m, op.n);
    if (op.workspace) all(op.workspace.buffer, true);
  }
  void operator()(const Moments& op) {
    read_rows(op.rows);
    read(op.layer.z, op.layer.n, op.layer.units);
    write(op.layer.statistics, 2, op.layer.units);
    update(op.running_mean, 1, op.layer.units);
    update(op.running_variance, 1, op.layer.units);
    all(partial_sums, true);
  }
  void operator()(const UseRunning& op) {
    read(op.running_mean, 1, op.layer.units);
    read(op.running_variance, 1, op.layer.units);
    write(op.layer.statistics, 2, op.layer.units);
  }
  void operator()(const Activate& op) {
    const Hidden& layer = op.layer;
    read(layer.z, layer.n, layer.units);
    read_scales(layer);
    drops(layer.drop);
    if (statistics_of(layer) == Statistics::of_units) read(layer.statistics, 2, layer.units);
    if (statistics_of(layer) == Statistics::of_rows) write(layer.statistics, 2, layer.n);
    write(layer.a, layer.n, layer.units);
  }
  void operator()(const LossRows& op) {
    read_rows(op.rows);
    all(op.rows.has_labels ? labels : targets, false);
    if (op.rows.has_weights) all(row_weights, false);
    read(op.in, op.rows.n, network.n_outputs());
    write(op.out, op.rows.n, network.n_outputs());
    all(state, true);
    all(reports, true);
    all(partial_sums, true);
  }
  void operator()(const Slope& op) {
    const Hidden& layer = op.layer;
    read(op.gradient, layer.n, layer.units);
    read(layer.z, layer.n, layer.units);
    read(layer.a, layer.n, layer.units);
    read_scales(layer);
    read_statistics(layer);
    drops(layer.drop);
    read(op.addend, layer.n, layer.units);
    write(op.delta, layer.n, layer.units);
  }
  void operator()(const ScaleGradients& op) {
    read(op.delta, op.layer.n, op.layer.units);
    read(op.layer.z, op.layer.n, op.layer.units);
    read_statistics(op.layer);
    write(op.scale_gradient, 1, op.layer.units);
    write(op.offset_gradient, 1, op.layer.units);
    all(partial_sums, true);
  }
  void operator()(const Denormalize& op) {
    const Hidden& layer = op.layer;
    read_rows(op.rows);
    read(layer.z, layer.n, layer.units);
    read_scales(layer);
    read_statistics(layer);
    if (statistics_of(layer) == Statistics::of_units) {
      read(op.scale_gradient, 1, layer.units);
      read(op.offset_gradient, 1, layer.units);
      all(state, false); // the weight of the batch
      if (op.rows.has_weights) all(row_weights, false);
    }
    read(op.addend, layer.n, layer.units);
    update(op.delta, layer.n, layer.units);
  }
  void operator()(const ColumnSums& op) {
    read(op.in, op.n, op.columns);
    write(op.out, 1, op.columns);
    all(partial_sums, true);
  }
  void operator()(const Norm& op) {
    add({gradient, 0, op.trained, true});
    add({gradient, 0, op.trained, false});
    add({parameters, 0, op.matrices, false});
    all(state, true);
    all(partial_sums, true);
  }
  void operator()(const Update& op) {
    add({gradient, 0, op.trained, false});
    add({parameters, 0, op.trained, true});
    add({parameters, 0, op.trained, false});
    const std::ptrdiff_t end = (op.n_slots + op.averages) * op.slot_size;
    add({slots, 0, end, true});
    add({slots, 0, end, false});
    all(step_table, false);
    all(state, true);
    all(reports, true);
    all(partial_sums, true);
  }
  void operator()(const Shadow& op) {
    add({parameters, 0, op.matrices, false});
    add({shadow, 0, op.matrices, true});
  }

  std::vector<Access> found;

private:
  static Statistics statistics_of(const Hidden& layer) { return Network::statistics_of(layer.normalization); }

  void add(const Access& access) {
    if (access.end > access.begin) found.push_back(access);
  }
  void all(int buffer, bool writes) { add({buffer, 0, std::numeric_limits<std::ptrdiff_t>::max(), writes}); }
  void add(const View& view, std::ptrdiff_t rows, int columns, bool writes) {
    if (view) add({view.buffer, view.offset, view.offset + (rows - 1) * view.ld + columns, writes});
  }
  void read(const View& view, std::ptrdiff_t rows, int columns) { add(view, rows, columns, false); }
  void write(const View& view, std::ptrdiff_t rows, int columns) { add(view, rows, columns, true); }
  void update(const View& view, std::ptrdiff_t rows, int columns) {
    read(view, rows, columns);
    write(view, rows, columns);
  }

  void read_rows(const Rows& rows) {
    all(state, false);
    if (rows.ordered) all(row_order, false);
    if (rows.has_weights) all(row_weights, false);
  }
  void read_scales(const Hidden& layer) {
    read(layer.scale, 1, layer.units);
    read(layer.offset, 1, layer.units);
  }
  void read_statistics(const Hidden& layer) {
    if (statistics_of(layer) != Statistics::none)
      read(layer.statistics, 2, statistics_of(layer) == Statistics::of_rows ? layer.n : layer.units);
  }
  void drops(const Drop& drop) {
    if (drop.share > 0) all(state, false);
  }

  const Network& network;
};

} // namespace

std::vector<Access> accesses(const Network& network, const Op& op) {
  Accesses collect(network);
  std::visit(collect, op);
  return collect.found;
}

std::vector<std::vector<int>> predecessors(const Network& network, const std::vector<Op>& ops) {
  std::vector<std::vector<Access>> of_op;
  std::vector<std::vector<int>> found(ops.size());
  std::vector<std::vector<bool>> before(ops.size()); // all that must be done first, near and far
  for (int i = 0; i < int(ops.size()); ++i) {
    of_op.push_back(accesses(network, ops[i]));
    before[i].resize(std::size_t(i));
    for (int j = i - 1; j >= 0; --j) {
      if (before[i][j]) continue;
      const auto meets = [&](const Access& mine) {
        return std::any_of(of_op[j].begin(), of_op[j].end(), [&](const Access& a) { return mine.conflicts(a); });
      };
      if (!std::any_of(of_op[i].begin(), of_op[i].end(), meets)) continue;
      found[i].push_back(j);
      before[i][j] = true;
      for (int k = 0; k < j; ++k) before[i][k] = before[i][k] || before[j][k];
    }
  }
  return found;
}

} // namespace fastmlp::cuda
