#include "blas.hpp"

#include "kernels.hpp"
#include "layout.hpp"
#include "threads.hpp"

#include <atomic>

namespace fastmlp {

namespace {

enum class Mode { off, automatic, on };
std::atomic<Mode> mode{Mode::off};
std::atomic<Gemm<float>> sgemm{nullptr};
std::atomic<Gemm<double>> dgemm{nullptr};

template <class T> Gemm<T> gemm() {
  if constexpr (std::is_same_v<T, float>)
    return sgemm;
  else
    return dgemm;
}

// Row-major out(rows, columns) = op(A) op(B): the transposed product in the BLAS's column-major view.
template <class T>
void multiply(bool transpose_a, bool transpose_b, std::int64_t rows, int columns, std::int64_t inner, const T* A,
              const T* B, T* out) {
  const int m = columns, n = int(rows), k = int(inner);
  const int lda = transpose_a ? n : k, ldb = transpose_b ? k : m;
  const T one = 1, zero = 0;
  gemm<T>()(transpose_b ? "T" : "N", transpose_a ? "T" : "N", &m, &n, &k, &one, B, &ldb, A, &lda, &zero, out, &m);
}

template <class T> class BlasEngine final : public Engine<T> {
public:
  explicit BlasEngine(const Network& network) : network(network), kernels(fastmlp::kernels<T>()) {
    if (!network.is_plain() || network.output_activation >= 0)
      throw std::invalid_argument("FASTMLP_BLAS=on knows no normalisation, dropout or skips, and no output activation "
                                  "but the loss's own; use 'auto' or 'off'");
    std::ptrdiff_t widths = 0;
    for (int size : network.sizes) widths += 3 * size;
    constexpr std::ptrdiff_t workspace_elements = std::ptrdiff_t(1) << 24;
    max_rows = std::clamp<std::int64_t>(workspace_elements / widths, 128, 1 << 16);
    parameters.resize(std::size_t(network.n_parameters));
  }

  std::ptrdiff_t parameter_count() const override { return network.n_parameters; }
  void set_parameters(const T* flat) override { to_neurons(flat, parameters.data()); }
  void get_parameters(T* flat) const override { from_neurons(parameters.data(), flat); }
  void set_slots(const std::vector<T*>& lent) override { slots = lent; }
  void exchange_average() override { std::swap_ranges(parameters.begin(), parameters.end(), slots.back()); }

  double loss_and_gradient(const Dataset<T>& data, const std::int64_t* rows, std::int64_t n, double alpha, RandomKey,
                           double& penalty, T* gradient) override {
    if (data.loss) throw std::invalid_argument("FASTMLP_BLAS=on knows no custom loss; use 'auto' or 'off'");
    const FlushDenormals mode;
    const double weight = sum_of_weights(data, rows, 0, n), scale = weight != 0 ? 1 / weight : 0;
    std::vector<T> sum(parameters.size());
    double loss = 0;
    for (std::int64_t first = 0; first < n; first += max_rows)
      loss += add_gradient(data, rows, first, std::min(max_rows, n - first), sum.data());
    const std::ptrdiff_t n_weights = network.biases[0];
    double squares = 0;
    for (std::ptrdiff_t i = 0; i < n_weights; ++i) {
      squares += double(parameters[i]) * double(parameters[i]);
      sum[i] += T(alpha) * parameters[i];
    }
    for (T& g : sum) g *= T(scale);
    from_neurons(sum.data(), gradient);
    penalty = 0.5 * alpha * squares * scale;
    return loss * scale;
  }

  void apply(const T* gradient, Rule& rule) override {
    const FlushDenormals mode;
    std::vector<T> g(parameters.size());
    to_neurons(gradient, g.data());
    update_array(rule, ++rule.t, parameters.data(), g.data(), slots, network.biases[0], network.n_parameters);
  }

  void predict(const T* flat, const Matrix<T>& X, const std::int64_t* rows, std::int64_t n, int layer,
               T* out) override {
    const FlushDenormals mode;
    if (flat) set_parameters(flat);
    const int width = network.sizes[layer];
    for (std::int64_t first = 0; first < n; first += max_rows) {
      const std::int64_t count = std::min(max_rows, n - first);
      forward(X, rows, first, count, layer);
      write_units(layer, count, out + first * width);
    }
  }

  double evaluate(const Dataset<T>& data, const std::int64_t* rows, std::int64_t n, T* out) override {
    const FlushDenormals mode;
    double loss = 0;
    for (std::int64_t first = 0; first < n; first += max_rows) {
      const std::int64_t count = std::min(max_rows, n - first);
      forward(data.X, rows, first, count, network.n_layers());
      write_units(network.n_layers(), count, out + first * network.n_outputs());
      std::vector<T> delta(units.back());
      loss += loss_and_deltas(data, rows, first, count, delta);
    }
    const double weight = sum_of_weights(data, rows, 0, n);
    return weight != 0 ? loss / weight : 0;
  }

  void input_gradient(const T* flat, const Matrix<T>& X, const T* vectors, int n_vectors, T* out) override {
    const FlushDenormals mode;
    if (flat) set_parameters(flat);
    const int n_in = network.n_inputs(), m = network.n_outputs();
    std::vector<T> delta;
    for (std::int64_t first = 0; first < X.n_rows; first += max_rows) {
      const std::int64_t count = std::min(max_rows, X.n_rows - first);
      forward(X, nullptr, first, count, network.n_layers());
      for (int v = 0; v < n_vectors; ++v) {
        const auto place = [&](std::int64_t i, int width) { return ((first + i) * n_vectors + v) * width; };
        delta.resize(std::size_t(count * m));
        for (std::int64_t i = 0; i < count; ++i) std::copy_n(vectors + place(i, m), m, delta.data() + i * m);
        for (int l = network.n_layers() - 1; l >= 0; --l) go_below(l, count, delta);
        for (std::int64_t i = 0; i < count; ++i) std::copy_n(delta.data() + i * n_in, n_in, out + place(i, n_in));
      }
    }
  }

private:
  // Between the flat order and that of slots: the weights of a layer (fan_in, fan_out) there, (fan_out, fan_in) here.
  void to_neurons(const T* flat, T* out) const {
    for (int l = 0; l < network.n_layers(); ++l)
      transpose(flat + network.coefs[l], network.sizes[l + 1], network.sizes[l], network.sizes[l + 1],
                out + network.coefs[l], network.sizes[l]);
    std::copy(flat + network.biases[0], flat + network.n_parameters, out + network.biases[0]);
  }
  void from_neurons(const T* in, T* flat) const {
    for (int l = 0; l < network.n_layers(); ++l)
      transpose(in + network.coefs[l], network.sizes[l], network.sizes[l + 1], network.sizes[l],
                flat + network.coefs[l], network.sizes[l + 1]);
    std::copy(in + network.biases[0], in + network.n_parameters, flat + network.biases[0]);
  }

  const T* coefs(int l) const { return parameters.data() + network.coefs[l]; }

  // Units of layers 0 .. last for a chunk of rows; pre-activations at the output.
  void forward(const Matrix<T>& X, const std::int64_t* rows, std::int64_t first, std::int64_t n, int last) {
    units.resize(network.sizes.size());
    slopes.resize(network.sizes.size());
    units[0].resize(std::size_t(n * X.n_columns));
    copy_rows(X, {rows, first, n}, units[0].data());
    for (int l = 0; l < last; ++l) {
      const int n_out = network.sizes[l + 1];
      const T* bias = parameters.data() + network.biases[l];
      std::vector<T>& z = units[l + 1];
      z.resize(std::size_t(n * n_out));
      multiply(false, true, n, n_out, network.sizes[l], units[l].data(), coefs(l), z.data());
      for (std::int64_t i = 0; i < n; ++i)
        for (int k = 0; k < n_out; ++k) z[i * n_out + k] += bias[k];
      if (l + 1 == network.n_layers()) break;
      slopes[l + 1].resize(z.size());
      kernels.apply_activation(network.activations[l], z.data(), std::ptrdiff_t(z.size()), z.data(),
                               slopes[l + 1].data());
    }
  }

  // Of the rows that went forward last, a layer, predictions for the last one.
  void write_units(int layer, std::int64_t n, T* out) const {
    const int width = network.sizes[layer];
    std::copy_n(units[layer].data(), n * width, out);
    if (layer == network.n_layers())
      for (std::int64_t i = 0; i < n; ++i) kernels.link_row(network.row_loss(), out + i * width);
  }

  // Adds the gradient of the weighted loss of rows first .. first + n; returns that loss.
  double add_gradient(const Dataset<T>& data, const std::int64_t* rows, std::int64_t first, std::int64_t n,
                      T* gradient) {
    forward(data.X, rows, first, n, network.n_layers());
    std::vector<T> delta(units.back()), product;
    double loss = loss_and_deltas(data, rows, first, n, delta);
    for (int l = network.n_layers() - 1; l >= 0; --l) {
      const int n_in = network.sizes[l], n_out = network.sizes[l + 1];
      product.resize(std::size_t(n_in) * n_out);
      multiply(true, false, n_out, n_in, n, delta.data(), units[l].data(), product.data());
      for (std::size_t i = 0; i < product.size(); ++i) gradient[network.coefs[l] + std::ptrdiff_t(i)] += product[i];
      for (std::int64_t i = 0; i < n; ++i)
        for (int k = 0; k < n_out; ++k) gradient[network.biases[l] + k] += delta[i * n_out + k];
      if (l > 0) go_below(l, n, delta);
    }
    return loss;
  }

  // Deltas of n rows of layer l from those of l + 1.
  void go_below(int l, std::int64_t n, std::vector<T>& delta) const {
    std::vector<T> below(std::size_t(n * network.sizes[l]));
    multiply(false, false, n, network.sizes[l], network.sizes[l + 1], delta.data(), coefs(l), below.data());
    for (std::size_t i = 0; l > 0 && i < below.size(); ++i) below[i] *= slopes[l][i];
    delta.swap(below);
  }

  double loss_and_deltas(const Dataset<T>& data, const std::int64_t* rows, std::int64_t first, std::int64_t n,
                         std::vector<T>& delta) const {
    const int m = network.n_outputs(), n_targets = network.n_targets();
    std::vector<T> y(std::size_t(n * n_targets)), prediction(delta.size()), losses(n), z(delta);
    const auto row_of = [&](std::int64_t i) { return rows ? rows[first + i] : first + i; };
    for (std::int64_t i = 0; i < n; ++i)
      for (int k = 0; k < n_targets; ++k)
        y[i * n_targets + k] = data.labels ? T(data.labels[row_of(i)] == k) : data.y[row_of(i) * n_targets + k];
    kernels.apply_loss(network.row_loss(), z.data(), y.data(), n, prediction.data(), losses.data(), delta.data());
    double loss = 0;
    for (std::int64_t i = 0; i < n; ++i) {
      const T weight = data.sample_weight ? data.sample_weight[row_of(i)] : T(1);
      loss += double(weight) * double(losses[i]);
      for (int k = 0; k < m; ++k) delta[i * m + k] *= weight;
    }
    return loss;
  }

  const Network network;
  const Kernels<T>& kernels;
  std::int64_t max_rows = 0;
  std::vector<T> parameters; // in the order of slots
  std::vector<T*> slots;
  std::vector<std::vector<T>> units, slopes;
};

} // namespace

void set_blas(const std::string& name, void* single, void* twice) {
  if (name != "off" && name != "auto" && name != "on")
    throw std::invalid_argument("unknown BLAS mode '" + name + "'; valid names: 'off' 'auto' 'on'");
  if (name == "on" && (!single || !twice)) throw std::invalid_argument("BLAS mode 'on' needs sgemm and dgemm");
  sgemm = reinterpret_cast<Gemm<float>>(single);
  dgemm = reinterpret_cast<Gemm<double>>(twice);
  mode = name == "on" ? Mode::on : name == "auto" ? Mode::automatic : Mode::off;
}

std::string blas_mode() { return mode == Mode::on ? "on" : mode == Mode::automatic ? "auto" : "off"; }

// `auto` takes it nowhere: the panel engine was faster on every network tried, up to layers of 4096 units.
bool use_blas() { return mode == Mode::on; }

template <class T> std::unique_ptr<Engine<T>> make_blas_engine(const Network& network) {
  return std::make_unique<BlasEngine<T>>(network);
}
template std::unique_ptr<Engine<float>> make_blas_engine(const Network&);
template std::unique_ptr<Engine<double>> make_blas_engine(const Network&);

template <class T>
void update_array(const Rule& rule, long long t, T* w, const T* gradient, const std::vector<T*>& slots,
                  std::ptrdiff_t n_weights, std::ptrdiff_t n) {
  const Step<T> step(rule, t);
  constexpr std::ptrdiff_t most = 1 << 20; // a tile counts in int
  for (std::ptrdiff_t i = 0, end = 0; i < n; i = end) {
    end = std::min(i + most, i < n_weights ? n_weights : n);
    UpdateTile<T> tile{w + i, 0, {}, 0, 1, int(end - i)};
    for (std::size_t s = 0; s < slots.size(); ++s) tile.slots[s] = slots[s] + i;
    const T* c = i < n_weights ? step.weights : step.others;
    kernels<T>().update(step.optimizer, {c, 0, 1, step.clip_value, step.ema_decay}, gradient + i, tile, false);
  }
}
template void update_array(const Rule&, long long, float*, const float*, const std::vector<float*>&, std::ptrdiff_t,
                           std::ptrdiff_t);
template void update_array(const Rule&, long long, double*, const double*, const std::vector<double*>&, std::ptrdiff_t,
                           std::ptrdiff_t);

} // namespace fastmlp
