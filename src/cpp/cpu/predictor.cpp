// Predictions with weights that are laid out once: in panels for many rows, and for few rows as columns of registers.
#include "prediction.hpp"

namespace fastmlp {

namespace {

template <class T> class CpuPredictor final : public Predictor<T> {
public:
  CpuPredictor(const Network& network, const T* flat, int n_threads)
      : network(network), requested_threads(n_threads), propagation(this->network, fastmlp::kernels<T>()) {
    const int lanes = propagation.kernels.rows / 2;
    propagation.read(flat);
    propagation.use_running_statistics();
    std::vector<std::size_t> sizes;
    for (const Layer<T>& layer : propagation.layers) {
      padded.push_back(int(round_up(layer.n_out, lanes)));
      sizes.push_back(std::size_t(layer.n_in) * padded.back());
      widest = std::max(widest, round_up(layer.n_out, propagation.kernels.rows));
      flops_per_row += 2.0 * layer.n_in * layer.n_out;
    }
    weights = AlignedPieces<T>(sizes);
    for (std::size_t l = 0; l < sizes.size(); ++l)
      for (int k = 0; k < network.sizes[l]; ++k)
        std::copy_n(flat + network.coefs[l] + std::ptrdiff_t(k) * network.sizes[l + 1], network.sizes[l + 1],
                    weights[l] + std::ptrdiff_t(k) * padded[l]);
  }

  void predict(const Matrix<T>& X, T* out) const override {
    constexpr int few = 4; // a panel costs about as much as so many rows one by one
    const Prediction<T> prediction{network, propagation};
    if (X.n_rows > few || !network.is_plain())
      return prediction.by_panel(X, {nullptr, 0, X.n_rows}, network.n_layers(),
                                 choose_threads(requested_threads, flops_per_row * double(X.n_rows)), out);
    thread_local AlignedArray<T> buffers;
    thread_local std::ptrdiff_t room = 0;
    if (room < widest) {
      buffers = AlignedArray<T>(std::size_t(2 * widest));
      room = widest;
    }
    const FlushDenormals mode;
    const auto of_layer = [&](int l) -> RowWeights<T> {
      return {weights[l], padded[l], propagation.layers[l].b, padded[l]};
    };
    for (std::int64_t i = 0; i < X.n_rows; ++i)
      prediction.row(of_layer, X.data + i * X.stride, network.n_layers(), buffers.data(), buffers.data() + room,
                     out + i * network.n_outputs());
  }

private:
  const Network network;
  const int requested_threads;
  Propagation<T> propagation;
  AlignedPieces<T> weights; // per layer [n_in][padded]
  std::vector<int> padded;  // units of each layer, whole registers
  std::ptrdiff_t widest = 0;
  double flops_per_row = 0;
};

} // namespace

template <class T>
std::unique_ptr<Predictor<T>> make_cpu_predictor(const Network& network, const T* flat, int n_threads) {
  return std::make_unique<CpuPredictor<T>>(network, flat, n_threads);
}
template std::unique_ptr<Predictor<float>> make_cpu_predictor(const Network&, const float*, int);
template std::unique_ptr<Predictor<double>> make_cpu_predictor(const Network&, const double*, int);

} // namespace fastmlp
