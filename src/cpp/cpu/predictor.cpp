// Predictions with weights that are laid out once: in panels for many rows, and for few rows as columns of registers.
// And with weights that anyone may change at any time: few rows read them where they lie.
#include "blas.hpp"
#include "prediction.hpp"

#include <atomic>

namespace fastmlp {

namespace {

template <class T> class CpuPredictor final : public Predictor<T> {
public:
  CpuPredictor(const Network& network, const T* flat, int n_threads)
      : network(network), requested_threads(n_threads),
        propagation(this->network, kernels_for<T>(network.n_parameters)) {
    const int lanes = propagation.kernels.rows / 2;
    propagation.read(flat);
    propagation.use_running_statistics();
    std::vector<std::size_t> sizes; // of all weights, then of all projections
    for (const Layer<T>& layer : propagation.layers) {
      padded.push_back(int(round_up(layer.n_out, lanes)));
      sizes.push_back(std::size_t(layer.n_in) * padded.back());
      flops_per_row += (layer.projection ? 4.0 : 2.0) * layer.n_in * layer.n_out;
    }
    for (std::size_t l = 0; l < padded.size(); ++l) sizes.push_back(propagation.layers[l].projection ? sizes[l] : 0);
    matrices = AlignedPieces<T>(sizes);
    for (std::size_t l = 0; l < padded.size(); ++l) {
      lay_out(flat + network.coefs[l], int(l), matrices[l]);
      if (propagation.layers[l].projection) lay_out(flat + network.projections[l], int(l), matrices[padded.size() + l]);
    }
  }

  bool predict(const Matrix<T>& X, bool assume_finite, T* out) const override {
    const auto finite = [&](std::int64_t first, std::int64_t n) {
      return assume_finite || propagation.kernels.all_finite(X.data + first * X.n_columns, n * X.n_columns);
    };
    if (X.n_rows > few_rows) {
      const PanelPrediction<T> prediction{network, propagation};
      return prediction.run(X, {nullptr, 0, X.n_rows}, network.n_layers(),
                            choose_threads(requested_threads, flops_per_row * double(X.n_rows)), out, finite);
    }
    if (!finite(0, X.n_rows)) return false;
    const auto layers = [&](int l, T*) -> RowLayer<T> {
      const Layer<T>& layer = propagation.layers[l];
      RowLayer<T> row{matrices[l], padded[l], layer.b, padded[l], nullptr, {}};
      if (layer.projection) row.projection = matrices[padded.size() + l];
      const T* statistics = layer.unit_statistics.data();
      if (!network.is_direct(l))
        row.hidden = {layer.n_out, layer.activation, layer.statistics, layer.centred,
                      layer.scale, layer.offset,     statistics,       statistics ? statistics + layer.n_out : nullptr};
      return row;
    };
    predict_by_row(network, propagation.kernels, layers, X, {nullptr, 0, X.n_rows}, network.n_layers(), out);
    return true;
  }

private:
  // A matrix of layer l, whose rows lie side by side, with rows of whole registers.
  void lay_out(const T* from, int l, T* to) const {
    const int n_out = network.sizes[l + 1];
    for (int k = 0; k < network.sizes[l]; ++k, from += n_out, to += padded[l]) std::copy_n(from, n_out, to);
  }

  const Network network;
  const int requested_threads;
  Propagation<T> propagation;
  AlignedPieces<T> matrices; // per layer [n_in][padded]: weights, then projections
  std::vector<int> padded;   // units of each layer, whole registers
  double flops_per_row = 0;
};

} // namespace

template <class T>
std::unique_ptr<Predictor<T>> make_cpu_predictor(const Network& network, const T* flat, int n_threads) {
  return std::make_unique<CpuPredictor<T>>(network, flat, n_threads);
}
template std::unique_ptr<Predictor<float>> make_cpu_predictor(const Network&, const float*, int);
template std::unique_ptr<Predictor<double>> make_cpu_predictor(const Network&, const double*, int);

template <class T>
bool cpu_predict(const Network& network, const T* flat, const Matrix<T>& X, int n_threads, bool assume_finite, T* out) {
  const Kernels<T>& kernels = kernels_for<T>(network.n_parameters);
  if (!assume_finite && !kernels.all_finite(X.data, X.n_rows * X.n_columns)) return false;
  if (X.n_rows <= few_rows && !use_blas())
    predict_by_row(network, kernels, flat, X, {nullptr, 0, X.n_rows}, network.n_layers(), out);
  else
    make_cpu_engine<T>(network, n_threads)->predict(flat, X, nullptr, X.n_rows, network.n_layers(), out);
  return true;
}
template bool cpu_predict(const Network&, const float*, const Matrix<float>&, int, bool, float*);
template bool cpu_predict(const Network&, const double*, const Matrix<double>&, int, bool, double*);

template <class T> bool cpu_all_finite(const T* x, std::int64_t n, int n_threads) {
  std::atomic<bool> finite{true};
  parallel(choose_threads(n_threads, double(n)), [&](const Team& team) {
    const std::int64_t first = part(n, team), end = part(n, team, 1);
    if (!kernels<T>().all_finite(x + first, end - first)) finite = false;
  });
  return finite;
}
template bool cpu_all_finite(const float*, std::int64_t, int);
template bool cpu_all_finite(const double*, std::int64_t, int);

} // namespace fastmlp
