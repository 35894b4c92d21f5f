// Rows and matrices of dual numbers, and what Hessian products keep of a layer. Values and tangents lie apart, so that
// a product of dual matrices is three products of plain ones.
#pragma once

#include "../dual.hpp"
#include "layout.hpp"

namespace fastmlp {

using Number = Dual<double>;

// Rows of dual numbers, padded to whole registers.
struct DualRows {
  std::ptrdiff_t ld = 0;
  AlignedArray<double> values, tangents;

  DualRows() = default;
  DualRows(std::ptrdiff_t n_rows, int width, int R)
      : ld(round_up(width, R)), values(std::size_t(n_rows * ld)), tangents(std::size_t(n_rows * ld)) {}
  double* value(std::ptrdiff_t i) const { return values.data() + i * ld; }
  double* tangent(std::ptrdiff_t i) const { return tangents.data() + i * ld; }
  Number get(std::ptrdiff_t i, int j) const { return {value(i)[j], tangent(i)[j]}; }
  void set(std::ptrdiff_t i, int j, Number x) const {
    value(i)[j] = x.value;
    tangent(i)[j] = x.tangent;
  }
};

// One row, or what stands in for one: without tangents they are 0.
struct Row {
  const double *value, *tangent;
};

// A matrix [n_in][ld] that rows are multiplied by.
struct Factor {
  const double *value, *tangent;
  std::ptrdiff_t ld;
  int n_in, n_out;
};

// Weights or a projection with their part of the direction; and transposed, for the way back.
struct DualMatrix {
  std::ptrdiff_t place; // in the flat buffer, or none
  Factor factor, back;
  DualRows transposed;

  DualMatrix(const double* flat, const double* vector, std::ptrdiff_t place, int n_in, int n_out, int R)
      : place(place) {
    if (place == Network::none) return;
    factor = {flat + place, vector + place, n_out, n_in, n_out};
    transposed = DualRows(n_out, n_in, R);
    for (int k = 0; k < n_in; ++k)
      for (int j = 0; j < n_out; ++j) {
        const std::ptrdiff_t at = std::ptrdiff_t(k) * n_out + j;
        transposed.set(j, k, {factor.value[at], factor.tangent[at]});
      }
    back = {transposed.value(0), transposed.tangent(0), transposed.ld, n_out, n_in};
  }
};

// A layer of units in a chunk of rows, and what the loss changes by with them.
struct Units {
  int n;
  Statistics statistics = Statistics::none;
  bool centred = false;
  DualRows a, z;                     // the units, and their sums
  DualRows slopes, deltas;           // of the loss by what the activation is applied to, and by the sums
  DualRows of_rows;                  // mean and inverse deviation of each row
  std::vector<Number> mean, inverse; // of each unit over the rows
  std::vector<Number> sum, along;    // of the slopes over the rows, and of the slopes times the normalised sums
};

} // namespace fastmlp
