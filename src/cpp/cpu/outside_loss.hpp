// A loss from outside: outputs of a batch leave the panels row by row, gradients come back.
#pragma once

#include "layout.hpp"
#include "threads.hpp"

#include <cmath>
#include <vector>

namespace fastmlp {

// Some rows of the data, whose mean loss a step descends.
template <class T> struct Batch {
  const Dataset<T>& data;
  RowRange rows, next; // next: those of the batch that follows, if any
  int R, n_panels;
  double weight; // sum of the rows' weights

  Batch(const Dataset<T>& data, const RowRange& rows, int R, const RowRange& next = {nullptr, 0, 0})
      : data(data), rows(rows), next(next), R(R), n_panels(int((rows.n + R - 1) / R)),
        weight(sum_of_weights(data, rows.numbers, rows.first, rows.n)) {}

  int rows_of(std::int64_t panel) const { return int(std::min<std::int64_t>(R, rows.n - panel * R)); }
  // What a thread reads after a panel of its share: the next one, and behind the last its first one of the next batch.
  RowRange panel_after(int panel, const Team& team) const {
    return panel + 1 < part(n_panels, team, 1) ? rows.panel(panel + 1, R) : next.panel(part(n_panels, team), R);
  }
};

template <class T> class OutsideLoss {
public:
  OutsideLoss(const Kernels<T>& kernels, int n_outputs) : kernels(kernels), n_outputs(n_outputs) {}

  // Room for `n` rows.
  void prepare(std::int64_t n) {
    const std::size_t size = std::size_t(n) * std::size_t(n_outputs);
    if (outputs.size() >= size) return;
    outputs.resize(size);
    gradients.resize(size);
  }

  // The rows of a panel, n from `first`.
  void take(const T* panel, std::int64_t first, int n) {
    kernels.panel_to_rows(panel, n_outputs, n, outputs.data() + first * n_outputs, n_outputs);
  }

  // Gradients of the rows of a panel; those that only fill it have none.
  void give(T* panel, std::int64_t first, int n) const {
    const T* g = gradients.data() + first * n_outputs;
    for (int k = 0; k < n_outputs; ++k)
      for (int i = 0; i < kernels.rows; ++i) panel[k * kernels.rows + i] = i < n ? g[i * n_outputs + k] : T(0);
  }

  // By one thread, when all outputs are there. A loss that is not finite, or has such a gradient, is NaN, which ends
  // training: it is not asked what it makes of outputs that are not finite. A step divides by the sum of the weights,
  // which the loss has done already.
  void evaluate(const Batch<T>& batch) {
    const RowRange& rows = batch.rows;
    const std::int64_t size = rows.n * n_outputs;
    mean = batch.weight != 0 ? std::nan("") : 0;
    std::fill_n(gradients.data(), size, T(0));
    if (batch.weight == 0 || !kernels.all_finite(outputs.data(), size)) return;
    const FlushDenormals mode(true);
    const std::int64_t* numbers = rows.numbers ? rows.numbers + rows.first : nullptr;
    mean = batch.data.loss->evaluate(numbers, rows.n, outputs.data(), gradients.data());
    const bool finite = std::isfinite(mean) && kernels.all_finite(gradients.data(), size);
    if (!finite) mean = std::nan("");
    for (std::int64_t i = 0; i < size; ++i) gradients[i] = finite ? gradients[i] * T(batch.weight) : T(0);
  }

  double mean = 0; // loss of the last batch

private:
  const Kernels<T>& kernels;
  const int n_outputs;
  std::vector<T> outputs, gradients;
};

} // namespace fastmlp
