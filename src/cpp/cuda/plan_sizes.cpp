// How much room the buffers of a network's layers take.
#include "plan.hpp"

namespace fastmlp::cuda {

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
      if (is_relu_alone(layer))
        set(buffers.of(Buffers::masks, layer), Element::byte, n * std::size_t(mask_ld(network.sizes[layer]) / 8));
      if (!is_relu_alone(layer) || precision != Precision::bf16)
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
    const std::size_t n_blocks = std::size_t(blocks_for(n_rows));
    set(buffers.fused_parts(), Element::real, n_blocks * std::size_t(layout.trained));
    set(buffers.fused_sums(), Element::wide, 2 * n_blocks);
  }
  if (training && is_cooperative(n_rows)) {
    set(buffers.cooperative_room(), Element::real, n * std::size_t(cooperative->numbers_of_row));
    set(buffers.cooperative_sums(), Element::wide, 2 * std::size_t(cooperative->strips(n_rows)));
    set(buffers.cooperative_partials(), Element::wide, std::size_t(capabilities.n_multiprocessors));
  }
  set(buffers.workspace(0), Element::byte, workspace_bytes);
  set(buffers.workspace(1), Element::byte, training ? workspace_bytes : 0);
  if (training) set(buffers.other_inputs(), operand, n * std::size_t(padded(network.n_inputs())));
  return sizes;
}

} // namespace fastmlp::cuda
