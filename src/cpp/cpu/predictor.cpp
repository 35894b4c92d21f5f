// Predictions with weights that are laid out once: in panels for many rows, and for few rows as columns of registers.
// And with weights that anyone may change at any time: few rows read them where they lie.
#include "blas.hpp"
#include "prediction.hpp"

namespace fastmlp {

namespace {

template <class T> class CpuPredictor final : public Predictor<T> {
public:
  CpuPredictor(const Network& network, const T* flat, int n_threads)
      : network(network), requested_threads(n_threads), propagation(network, fastmlp::kernels<T>()) {
    const int lanes = propagation.kernels.rows / 2;
    std::vector<std::size_t> sizes;
    for (Layer<T>& layer : propagation.layers) {
      const std::size_t l = sizes.size();
      layer.read(flat + network.coefs[l], flat + network.biases[l]);
      padded.push_back(int(round_up(layer.n_out, lanes)));
      sizes.push_back(std::size_t(layer.n_in) * padded.back());
      flops_per_row += 2.0 * layer.n_in * layer.n_out;
    }
    weights = AlignedPieces<T>(sizes);
    for (std::size_t l = 0; l < sizes.size(); ++l)
      for (int k = 0; k < network.sizes[l]; ++k)
        std::copy_n(flat + network.coefs[l] + std::ptrdiff_t(k) * network.sizes[l + 1], network.sizes[l + 1],
                    weights[l] + std::ptrdiff_t(k) * padded[l]);
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
    const auto columns = [&](int l) -> RowWeights<T> {
      return {weights[l], padded[l], propagation.layers[l].b, padded[l]};
    };
    predict_by_row(network, propagation.kernels, columns, X, {nullptr, 0, X.n_rows}, network.n_layers(), out);
    return true;
  }

private:
  const Network network;
  const int requested_threads;
  Propagation<T> propagation;
  AlignedPieces<T> weights; // per layer [n_in][padded]
  std::vector<int> padded;  // units of each layer, whole registers
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
  const Kernels<T>& kernels = fastmlp::kernels<T>();
  if (!assume_finite && !kernels.all_finite(X.data, X.n_rows * X.n_columns)) return false;
  if (X.n_rows <= few_rows && !use_blas())
    predict_by_row(network, kernels, flat, X, {nullptr, 0, X.n_rows}, network.n_layers(), out);
  else
    make_cpu_engine<T>(network, n_threads)->predict(flat, X, nullptr, X.n_rows, network.n_layers(), out);
  return true;
}
template bool cpu_predict(const Network&, const float*, const Matrix<float>&, int, bool, float*);
template bool cpu_predict(const Network&, const double*, const Matrix<double>&, int, bool, double*);

} // namespace fastmlp
