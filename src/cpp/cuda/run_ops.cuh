// Each operation as the kernel that does it: the same on a GPU and, in tests, on the host.
#pragma once

#include "device.hpp"
#include "kernels/gather.cuh"
#include "kernels/hidden_layers.cuh"
#include "kernels/loss_rows.cuh"
#include "kernels/products.cuh"
#include "kernels/sums.cuh"
#include "kernels/update.cuh"
#include "launch_cooperative.hpp"
#include "launch_narrow.hpp"

namespace fastmlp::cuda {

template <class T> class OpRunner {
public:
  // `loss_values`: hyper-parameters of the loss in the device's memory.
  OpRunner(const Network& network, const std::vector<Place>& places, const double* loss_values, Products<T>& products,
           cudaStream_t stream)
      : network(network), places(places), loss_values(loss_values), products(products), stream(stream) {}

  void operator()(const Gather& op) const {
    const BatchRows rows = rows_of(op.rows);
    const Dropout<T> dropout = dropout_of(op.drop);
    as_operand(op.out, [&](auto* out) {
      launch_gather<T>(stream, real(op.X), op.X.ld, rows, op.columns, dropout, out, op.out.ld);
    });
  }

  void operator()(const Product& op) const {
    products.run(op,
                 {raw(op.a), raw(op.b), raw(op.c), real(op.addend), raw(op.bias), raw(op.units), raw(op.mask),
                  real(op.column_sums), real(op.room), raw(op.workspace)},
                 stream);
  }

  void operator()(const AddBias& op) const {
    launch_add_bias<T>(stream, hidden(op.layer), real(op.bias), real(op.addend));
  }
  void operator()(const Moments& op) const {
    launch_unit_moments<T>(stream, hidden(op.layer), rows_of(op.layer.rows), targets_of(op.layer.rows),
                           static_cast<double*>(raw(op.room)), real(op.running_mean), real(op.running_variance));
  }
  void operator()(const UseRunning& op) const {
    const HiddenRows<T> layer = hidden(op.layer);
    launch_use_running_statistics<T>(stream, real(op.running_mean), real(op.running_variance), layer.n, layer.mean,
                                     layer.inverse);
  }
  void operator()(const Activate& op) const {
    as_operand(op.layer.a, [&](auto* a) {
      launch_activate<T>(stream, hidden(op.layer), real(op.bias), real(op.addend), op.keeps_z, a, op.layer.a.ld);
    });
  }

  void operator()(const LossRows& op) const {
    const auto run = [&](auto* delta) {
      launch_loss_rows<T>(stream, outputs(op.rows, op.z, op.bias), rows_of(op.rows), targets_of(op.rows), real(op.room),
                          delta, op.delta.ld, static_cast<double*>(raw(op.partials)), state_of());
    };
    if (op.delta)
      as_operand(op.delta, run);
    else
      run(static_cast<T*>(nullptr));
  }
  void operator()(const LinkRows& op) const {
    launch_link_rows<T>(stream, outputs(op.rows, op.z, op.bias), real(op.room), real(op.out));
  }

  void operator()(const Differentiate& op) const {
    const HiddenRows<T> layer = hidden(op.layer);
    as_operand(op.layer.a, [&](auto* a) {
      using A = std::remove_pointer_t<decltype(a)>;
      launch_differentiate<T, A>(stream, layer, real(op.gradient), op.gradient.ld, a, op.layer.a.ld, real(op.addend),
                                 op.addend.ld, real(op.delta), op.delta.ld, static_cast<A*>(raw(op.operand)));
    });
  }
  void operator()(const SumColumns& op) const {
    HiddenRows<T> layer = hidden(op.layer);
    as_operand(op.delta, [&](auto* delta) {
      using D = std::remove_pointer_t<decltype(delta)>;
      launch_sum_columns<T, D>(stream, layer, delta, op.delta.ld, real(op.alone), real(op.with_z), real(op.room));
    });
  }
  void operator()(const ThroughNormalization& op) const {
    const HiddenRows<T> layer = hidden(op.layer);
    as_operand(op.layer.a, [&](auto* a) {
      using A = std::remove_pointer_t<decltype(a)>;
      A* const operand = static_cast<A*>(raw(op.operand));
      if (layer.statistics == Statistics::of_rows)
        launch_through_rows<T, A>(stream, layer, real(op.addend), real(op.delta), operand, op.operand.ld);
      else
        launch_through_units<T, A>(stream, layer, rows_of(op.layer.rows), targets_of(op.layer.rows),
                                   real(op.scale_gradient), real(op.offset_gradient), real(op.addend), real(op.delta),
                                   operand, op.operand.ld);
    });
  }

  void operator()(const FusedStep& op) const {
    if constexpr (sizeof(T) == 4) {
      const FusedData data{real(View{features, 0, 0}),
                           op.stride,
                           rows_of(op.rows),
                           targets_of(op.rows),
                           loss_of(),
                           real(View{parameters, 0, 0}),
                           real(op.parts),
                           static_cast<double*>(raw(op.sums)),
                           state_of()};
      launch_fused(stream, op.precision, op.plan, data, op.n_blocks);
    } else {
      throw std::logic_error("fused steps are of float32");
    }
  }
  void operator()(const CooperativeSteps& op) const {
    if constexpr (sizeof(T) == 4) {
      const CooperativeData data{real(View{features, 0, 0}),
                                 op.stride,
                                 rows_of(op.rows),
                                 op.n_steps,
                                 targets_of(op.rows),
                                 loss_of(),
                                 parameters_of(op, Gradient{View{gradient, 0, 0}}),
                                 how_of(op, infinity, std::int64_t(op.n_steps) * op.rows.n),
                                 real(op.room),
                                 static_cast<double*>(raw(op.sums)),
                                 state_of()};
      launch_cooperative(stream, op.precision, op.plan, data, op.n_blocks);
    } else {
      throw std::logic_error("cooperative steps are of float32");
    }
  }
  void operator()(const FinishGradient& op) const {
    launch_finish_gradient<T>(stream, all_parameters(op.matrices, op.trained, op.gradient), T(op.alpha),
                              static_cast<double*>(raw(op.partials)), state_of());
  }
  void operator()(const Update& op) const {
    launch_update<T>(stream, parameters_of(op, op.gradient), how_of(op, op.clip_norm, op.advance), state_of());
  }

  void operator()(const Cast& op) const {
    to_bfloat16(real(op.in), op.in.ld, op.n, op.columns, static_cast<bfloat16*>(raw(op.out)), op.out.ld);
  }
  void operator()(const Shadow& op) const {
    constexpr int width = 32; // every array has a multiple of it
    to_bfloat16(real(View{parameters, 0, 0}), width, int(op.trained / width), width,
                static_cast<bfloat16*>(raw(View{shadow, 0, 0})), width);
  }

private:
  void* raw(const View& view) const {
    if (!view) return nullptr;
    const Place& place = places[std::size_t(view.buffer)];
    const std::ptrdiff_t size = place.element == Element::bfloat16 ? 2 : place.element == Element::real ? sizeof(T) : 1;
    return static_cast<char*>(place.address) + view.offset * size;
  }
  T* real(const View& view) const { return static_cast<T*>(raw(view)); }

  // Calls use(T*), or use(bfloat16*) where the view is of these.
  template <class F> void as_operand(const View& view, F&& use) const {
    if constexpr (sizeof(T) == 4)
      if (places[std::size_t(view.buffer)].element == Element::bfloat16) return use(static_cast<bfloat16*>(raw(view)));
    use(real(view));
  }

  void to_bfloat16(const T* in, int ld, int n, int columns, bfloat16* out, int ld_out) const {
    if constexpr (sizeof(T) == 4)
      launch_gather<T>(stream, in, ld, BatchRows{nullptr, nullptr, n}, columns, Dropout<T>{}, out, ld_out);
  }

  StepState* state_of() const { return static_cast<StepState*>(raw(View{state, 0, 0})); }
  BatchRows rows_of(const Rows& rows) const {
    const auto* order = static_cast<const std::int64_t*>(raw(View{row_order, 0, 0}));
    return {rows.ordered ? order : nullptr, state_of(), rows.n, rows.ahead};
  }
  Targets<T> targets_of(const Rows& rows) const {
    return {rows.has_labels ? nullptr : real(View{targets, 0, 0}),
            rows.has_labels ? static_cast<const std::int32_t*>(raw(View{labels, 0, 0})) : nullptr,
            rows.has_weights ? real(View{row_weights, 0, 0}) : nullptr};
  }
  static Dropout<T> dropout_of(const Drop& drop) {
    return drop.share > 0 ? Dropout<T>(drop.layer, drop.share) : Dropout<T>();
  }

  HiddenRows<T> hidden(const Hidden& layer) const {
    HiddenRows<T> rows{};
    rows.n_rows = layer.rows.n;
    rows.n = layer.units;
    rows.ld = layer.z.ld;
    rows.activation = layer.activation;
    Normalizations::visit(layer.normalization, [&](auto entry) {
      rows.statistics = entry.statistics;
      rows.centred = entry.centred;
    });
    rows.scale = real(layer.scale);
    rows.offset = real(layer.offset);
    rows.mean = real(layer.statistics);
    rows.inverse = layer.statistics ? rows.mean + layer.statistics.ld : nullptr;
    rows.z = real(layer.z);
    rows.dropout = dropout_of(layer.drop);
    rows.state = state_of();
    return rows;
  }

  RowLoss loss_of() const {
    RowLoss loss = network.row_loss();
    loss.h.values = loss_values;
    return loss;
  }
  OutputRows<T> outputs(const Rows& rows, const View& z, const View& bias) const {
    return {real(z), rows.n, z.ld, real(bias), network.output_activation, loss_of()};
  }

  Parameters<T> all_parameters(std::ptrdiff_t matrices, std::ptrdiff_t trained, const Gradient& gradient) const {
    Parameters<T> p{};
    p.w = real(View{parameters, 0, 0});
    p.gradient = real(gradient.view);
    p.n_parts = gradient.n_parts;
    p.part = trained;
    p.n = trained;
    p.matrices_end = matrices;
    p.matrices_again = trained;
    return p;
  }

  // Of operations that take steps of the optimizer.
  template <class Op> Parameters<T> parameters_of(const Op& op, const Gradient& gradient) const {
    Parameters<T> p = all_parameters(op.matrices, op.trained, gradient);
    for (int s = 0; s < op.n_slots + op.averages; ++s) p.slots[s] = real(View{slots, s * op.slot_size, 0});
    if (op.has_shadow) p.operands = static_cast<bfloat16*>(raw(View{shadow, 0, 0}));
    return p;
  }
  template <class Op> UpdateHow<T> how_of(const Op& op, double clip_norm, std::int64_t advance) const {
    return {op.optimizer,
            T(op.alpha),
            T(op.clip_value),
            clip_norm,
            static_cast<const StepCoefficients<T>*>(raw(View{step_table, 0, 0})),
            static_cast<double*>(raw(op.partials)),
            static_cast<BatchReport*>(raw(View{reports, 0, 0})),
            advance};
  }

  const Network& network;
  const std::vector<Place>& places;
  const double* loss_values;
  Products<T>& products;
  cudaStream_t stream;
};

} // namespace fastmlp::cuda
