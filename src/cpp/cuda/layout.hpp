// Where parameters are on the device: one flat buffer as in network.hpp, but all matrices first, each row of them at a
// multiple of 8 numbers and each array at one of 32, with zeros in between that no optimizer moves. Gradients and slots
// have the same layout.
#pragma once

#include "ops.hpp"

#include <algorithm>

namespace fastmlp::cuda {

class Layout {
public:
  explicit Layout(const Network& network) {
    const int L = network.n_layers();
    const auto all = [&](std::vector<View>& views, const std::vector<std::ptrdiff_t>& starts, bool matrix) {
      for (std::size_t l = 0; l < starts.size(); ++l)
        views.push_back(place(starts[l], matrix ? network.sizes[l] : 1, network.sizes[l + 1], matrix));
    };
    all(coefs, network.coefs, true);
    all(projections, network.projections, true);
    matrices = size;
    all(biases, network.biases, false);
    all(scales, network.scales, false);
    all(offsets, network.offsets, false);
    trained = size;
    all(means, network.means, false);
    all(variances, network.variances, false);
    for (std::vector<View>* views : {&scales, &offsets, &means, &variances}) views->resize(std::size_t(L));
  }

  // A flat buffer of network.hpp to one of the device, whose gaps are left as they are, and back.
  template <class T> void spread(const T* flat, T* here) const {
    for (const Place& p : places)
      for (int row = 0; row < p.rows; ++row)
        std::copy_n(flat + p.flat + std::ptrdiff_t(row) * p.columns, p.columns, here + p.here + row * p.ld);
  }
  template <class T> void collect(const T* here, T* flat) const {
    for (const Place& p : places)
      for (int row = 0; row < p.rows; ++row)
        std::copy_n(here + p.here + row * p.ld, p.columns, flat + p.flat + std::ptrdiff_t(row) * p.columns);
  }

  // The same for a slot, whose matrices are (fan_out, fan_in) in the flat buffer; running statistics have none.
  template <class T> void spread_slot(const T* flat, T* here) const {
    each_of_slot([&](std::ptrdiff_t from, std::ptrdiff_t to) { here[to] = flat[from]; });
  }
  template <class T> void collect_slot(const T* here, T* flat) const {
    each_of_slot([&](std::ptrdiff_t to, std::ptrdiff_t from) { flat[to] = here[from]; });
  }

  std::vector<View> coefs, projections, biases, scales, offsets, means, variances; // of layers of weights; maybe none
  std::ptrdiff_t matrices = 0, trained = 0, size = 0;                              // ends of the parts

private:
  struct Place {
    std::ptrdiff_t flat, here;
    int rows, columns;
    std::ptrdiff_t ld;
    bool is_matrix;
  };

  View place(std::ptrdiff_t flat, int rows, int columns, bool is_matrix) {
    if (flat == Network::none) return {};
    const int ld = padded(columns);
    places.push_back({flat, size, rows, columns, ld, is_matrix});
    const View view{parameters, size, ld};
    size = (size + std::ptrdiff_t(rows) * ld + 31) / 32 * 32;
    return view;
  }

  template <class F> void each_of_slot(F&& visit) const { // visit(in the flat buffer, here)
    for (const Place& p : places) {
      if (p.here >= trained) continue;
      for (int row = 0; row < p.rows; ++row)
        for (int column = 0; column < p.columns; ++column)
          visit(p.flat + (p.is_matrix ? std::ptrdiff_t(column) * p.rows + row : column), p.here + row * p.ld + column);
    }
  }

  std::vector<Place> places;
};

} // namespace fastmlp::cuda
