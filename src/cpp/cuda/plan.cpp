#include "plan.hpp"

#include "room.hpp"

#include <string_view>

namespace fastmlp::cuda {

struct Plan::Batch {
  std::vector<Op> ops;
  Rows rows;
  int stride;
  bool training; // with dropout and the statistics of this batch
};

Plan::Plan(const Network& network, const Layout& layout, Precision precision, bool is_double,
           const Capabilities& capabilities)
    : buffers(network), network(network), layout(layout), precision(precision), is_double(is_double),
      n_multiprocessors(capabilities.n_multiprocessors) {
  if (!is_double && capabilities.shared_bytes > 0)
    fused = fused_plan(network, precision, capabilities.shared_bytes, layout);
}

// --- lists
// ------------------------------------------------------------------------------------------------------------

std::vector<Op> Plan::step(const Rows& rows, int stride, double alpha, const Rule& rule) const {
  Batch batch{{}, rows, stride, true};
  Gradient from{View{gradient, 0, 0}};
  if (fused) {
    from = Gradient{View{buffers.fused_parts(), 0, 0}, fused_blocks(*fused, rows.n, n_multiprocessors)};
    batch.ops.push_back(
        FusedStep{rows, *fused, precision, stride, from.n_parts, from.view, View{buffers.fused_sums(), 0, 0}});
  } else {
    forward(batch, network.n_layers());
    loss(batch, true);
    backward(batch);
  }
  Update last = update(alpha, rule, rows.n);
  last.gradient = from;
  if (rule.clip_norm < infinity) {
    batch.ops.push_back(
        FinishGradient{alpha, layout.matrices, layout.trained, from, View{buffers.norm_partials(), 0, 0}});
    last.gradient.n_parts = 1;
  }
  batch.ops.push_back(last);
  return batch.ops;
}

Update Plan::update(double alpha, const Rule& rule, int n_rows) const {
  int n_slots = 0;
  Optimizers::visit(rule.optimizer, [&](auto entry) { n_slots = int(std::size(entry.slots)); });
  return {alpha,
          rule.clip_norm,
          rule.clip_value,
          rule.optimizer,
          n_slots,
          rule.ema_decay > 0,
          precision == Precision::bf16,
          n_rows,
          layout.matrices,
          layout.trained,
          layout.size,
          Gradient{View{gradient, 0, 0}},
          {buffers.update_partials(), 0, 0}};
}

std::vector<Op> Plan::loss_and_gradient(const Rows& rows, int stride, double alpha) const {
  Batch batch{{}, rows, stride, true};
  forward(batch, network.n_layers());
  loss(batch, true);
  backward(batch);
  batch.ops.push_back(FinishGradient{alpha, layout.matrices, layout.trained, Gradient{View{gradient, 0, 0}},
                                     View{buffers.norm_partials(), 0, 0}});
  return batch.ops;
}

std::vector<Op> Plan::evaluation(const Rows& rows, int stride) const {
  Batch batch{{}, rows, stride, false};
  forward(batch, network.n_layers());
  loss(batch, false);
  return batch.ops;
}

std::vector<Op> Plan::prediction(const Rows& rows, int stride, int layer) const {
  Batch batch{{}, rows, stride, false};
  forward(batch, layer);
  const int last = network.n_layers();
  if (layer < last)
    hidden_forward(batch, layer);
  else
    batch.ops.push_back(LinkRows{rows, rows_view(Buffers::sums, last), layout.biases[std::size_t(last - 1)],
                                 View{buffers.predictions(), 0, network.n_outputs()}, View{buffers.loss_room(), 0, 0}});
  return batch.ops;
}

std::vector<Op> Plan::refresh_shadow() const {
  if (precision != Precision::bf16) return {};
  return {Shadow{layout.matrices}};
}

// --- forward
// ----------------------------------------------------------------------------------------------------------

// To the sums of layer `to`.
void Plan::forward(Batch& batch, int to) const {
  const Drop drop{batch.training ? network.dropout[0] : 0, 0};
  batch.ops.push_back(
      Gather{batch.rows, View{features, 0, batch.stride}, rows_view(Buffers::units, 0), network.n_inputs(), drop});
  for (int l = 0; l < to; ++l) {
    if (l > 0) hidden_forward(batch, l);
    const bool fused = is_relu_alone(l + 1);
    batch.ops.push_back(Product{batch.rows.n, network.sizes[l + 1], network.sizes[l], false, false,
                                rows_view(Buffers::units, l), weights_operand(l),
                                rows_view(fused ? Buffers::units : Buffers::sums, l + 1), View{},
                                fused ? layout.biases[l] : View{}, fused, precision, View{buffers.workspace(0), 0, 0}});
    if (!layout.projections[l]) continue;
    const View z = rows_view(Buffers::sums, l + 1); // in full precision, as its other term
    batch.ops.push_back(Product{batch.rows.n, network.sizes[l + 1], network.sizes[l], false, false,
                                rows_view(Buffers::sums, l), layout.projections[l], z, z, View{}, false,
                                precision == Precision::bf16 ? Precision::tf32 : precision,
                                View{buffers.workspace(0), 0, 0}});
  }
}

// From the sums of a hidden layer to its units.
void Plan::hidden_forward(Batch& batch, int layer) const {
  if (is_relu_alone(layer)) return;
  const int l = layer - 1; // its weights
  const Hidden hidden = this->hidden(batch, layer);
  const View skip = network.has_skip(l) && !layout.projections[l] ? rows_view(Buffers::sums, l) : View{};
  if (Network::statistics_of(hidden.normalization) != Statistics::of_units) {
    batch.ops.push_back(Activate{hidden, layout.biases[l], skip, keeps_z(layer)});
    return;
  }
  batch.ops.push_back(AddBias{hidden, layout.biases[l], skip});
  if (batch.training)
    batch.ops.push_back(
        Moments{hidden, layout.means[l], layout.variances[l], View{buffers.of(Buffers::room, layer), 0, 0}});
  else
    batch.ops.push_back(UseRunning{hidden, layout.means[l], layout.variances[l]});
  batch.ops.push_back(Activate{hidden, View{}, View{}, false});
}

void Plan::loss(Batch& batch, bool gradient) const {
  const int last = network.n_layers();
  const View z = rows_view(Buffers::sums, last), bias = layout.biases[std::size_t(last - 1)],
             room{buffers.loss_room(), 0, 0}, partials{buffers.loss_partials(), 0, 0};
  const View delta = rows_view(precision == Precision::bf16 ? Buffers::operands : Buffers::deltas, last);
  batch.ops.push_back(LossRows{batch.rows, z, bias, gradient ? delta : View{}, room, partials});
  if (!gradient)
    batch.ops.push_back(LinkRows{batch.rows, z, bias, View{buffers.predictions(), 0, network.n_outputs()}, room});
}

// --- backward
// ---------------------------------------------------------------------------------------------------------

void Plan::backward(Batch& batch) const {
  const Buffers::Kind operand = precision == Precision::bf16 ? Buffers::operands : Buffers::deltas;
  const Precision in_full = precision == Precision::bf16 ? Precision::tf32 : precision;
  const int n = batch.rows.n;
  for (int l = network.n_layers() - 1; l >= 0; --l) {
    const int above = l + 1, fan_in = network.sizes[l], fan_out = network.sizes[above];
    const View delta = rows_view(operand, above), full_delta = rows_view(Buffers::deltas, above);
    const View ways[] = {View{buffers.workspace(0), 0, 0}, View{buffers.workspace(1), 0, 0}};
    if (l > 0)
      batch.ops.push_back(Product{n, fan_in, fan_out, false, true, delta, weights_operand(l),
                                  rows_view(Buffers::deltas, l), View{}, View{}, false, precision, ways[0]});
    batch.ops.push_back(Product{fan_in, fan_out, n, true, false, rows_view(Buffers::units, l), delta,
                                in_gradient(layout.coefs[l]), View{}, View{}, false, precision, ways[1]});
    Hidden of_biases{};
    of_biases.rows = batch.rows;
    of_biases.units = fan_out;
    batch.ops.push_back(SumColumns{of_biases, delta, in_gradient(layout.biases[l]), View{},
                                   View{buffers.of(Buffers::room, above), 0, 0}});
    if (layout.projections[l])
      batch.ops.push_back(Product{fan_in, fan_out, n, true, false, rows_view(Buffers::sums, l), full_delta,
                                  in_gradient(layout.projections[l]), View{}, View{}, false, in_full, ways[1]});
    if (l > 0) hidden_backward(batch, l);
  }
}

// From the gradient by the units of a hidden layer, which is where its deltas will be, to the deltas of its sums.
void Plan::hidden_backward(Batch& batch, int layer) const {
  const int l = layer; // the weights above
  const Hidden hidden = this->hidden(batch, layer);
  const bool normalizes = Network::statistics_of(hidden.normalization) != Statistics::none;
  const View delta = rows_view(Buffers::deltas, layer);
  const View operand = precision == Precision::bf16 ? rows_view(Buffers::operands, layer) : View{};
  const bool has_projection = bool(layout.projections[l]);
  const View skip = network.has_skip(l) && !has_projection ? rows_view(Buffers::deltas, layer + 1) : View{};
  const bool more = has_projection; // deltas along a projection come last: the operand must wait for them
  batch.ops.push_back(
      Differentiate{hidden, delta, normalizes ? View{} : skip, delta, normalizes || more ? View{} : operand});
  if (normalizes) {
    const View scale = in_gradient(layout.scales[layer - 1]), offset = in_gradient(layout.offsets[layer - 1]);
    const View room{buffers.of(Buffers::room, layer), 0, 0};
    batch.ops.push_back(SumColumns{hidden, delta, offset, scale, room});
    batch.ops.push_back(ThroughNormalization{hidden, scale, offset, skip, delta, more ? View{} : operand});
  }
  if (!has_projection) return;
  batch.ops.push_back(Product{batch.rows.n, network.sizes[l], network.sizes[l + 1], false, true,
                              rows_view(Buffers::deltas, l + 1), layout.projections[l], delta, delta, View{}, false,
                              precision == Precision::bf16 ? Precision::tf32 : precision,
                              View{buffers.workspace(0), 0, 0}});
  if (operand) batch.ops.push_back(Cast{batch.rows.n, network.sizes[l], delta, operand});
}

// --- what layers are made of
// ------------------------------------------------------------------------------------------

Hidden Plan::hidden(const Batch& batch, int layer) const {
  const int l = layer - 1;
  Hidden hidden{};
  hidden.rows = batch.rows;
  hidden.units = network.sizes[layer];
  hidden.activation = network.activations[l];
  hidden.normalization = network.normalizations[l];
  hidden.a = rows_view(Buffers::units, layer);
  hidden.z = is_relu_alone(layer) ? hidden.a : rows_view(Buffers::sums, layer);
  hidden.scale = layout.scales[l];
  hidden.offset = layout.offsets[l];
  if (batch.training) hidden.drop = {network.dropout[layer], layer};
  const Statistics statistics = Network::statistics_of(hidden.normalization);
  if (statistics != Statistics::none)
    hidden.statistics = View{buffers.of(Buffers::statistics, layer), 0,
                             padded(statistics == Statistics::of_rows ? batch.rows.n : hidden.units)};
  return hidden;
}

View Plan::rows_view(Buffers::Kind kind, int layer) const {
  return {buffers.of(kind, layer), 0, padded(network.sizes[layer])};
}

View Plan::weights_operand(int l) const {
  View view = layout.coefs[l];
  if (precision == Precision::bf16) view.buffer = shadow;
  return view;
}

View Plan::in_gradient(View parameter) const {
  if (parameter) parameter.buffer = gradient;
  return parameter;
}

// Whether the product may apply the activation itself, as it can apply this one: nothing else needs the sums.
bool Plan::is_relu_alone(int layer) const {
  const int l = layer - 1;
  if (layer == network.n_layers() || precision == Precision::bf16) return false;
  if (!network.is_direct(l) || network.dropout[layer] > 0) return false;
  return HiddenActivations::names()[std::size_t(network.activations[l])] == std::string_view("relu");
}

// Whether a later operation reads the sums of a hidden layer.
bool Plan::keeps_z(int layer) const {
  const int l = layer - 1;
  bool from_output = false;
  Activations::visit(network.activations[l], [&](auto entry) { from_output = entry.slope_from_output; });
  return !from_output || !network.is_direct(l);
}

std::vector<BufferSize> Plan::sizes(int n_rows, bool training) const {
  std::vector<BufferSize> sizes(std::size_t(buffers.end() - n_shared_buffers), BufferSize{Element::byte, 0});
  const auto set = [&](int buffer, Element element, std::size_t n) {
    sizes[std::size_t(buffer - n_shared_buffers)] = {element, n};
  };
  const Element operand = precision == Precision::bf16 ? Element::bfloat16 : Element::real;
  const std::size_t n = std::size_t(n_rows);
  const int last = network.n_layers();
  for (int layer = 0; layer <= last; ++layer) {
    const std::size_t all = n * std::size_t(padded(network.sizes[layer]));
    if (layer < last) set(buffers.of(Buffers::units, layer), operand, all);
    if (layer > 0 && !is_relu_alone(layer)) set(buffers.of(Buffers::sums, layer), Element::real, all);
    if (layer > 0 && training) {
      set(buffers.of(Buffers::deltas, layer), Element::real, all);
      if (precision == Precision::bf16) set(buffers.of(Buffers::operands, layer), Element::bfloat16, all);
      set(buffers.of(Buffers::room, layer), Element::wide,
          std::max(sums_room(n_rows, network.sizes[layer]), moments_room(n_rows, network.sizes[layer])));
    }
    if (layer > 0 && layer < last && Network::statistics_of(network.normalizations[layer - 1]) != Statistics::none)
      set(buffers.of(Buffers::statistics, layer), Element::real,
          2 * std::size_t(std::max(padded(n_rows), padded(network.sizes[layer]))));
  }
  const RowLoss loss = network.row_loss();
  set(buffers.loss_room(), Element::real, is_double ? loss_room<double>(loss, n_rows) : loss_room<float>(loss, n_rows));
  set(buffers.loss_partials(), Element::wide,
      is_double ? loss_partials<double>(loss, n_rows) : loss_partials<float>(loss, n_rows));
  set(buffers.norm_partials(), Element::wide, std::size_t(update_blocks(layout.trained)));
  set(buffers.update_partials(), Element::wide, std::size_t(update_blocks(layout.trained)));
  set(buffers.predictions(), Element::real, n * std::size_t(network.n_outputs()));
  if (fused && training) {
    const std::size_t n_blocks = std::size_t(fused_blocks(*fused, n_rows, n_multiprocessors));
    set(buffers.fused_parts(), Element::real, n_blocks * std::size_t(layout.trained));
    set(buffers.fused_sums(), Element::wide, 2 * n_blocks);
  }
  set(buffers.workspace(0), Element::byte, workspace_bytes);
  set(buffers.workspace(1), Element::byte, training ? workspace_bytes : 0);
  return sizes;
}

} // namespace fastmlp::cuda
