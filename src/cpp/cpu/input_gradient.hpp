// Gradients of outputs by the inputs: rows forward as for a prediction, then back through all layers, panel by panel.
#pragma once

#include "propagation.hpp"
#include "threads.hpp"

namespace fastmlp {

template <class T> class InputGradient {
public:
  InputGradient(const Network& network, const Propagation<T>& propagation)
      : network(network), propagation(propagation), R(propagation.kernels.rows), last(network.n_layers()),
        inputs_stride(round_up(network.n_inputs(), R) * R), activates_outputs(network.output_activation >= 0) {
    // Running statistics do not move with the rows: `centre` finds nothing to take off.
    zeros = AlignedArray<T>(2 * std::size_t(*std::max_element(network.sizes.begin(), network.sizes.end())));
  }

  // See Engine::input_gradient.
  void run(const Matrix<T>& X, const T* vectors, int n_vectors, int most_threads, T* out) const {
    const std::int64_t n_panels = (X.n_rows + R - 1) / R,
                       n_blocks = (n_panels + panels_per_block - 1) / panels_per_block;
    const int n_threads = int(std::min<std::int64_t>(most_threads, n_blocks));
    std::vector<Room> rooms;
    for (int i = 0; i < n_threads; ++i)
      rooms.push_back(
          room(int(std::min<std::int64_t>(n_panels, panels_per_block)), propagation.enters_sparse(X), n_vectors > 1));
    parallel(n_threads, [&](const Team& team) {
      const FlushDenormals mode;
      const std::int64_t end = part(n_panels, team, 1);
      for (std::int64_t p = part(n_panels, team); p < end; p += panels_per_block)
        block(rooms[team.thread], X, p, int(std::min<std::int64_t>(panels_per_block, end - p)), vectors, n_vectors,
              out);
    });
  }

private:
  // A thread's: as for training, where gradients need it all, a block of panels of gradients, and hidden units to keep.
  struct Room {
    Workspace<T> space;
    AlignedArray<T> scratch, gradients;
    AlignedPieces<T> units;
  };

  Room room(int n_panels, bool sparse, bool keeps) const {
    Room room{Workspace<T>(network, propagation.layers, R, n_panels * R, sparse, true),
              AlignedArray<T>(propagation.scratch_size()),
              AlignedArray<T>(std::size_t(n_panels * inputs_stride)),
              {}};
    std::vector<std::size_t> sizes(std::size_t(last + 1), 0);
    for (int l = 1; keeps && l < n_kept(); ++l)
      sizes[std::size_t(l)] = std::size_t(n_panels * room.space.panel_stride[l]);
    room.units = AlignedPieces<T>(sizes);
    return room;
  }

  void block(Room& room, const Matrix<T>& X, std::int64_t first_panel, int count, const T* vectors, int n_vectors,
             T* out) const {
    const Kernels<T>& kernels = propagation.kernels;
    const int n_inputs = network.n_inputs(), n_outputs = network.n_outputs();
    const Block<T> all{0, count, false, room.scratch.data(), {}};
    const auto rows_of = [&](int p) { return int(std::min<std::int64_t>(R, X.n_rows - (first_panel + p) * R)); };
    forward(room.space, X, first_panel, all);
    for (int v = 0; v < n_vectors; ++v) {
      if (n_vectors > 1) keep_units(room, count, v > 0);
      for (int p = 0; p < count; ++p) {
        T* to = activates_outputs ? propagation.spare_room(all) : propagation.panel_of(room.space, last, p);
        const DenseRows<T> rows{vectors + std::ptrdiff_t(v) * n_outputs,
                                std::ptrdiff_t(n_vectors) * n_outputs,
                                nullptr,
                                (first_panel + p) * R,
                                0,
                                rows_of(p),
                                0};
        kernels.gather(rows, n_outputs, to, nullptr, 0);
        if (activates_outputs) propagation.differentiate_outputs(room.space, p, to);
      }
      backward(room, all);
      for (int p = 0; p < count; ++p)
        kernels.panel_to_rows(room.gradients.data() + p * inputs_stride, n_inputs, rows_of(p),
                              out + ((first_panel + p) * R * n_vectors + v) * n_inputs,
                              std::ptrdiff_t(n_vectors) * n_inputs);
    }
  }

  void forward(Workspace<T>& space, const Matrix<T>& X, std::int64_t first_panel, const Block<T>& all) const {
    const RowRange rows{nullptr, 0, X.n_rows};
    for (int p = 0; p < all.count; ++p)
      propagation.enter(space, X, rows.panel(first_panel + p, R), rows.panel(first_panel + p + 1, R), p, all);
    for (int l = 0; l < last; ++l) {
      propagation.forward(space, l, all);
      propagation.activate(space, l + 1, all);
    }
  }

  int n_kept() const { return activates_outputs ? last + 1 : last; }

  // Deltas take the place of the units: keeps these for the next vector, or puts them back.
  void keep_units(Room& room, int count, bool back) const {
    for (int l = 1; l < n_kept(); ++l) {
      T *const here = room.space.panels[l], *const kept = room.units[l];
      std::copy_n(back ? kept : here, count * room.space.panel_stride[l], back ? here : kept);
    }
  }

  void backward(Room& room, const Block<T>& all) const {
    Workspace<T>& space = room.space;
    const std::vector<Layer<T>>& layers = propagation.layers;
    for (int l = last - 1; l > 0; --l) {
      propagation.backward(space, l, all);
      if (layers[l - 1].statistics == Statistics::of_units)
        propagation.centre(space, l, all, zeros.data(), zeros.data());
    }
    PanelProduct<T> product{};
    product.M = layers[0].w;
    product.ldm = layers[0].ldw;
    product.in = space.deltas[1];
    product.in_stride = space.panel_stride[1];
    product.out = room.gradients.data();
    product.out_stride = inputs_stride;
    product.n_in = layers[0].n_out;
    product.n_out = layers[0].n_in;
    product.n_panels = all.count;
    product.activation = -1;
    propagation.kernels.backward(product, all.scratch);
  }

  const Network& network;
  const Propagation<T>& propagation;
  const int R, last; // layer of units
  const std::ptrdiff_t inputs_stride;
  const bool activates_outputs;
  AlignedArray<T> zeros;
};

} // namespace fastmlp
