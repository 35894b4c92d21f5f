#include "plan.hpp"

#include "room.hpp"

#include <string_view>

namespace fastmlp::cuda {

namespace {

// For terms that stay in real numbers.
Precision in_full(Precision precision) { return precision == Precision::bf16 ? Precision::tf32 : precision; }

int slots_of(const Rule& rule) { // without that of the average
  int n_slots = 0;
  Optimizers::visit(rule.optimizer, [&](auto entry) { n_slots = int(std::size(entry.slots)); });
  return n_slots;
}

} // namespace

struct Plan::Batch {
  std::vector<Op> ops;
  Rows rows;
  int stride;
  bool training;          // with dropout and the statistics of this batch
  bool is_second = false; // its inputs are in the other buffer
};

Plan::Plan(const Network& network, const Layout& layout, Precision precision, bool is_double,
           const Capabilities& capabilities)
    : buffers(network), network(network), layout(layout), precision(precision), is_double(is_double),
      capabilities(capabilities) {
  const auto may_be = [&](Way way) { return capabilities.way == Way::chosen || capabilities.way == way; };
  if (is_double || capabilities.shared_bytes == 0) return;
  if (may_be(Way::fused)) fused = fused_plan(network, precision, capabilities.shared_bytes, layout);
  if (fused || !may_be(Way::cooperative)) return;
  cooperative = cooperative_plan(network, precision, layout);
  if (cooperative && cooperative->shared_bytes + kernels_own_bytes > capabilities.shared_bytes) cooperative.reset();
}

// --- lists
// ------------------------------------------------------------------------------------------------------------

std::vector<Op> Plan::steps(int n_steps, const Rows& rows, int stride, double alpha, const Rule& rule) const {
  if (is_cooperative(rows.n) && !(rule.clip_norm < infinity))
    return {cooperative_steps(n_steps, rows, stride, alpha, rule)};
  Batch batch{{}, rows, stride, true};
  for (int i = 0; i < n_steps; ++i) {
    batch.rows.ahead = std::int64_t(i) * rows.n;
    batch.is_second = i % 2 != 0;
    step(batch, alpha, rule);
  }
  if (n_steps > 0) std::get<Update>(batch.ops.back()).advance = std::int64_t(n_steps) * rows.n;
  return batch.ops;
}

void Plan::step(Batch& batch, double alpha, const Rule& rule) const {
  Gradient from{View{gradient, 0, 0}};
  if (fused) {
    from = Gradient{View{buffers.fused_parts(), 0, 0}, blocks_for(batch.rows.n)};
    batch.ops.push_back(FusedStep{batch.rows, *fused, precision, batch.stride, from.n_parts, from.view,
                                  View{buffers.fused_sums(), 0, 0}});
  } else {
    forward(batch, network.n_layers());
    loss(batch, true);
    backward(batch);
  }
  Update last = update(alpha, rule);
  last.gradient = from;
  if (rule.clip_norm < infinity) {
    batch.ops.push_back(
        FinishGradient{alpha, layout.matrices, layout.trained, from, View{buffers.norm_partials(), 0, 0}});
    last.gradient.n_parts = 1;
  }
  batch.ops.push_back(last);
}

CooperativeSteps Plan::cooperative_steps(int n_steps, const Rows& rows, int stride, double alpha,
                                         const Rule& rule) const {
  return {rows,
          n_steps,
          *cooperative,
          precision,
          stride,
          capabilities.n_multiprocessors,
          alpha,
          rule.clip_value,
          rule.optimizer,
          slots_of(rule),
          rule.ema_decay > 0,
          precision == Precision::bf16,
          layout.matrices,
          layout.trained,
          layout.size,
          {buffers.cooperative_room(), 0, 0},
          {buffers.cooperative_sums(), 0, 0},
          {buffers.cooperative_partials(), 0, 0}};
}

Update Plan::update(double alpha, const Rule& rule) const {
  return {alpha,
          rule.clip_norm,
          rule.clip_value,
          rule.optimizer,
          slots_of(rule),
          rule.ema_decay > 0,
          precision == Precision::bf16,
          0,
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
  return {Shadow{layout.trained}};
}

// --- forward
// ----------------------------------------------------------------------------------------------------------

// To the sums of layer `to`.
void Plan::forward(Batch& batch, int to) const {
  const Drop drop{batch.training ? network.dropout[0] : 0, 0};
  batch.ops.push_back(
      Gather{batch.rows, View{features, 0, batch.stride}, units_view(batch, 0), network.n_inputs(), drop});
  const View workspace{buffers.workspace(0), 0, 0};
  for (int l = 0; l < to; ++l) {
    if (l > 0) hidden_forward(batch, l);
    const bool is_relu = is_relu_alone(l + 1);
    const View z = rows_view(Buffers::sums, l + 1);
    Product product{batch.rows.n,
                    network.sizes[l + 1],
                    network.sizes[l],
                    false,
                    false,
                    units_view(batch, l),
                    as_operand(layout.coefs[l]),
                    is_relu ? units_view(batch, l + 1) : z,
                    precision,
                    workspace};
    if (is_relu) {
      product.finish = Finish::relu;
      product.narrow = precision == Precision::bf16;
      product.bias = as_operand(layout.biases[l]);
      if (batch.training) product.mask = mask_view(l + 1);
    }
    batch.ops.push_back(product);
    if (!layout.projections[l]) continue;
    Product along{batch.rows.n,
                  network.sizes[l + 1],
                  network.sizes[l],
                  false,
                  false,
                  rows_view(Buffers::sums, l),
                  layout.projections[l],
                  z,
                  in_full(precision),
                  workspace};
    along.addend = z;
    batch.ops.push_back(along);
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
  const int n = batch.rows.n;
  const View down{buffers.workspace(0), 0, 0}, beside{buffers.workspace(1), 0, 0};
  for (int l = network.n_layers() - 1; l >= 0; --l) {
    const int above = l + 1, fan_in = network.sizes[l], fan_out = network.sizes[above];
    const View delta = rows_view(operand, above);
    if (l > 0) {
      const bool is_relu = is_relu_alone(l);
      Product product{n,
                      fan_in,
                      fan_out,
                      false,
                      true,
                      delta,
                      as_operand(layout.coefs[l]),
                      rows_view(is_relu ? operand : Buffers::deltas, l),
                      precision,
                      down};
      if (is_relu) {
        product.finish = Finish::relu_slope;
        product.narrow = precision == Precision::bf16;
        product.units = units_view(batch, l);
        product.mask = mask_view(l);
      }
      batch.ops.push_back(product);
    }
    Product gradients{fan_in,    fan_out, n, true, false, units_view(batch, l), delta, in_gradient(layout.coefs[l]),
                      precision, beside};
    const View bias_gradient = in_gradient(layout.biases[l]), room{buffers.of(Buffers::room, above), 0, 0};
    if (adds_up(gradients)) {
      gradients.column_sums = bias_gradient;
      gradients.room = room;
    } else {
      Hidden of_biases{};
      of_biases.rows = batch.rows;
      of_biases.units = fan_out;
      batch.ops.push_back(SumColumns{of_biases, delta, bias_gradient, View{}, room});
    }
    batch.ops.push_back(gradients);
    if (layout.projections[l])
      batch.ops.push_back(Product{fan_in, fan_out, n, true, false, rows_view(Buffers::sums, l),
                                  rows_view(Buffers::deltas, above), in_gradient(layout.projections[l]),
                                  in_full(precision), beside});
    if (l > 0 && !is_relu_alone(l)) hidden_backward(batch, l);
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
  Product along{batch.rows.n,
                network.sizes[l],
                network.sizes[l + 1],
                false,
                true,
                rows_view(Buffers::deltas, l + 1),
                layout.projections[l],
                delta,
                in_full(precision),
                View{buffers.workspace(0), 0, 0}};
  along.addend = delta;
  batch.ops.push_back(along);
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

View Plan::units_view(const Batch& batch, int layer) const {
  View view = rows_view(Buffers::units, layer);
  if (layer == 0 && batch.is_second) view.buffer = buffers.other_inputs();
  return view;
}

View Plan::mask_view(int layer) const { return {buffers.of(Buffers::masks, layer), 0, mask_ld(network.sizes[layer])}; }

// As products read it.
View Plan::as_operand(View parameter) const {
  if (precision == Precision::bf16) parameter.buffer = shadow;
  return parameter;
}

View Plan::in_gradient(View parameter) const {
  if (parameter) parameter.buffer = gradient;
  return parameter;
}

int Plan::blocks_for(int n_rows) const {
  return fused_blocks(*fused, n_rows, capabilities.n_multiprocessors, capabilities.shared_of_multiprocessor);
}

// Whether the product for the gradients of weights adds up those of biases, too. Beside a large one that might cost it
// the division of its depth, without which there is not work for all multiprocessors; for small ones kernels count.
bool Plan::adds_up(const Product& product) const {
  const bool can = !is_double && capabilities.adds_up[std::size_t(precision)];
  return can && 2.0 * product.m * product.n * product.k <= 4e9;
}

bool Plan::is_cooperative(int n_rows) const {
  return cooperative && (capabilities.way == Way::cooperative || cooperative->is_small(n_rows));
}

// Whether products apply the activation and its slope themselves, as they can apply this one: nothing else needs the
// sums.
bool Plan::is_relu_alone(int layer) const {
  const int l = layer - 1;
  if (layer == network.n_layers()) return false;
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

} // namespace fastmlp::cuda
