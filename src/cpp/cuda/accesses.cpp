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
    all(op.X.buffer, false);
    drops(op.drop);
    write(op.out, op.rows.n, op.columns);
  }
  void operator()(const Product& op) {
    op.transpose_a ? read(op.a, op.k, op.m) : read(op.a, op.m, op.k);
    op.transpose_b ? read(op.b, op.n, op.k) : read(op.b, op.k, op.n);
    read(op.addend, op.m, op.n);
    read(op.bias, 1, op.n);
    read(op.units, op.m, op.n);
    if (op.mask) all(op.mask.buffer, op.finish == Finish::relu);
    write(op.c, op.m, op.n);
    write(op.column_sums, 1, op.n);
    room(op.workspace);
    room(op.room);
  }
  void operator()(const AddBias& op) {
    update_units(op.layer.z, op.layer);
    read(op.bias, 1, op.layer.units);
    read_units(op.addend, op.layer);
  }
  void operator()(const Moments& op) {
    read_rows(op.layer.rows);
    read_weights(op.layer.rows);
    read_units(op.layer.z, op.layer);
    write(op.layer.statistics, 2, op.layer.units);
    read_state(progress);
    for (const View& running : {op.running_mean, op.running_variance}) {
      read(running, 1, op.layer.units);
      write(running, 1, op.layer.units);
    }
    room(op.room);
  }
  void operator()(const UseRunning& op) {
    read(op.running_mean, 1, op.layer.units);
    read(op.running_variance, 1, op.layer.units);
    write(op.layer.statistics, 2, op.layer.units);
  }
  void operator()(const Activate& op) {
    read_units(op.layer.z, op.layer);
    read(op.bias, 1, op.layer.units);
    read_units(op.addend, op.layer);
    read_scales(op.layer);
    drops(op.layer.drop);
    if (statistics_of(op.layer) == Statistics::of_rows)
      write(op.layer.statistics, 2, op.layer.rows.n);
    else
      read_statistics(op.layer);
    if (op.keeps_z) write_units(op.layer.z, op.layer);
    write_units(op.layer.a, op.layer);
  }
  void operator()(const LossRows& op) {
    read_rows(op.rows);
    read_weights(op.rows);
    all(op.rows.has_labels ? labels : targets, false);
    read(op.z, op.rows.n, network.n_outputs());
    read(op.bias, 1, network.n_outputs());
    write(op.delta, op.rows.n, network.n_outputs());
    add({state, batch_sums, batch_sums + 1, true});
    room(op.room);
    room(op.partials);
  }
  void operator()(const LinkRows& op) {
    read(op.z, op.rows.n, network.n_outputs());
    read(op.bias, 1, network.n_outputs());
    write(op.out, op.rows.n, network.n_outputs());
    room(op.room);
  }
  void operator()(const Differentiate& op) {
    read_units(op.gradient, op.layer);
    if (keeps_z(op.layer)) read_units(op.layer.z, op.layer);
    read_units(op.layer.a, op.layer);
    read_scales(op.layer);
    read_statistics(op.layer);
    drops(op.layer.drop);
    read_units(op.addend, op.layer);
    write_units(op.delta, op.layer);
    write_units(op.operand, op.layer);
  }
  void operator()(const SumColumns& op) {
    read_units(op.delta, op.layer);
    if (op.with_z) {
      read_units(op.layer.z, op.layer);
      read_statistics(op.layer);
    }
    write(op.alone, 1, op.layer.units);
    write(op.with_z, 1, op.layer.units);
    room(op.room);
  }
  void operator()(const ThroughNormalization& op) {
    read_units(op.layer.z, op.layer);
    read_scales(op.layer);
    read_statistics(op.layer);
    if (statistics_of(op.layer) == Statistics::of_units) {
      read_rows(op.layer.rows);
      read_weights(op.layer.rows);
      read_state(batch_sums);
      read(op.scale_gradient, 1, op.layer.units);
      read(op.offset_gradient, 1, op.layer.units);
    }
    read_units(op.addend, op.layer);
    update_units(op.delta, op.layer);
    write_units(op.operand, op.layer);
  }
  void operator()(const FusedStep& op) {
    read_rows(op.rows);
    read_weights(op.rows);
    all(features, false);
    all(op.rows.has_labels ? labels : targets, false);
    add({parameters, 0, op.plan.n_parameters, false});
    for (const Dropout<float>& dropout : op.plan.dropout)
      if (dropout.threshold != 0) read_state(progress);
    add({state, batch_sums, batch_sums + 1, true});
    all(op.parts.buffer, true);
    room(op.sums);
  }
  void operator()(const CooperativeSteps& op) {
    read_rows(op.rows);
    read_weights(op.rows);
    all(features, false);
    all(op.rows.has_labels ? labels : targets, false);
    update({parameters, 0, op.trained, true});
    update({slots, 0, (op.n_slots + op.averages) * op.slot_size, true});
    if (op.has_shadow) add({shadow, 0, op.trained, true});
    all(step_table, false);
    add({state, 0, batch_sums, false});
    add({state, 0, n_state_parts, true});
    all(reports, true);
    for (const View& view : {op.room, op.sums, op.partials}) room(view);
  }
  void operator()(const FinishGradient& op) {
    read_gradient(op.gradient, op.trained);
    add({op.gradient.view.buffer, 0, op.trained, true});
    add({parameters, 0, op.matrices, false});
    update({state, batch_sums, batch_sums + 1, true});
    room(op.partials);
  }
  void operator()(const Update& op) {
    read_gradient(op.gradient, op.trained);
    update({parameters, 0, op.trained, true});
    update({slots, 0, (op.n_slots + op.averages) * op.slot_size, true});
    if (op.has_shadow) add({shadow, 0, op.trained, true});
    all(step_table, false);
    update({state, progress, n_state_parts, true});
    if (op.advance != 0) update({state, position, position + 1, true});
    all(reports, true);
    room(op.partials);
  }
  void operator()(const Cast& op) {
    read(op.in, op.n, op.columns);
    write(op.out, op.n, op.columns);
  }
  void operator()(const Shadow& op) {
    add({parameters, 0, op.trained, false});
    add({shadow, 0, op.trained, true});
  }

  std::vector<Access> found;

private:
  static Statistics statistics_of(const Hidden& layer) { return Network::statistics_of(layer.normalization); }
  static bool keeps_z(const Hidden& layer) {
    bool from_output = false;
    Activations::visit(layer.activation, [&](auto entry) { from_output = entry.slope_from_output; });
    return !from_output;
  }

  void add(const Access& access) {
    if (access.end > access.begin) found.push_back(access);
  }
  void update(Access access) {
    add(access);
    access.writes = false;
    add(access);
  }
  void all(int buffer, bool writes) { add({buffer, 0, std::numeric_limits<std::ptrdiff_t>::max(), writes}); }
  void add(const View& view, std::ptrdiff_t rows, int columns, bool writes) {
    if (view) add({view.buffer, view.offset, view.offset + (rows - 1) * view.ld + columns, writes});
  }
  void read(const View& view, std::ptrdiff_t rows, int columns) { add(view, rows, columns, false); }
  void write(const View& view, std::ptrdiff_t rows, int columns) { add(view, rows, columns, true); }
  void read_units(const View& view, const Hidden& layer) { read(view, layer.rows.n, layer.units); }
  void write_units(const View& view, const Hidden& layer) { write(view, layer.rows.n, layer.units); }
  void update_units(const View& view, const Hidden& layer) {
    read_units(view, layer);
    write_units(view, layer);
  }
  void read_gradient(const Gradient& gradient, std::ptrdiff_t trained) {
    add({gradient.view.buffer, 0, gradient.n_parts * trained, false});
  }
  void room(const View& view) {
    if (view) all(view.buffer, true);
  }

  void read_state(StatePart part) { add({state, part, part + 1, false}); }
  void read_rows(const Rows& rows) {
    read_state(position);
    if (rows.ordered) all(row_order, false);
  }
  void read_weights(const Rows& rows) {
    if (rows.has_weights) all(row_weights, false);
  }
  void read_scales(const Hidden& layer) {
    read(layer.scale, 1, layer.units);
    read(layer.offset, 1, layer.units);
  }
  void read_statistics(const Hidden& layer) {
    if (statistics_of(layer) == Statistics::of_rows) read(layer.statistics, 2, layer.rows.n);
    if (statistics_of(layer) == Statistics::of_units) read(layer.statistics, 2, layer.units);
  }
  void drops(const Drop& drop) {
    if (drop.share > 0) read_state(progress);
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
