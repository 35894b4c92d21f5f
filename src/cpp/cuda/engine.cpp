#include "engine.hpp"

#include "../step.hpp"
#include "bfloat16.hpp"
#include "data.hpp"
#include "memory.hpp"
#include "step_state.hpp"

#include <map>

namespace fastmlp::cuda {

namespace {

constexpr int most_rows = 1 << 30;

template <class T> class DeviceEngine final : public Engine<T> {
public:
  DeviceEngine(const Network& given, std::unique_ptr<Device> on, Precision precision)
      : network(given), device(std::move(on)), layout(network), precision(precision),
        plan(network, layout, precision, sizeof(T) == 8, device->capabilities()), data(*device, network.n_targets()),
        chunk(*device) {
    for (int i = 0; i < plan.buffers.end(); ++i) memory.emplace_back(*device);
    need("parameters and gradients", {{parameters, bytes(layout.size)},
                                      {gradient, bytes(layout.size)},
                                      {shadow, precision == Precision::bf16 ? 2 * std::size_t(layout.trained) : 0},
                                      {state, sizeof(StepState)},
                                      {reports, sizeof(BatchReport)},
                                      {step_table, sizeof(StepCoefficients<T>)}});
  }

  // --- parameters and slots

  std::ptrdiff_t parameter_count() const override { return network.n_parameters; }

  void set_parameters(const T* flat) override {
    std::vector<T> here(std::size_t(layout.size), T(0));
    layout.spread(flat, here.data());
    device->upload(at(parameters), here.data(), bytes(layout.size));
    refresh_shadow();
  }

  void get_parameters(T* flat) const override {
    std::vector<T> here(std::size_t(layout.size), T(0));
    device->download(here.data(), at(parameters), bytes(layout.size));
    layout.collect(here.data(), flat);
  }

  void set_slots(const std::vector<T*>& given) override {
    lent = given;
    need("what the optimizer keeps", {{slots, lent.size() * bytes(layout.size)}});
    std::vector<T> here(std::size_t(layout.size), T(0));
    for (std::size_t s = 0; s < lent.size(); ++s) {
      layout.spread_slot(lent[s], here.data());
      device->upload(slot(s), here.data(), bytes(layout.size));
    }
  }

  void get_slots() override {
    std::vector<T> here(std::size_t(layout.size), T(0));
    for (std::size_t s = 0; s < lent.size(); ++s) {
      device->download(here.data(), slot(s), bytes(layout.size));
      layout.collect_slot(here.data(), lent[s]);
    }
  }

  void exchange_average() override {
    T* const average = slot(lent.size() - 1);
    device->copy(at(gradient), average, bytes(layout.trained));
    device->copy(average, at(parameters), bytes(layout.trained));
    device->copy(at(parameters), at(gradient), bytes(layout.trained));
    refresh_shadow();
  }

  // --- training

  void hold(const std::vector<const Dataset<T>*>& datasets) override {
    programs.clear(); // they know the addresses
    data.hold(datasets);
  }

  EpochResult epoch(const Dataset<T>& dataset, const std::int64_t* order, std::int64_t n, std::int64_t batch_size,
                    double alpha, Rule& rule, Poll& poll) override {
    const DeviceData<T>& on_device = find(dataset);
    batch_size = std::min(batch_size, n);
    const std::int64_t whole = n / batch_size, rest = n % batch_size;
    prepare(batch_size, true);
    need("an epoch of " + std::to_string(n) + " rows",
         {{row_order, std::size_t(n) * sizeof(std::int64_t)},
          {reports, std::size_t(whole + 1) * sizeof(BatchReport)},
          {step_table, std::size_t(whole + 1) * sizeof(StepCoefficients<T>)}});
    device->upload(at(row_order), order, std::size_t(n) * sizeof(std::int64_t));
    begin(rule, whole + (rest > 0));
    const std::int64_t together = steps_together(on_device, batch_size, alpha, rule);
    bool interrupted = poll();
    for (std::int64_t done = 0; done < whole && !interrupted;) {
      const std::int64_t now = std::min(together, whole - done);
      device->run(steps(on_device, batch_size, now, alpha, rule));
      done += now;
      interrupted = poll();
    }
    if (rest > 0 && !interrupted) device->run(steps(on_device, rest, 1, alpha, rule));
    return report(rule, n, batch_size, interrupted);
  }

  double loss_and_gradient(const Dataset<T>& dataset, const std::int64_t* rows, std::int64_t n, double alpha,
                           RandomKey dropout, double& penalty, T* flat) override {
    const DeviceData<T>& on_device = find(dataset);
    prepare(n, true);
    give_order(rows, n);
    StepState start;
    start.key = dropout;
    device->upload(at(state), &start, sizeof start);
    const Rows all = on_device.rows(int(n), rows != nullptr);
    device->run(program({2, double(n), alpha, double(rows != nullptr), double(on_device.serial)}, on_device,
                        [&] { return plan.loss_and_gradient(all, on_device.stride, alpha); }));
    const StepState end = read_state();
    std::vector<T> here(std::size_t(layout.size), T(0));
    device->download(here.data(), at(gradient), bytes(layout.trained));
    layout.collect(here.data(), flat);
    std::fill(flat + network.n_trainable, flat + network.n_parameters, T(0));
    penalty = 0;
    if (end.weight == 0) {
      std::fill_n(flat, network.n_trainable, T(0));
      return 0;
    }
    device->download(here.data(), at(parameters), bytes(layout.matrices));
    for (std::ptrdiff_t i = 0; i < layout.matrices; ++i) penalty += double(here[i]) * double(here[i]);
    penalty *= 0.5 * alpha / end.weight;
    return end.loss / end.weight;
  }

  void apply(const T* flat, Rule& rule) override {
    std::vector<T> here(std::size_t(layout.size), T(0));
    layout.spread(flat, here.data());
    device->upload(at(gradient), here.data(), bytes(layout.trained));
    begin(rule, 1);
    StepState start = read_state();
    start.weight = 1; // the gradient is a mean
    device->upload(at(state), &start, sizeof start);
    Rule unclipped = rule;
    unclipped.clip_norm = infinity;
    device->run(program(key_of(unclipped, {3}), nothing, [&] { return std::vector<Op>{plan.update(0, unclipped)}; }));
    rule.t = read_state().t;
  }

  // --- predictions

  double evaluate(const Dataset<T>& dataset, const std::int64_t* rows, std::int64_t n, T* out) override {
    const DeviceData<T>& on_device = find(dataset);
    give_order(rows, n);
    double loss = 0, weight = 0;
    for_each_chunk(n, [&](std::int64_t first, int count) {
      prepare(count, false);
      start_at(first);
      device->run(program({4, double(count), double(rows != nullptr), double(on_device.serial)}, on_device,
                          [&] { return plan.evaluation(on_device.rows(count, rows != nullptr), on_device.stride); }));
      device->download(out + first * network.n_outputs(), at(plan.buffers.predictions()),
                       std::size_t(count) * std::size_t(network.n_outputs()) * sizeof(T));
      const StepState end = read_state();
      loss += end.loss;
      weight += end.weight;
    });
    return weight != 0 ? loss / weight : 0;
  }

  void predict(const T* flat, const Matrix<T>& X, const std::int64_t* rows, std::int64_t n, int layer,
               T* out) override {
    refuse_sparse(X);
    const int width = network.sizes[layer];
    if (layer == 0) return pack_rows(X, rows, 0, n, out);
    if (flat) set_parameters(flat);
    const bool last = layer == network.n_layers();
    for_each_chunk(n, [&](std::int64_t first, int count) {
      prepare(count, false);
      const T* const before = chunk.features();
      start_at(chunk.take(*device, X, rows, first, count));
      if (chunk.features() != before) programs.clear();
      device->run(program({5, double(count), double(layer), double(chunk.stride)}, chunk,
                          [&] { return plan.prediction({count, false, false, false}, chunk.stride, layer); }));
      read_units(last ? plan.buffers.predictions() : plan.buffers.of(Buffers::units, layer), count, width,
                 last ? width : padded(width), !last && precision == Precision::bf16, out + first * width);
    });
  }

  void input_gradient(const T*, const Matrix<T>&, const T*, int, T*) override {
    throw std::invalid_argument("gradients by the inputs are computed on the CPU: make an engine with device='cpu'");
  }

private:
  using Key = std::vector<double>;

  // --- memory

  static std::size_t bytes(std::ptrdiff_t n) { return std::size_t(n) * sizeof(T); }
  T* at(int buffer) const { return static_cast<T*>(memory[std::size_t(buffer)].get()); }
  T* slot(std::size_t s) const { return at(slots) + std::ptrdiff_t(s) * layout.size; }

  // Room in buffers, all or none of it; `what` is said if there is not enough.
  void need(const std::string& what, const std::vector<std::pair<int, std::size_t>>& wanted) {
    std::size_t more = 0;
    for (const auto& [buffer, size] : wanted)
      if (size > sizes_of(buffer)) more += size;
    if (more == 0) return;
    const std::size_t free = device->free_bytes();
    if (more > free)
      throw OutOfMemory(what + " need " + gibibytes(more) + " of the device's memory, of which " + gibibytes(free) +
                        " are free");
    programs.clear();
    for (const auto& [buffer, size] : wanted) memory[std::size_t(buffer)].reserve(size);
  }
  std::size_t sizes_of(int buffer) const { return memory[std::size_t(buffer)].bytes(); }

  // Buffers for batches of n rows.
  void prepare(std::int64_t n, bool training) {
    if (n > most_rows)
      throw std::invalid_argument("a batch on a GPU may have at most 2**30 rows, got " + std::to_string(n));
    std::vector<std::pair<int, std::size_t>> wanted;
    int buffer = n_shared_buffers;
    for (const BufferSize& size : plan.sizes(int(n), training))
      wanted.emplace_back(buffer++, size.n * size_of(size.element));
    need("batches of " + std::to_string(n) + " rows", wanted);
  }
  static std::size_t size_of(Element element) {
    switch (element) {
    case Element::real:
      return sizeof(T);
    case Element::bfloat16:
      return 2;
    case Element::int32:
      return 4;
    case Element::byte:
      return 1;
    default:
      return 8;
    }
  }

  // --- programs

  const DeviceData<T>& find(const Dataset<T>& dataset) {
    if (dataset.loss)
      throw std::invalid_argument("a custom loss is computed on the CPU: device='cuda' needs one of the named losses");
    refuse_sparse(dataset.X);
    bool is_new = false;
    const DeviceData<T>& found = data.find(dataset, is_new);
    if (is_new) programs.clear();
    return found;
  }
  static void refuse_sparse(const Matrix<T>& X) {
    if (X.indptr) throw std::invalid_argument("device='cuda' needs a dense X, got a sparse matrix");
  }

  template <class F> Program& program(const Key& key, const DeviceData<T>& on_device, F&& list) {
    std::unique_ptr<Program>& found = programs[key];
    if (!found) {
      std::vector<Place> places(std::size_t(n_shared_buffers), Place{nullptr, Element::real});
      places[shadow].element = Element::bfloat16;
      for (const BufferSize& size : plan.sizes(1, true)) places.push_back({nullptr, size.element});
      for (std::size_t i = 0; i < places.size(); ++i) places[i].address = memory[i].get();
      places[features].address = on_device.features();
      places[targets].address = on_device.y.get();
      places[labels].address = on_device.labels.get();
      places[row_weights].address = on_device.weights.get();
      found = device->compile(network, list(), places, sizeof(T) == 8);
    }
    return *found;
  }

  static Key key_of(const Rule& rule, Key key) {
    for (double x : {double(rule.optimizer), rule.clip_norm, rule.clip_value, rule.ema_decay}) key.push_back(x);
    return key;
  }

  Program& steps(const DeviceData<T>& on_device, std::int64_t rows, std::int64_t n_steps, double alpha,
                 const Rule& rule) {
    const Key key = key_of(rule, {1, double(rows), double(n_steps), alpha, double(on_device.serial)});
    return program(key, on_device, [&] {
      return plan.steps(int(n_steps), on_device.rows(int(rows), true), on_device.stride, alpha, rule);
    });
  }

  // How many steps are one program: enough to hide its start, and not more than are made quickly.
  std::int64_t steps_together(const DeviceData<T>& on_device, std::int64_t rows, double alpha, const Rule& rule) const {
    const std::size_t ops = plan.steps(1, on_device.rows(int(rows), true), on_device.stride, alpha, rule).size();
    return std::clamp<std::int64_t>(std::int64_t(1024 / ops), 1, 64);
  }

  void refresh_shadow() {
    if (precision == Precision::bf16) device->run(program({6}, nothing, [&] { return plan.refresh_shadow(); }));
  }

  // --- state

  void start_at(std::int64_t first) {
    StepState start;
    start.first = first;
    device->upload(at(state), &start, sizeof start);
  }

  // The state before an epoch of n steps at most, and the numbers of these steps.
  void begin(const Rule& rule, std::int64_t n_steps) {
    StepState start;
    start.t = start.table_after = rule.t;
    if (rule.seed != 0) start.seed = {std::uint32_t(rule.seed), std::uint32_t(rule.seed >> 32)};
    device->upload(at(state), &start, sizeof start);
    std::vector<StepCoefficients<T>> table(static_cast<std::size_t>(n_steps));
    for (std::int64_t i = 0; i < n_steps; ++i) {
      const Step<T> step(rule, rule.t + i + 1);
      std::copy_n(step.weights, max_coefficients, table[std::size_t(i)].weights);
      std::copy_n(step.others, max_coefficients, table[std::size_t(i)].others);
      table[std::size_t(i)].ema_decay = step.ema_decay;
    }
    device->upload(at(step_table), table.data(), table.size() * sizeof table[0]);
  }

  StepState read_state() const {
    StepState now;
    device->download(&now, at(state), sizeof now);
    return now;
  }

  EpochResult report(Rule& rule, std::int64_t n, std::int64_t batch_size, bool interrupted) {
    const StepState end = read_state();
    std::vector<BatchReport> batches(static_cast<std::size_t>(end.batch));
    device->download(batches.data(), at(reports), batches.size() * sizeof batches[0]);
    EpochResult result;
    std::int64_t first = 0;
    for (const BatchReport& batch : batches) {
      result.add(batch.loss, batch.penalty, std::min(batch_size, n - first));
      first += batch_size;
    }
    result.interrupted = interrupted && result.failed_batch == 0;
    rule.t = end.t;
    return result;
  }

  // --- rows

  void give_order(const std::int64_t* rows, std::int64_t n) {
    if (!rows) return;
    need("the numbers of " + std::to_string(n) + " rows", {{row_order, std::size_t(n) * sizeof(std::int64_t)}});
    device->upload(at(row_order), rows, std::size_t(n) * sizeof(std::int64_t));
  }

  template <class F> void for_each_chunk(std::int64_t n, F&& visit) const {
    constexpr std::int64_t most = 1 << 16;
    for (std::int64_t first = 0; first < n; first += most) visit(first, int(std::min(most, n - first)));
  }

  void read_units(int buffer, int n, int width, int ld, bool is_bfloat16, T* out) const {
    const std::size_t all = std::size_t(n) * std::size_t(ld);
    std::vector<T> numbers(all);
    if (is_bfloat16) {
      std::vector<bfloat16> narrow(all);
      device->download(narrow.data(), at(buffer), all * sizeof(bfloat16));
      std::copy(narrow.begin(), narrow.end(), numbers.begin());
    } else {
      device->download(numbers.data(), at(buffer), all * sizeof(T));
    }
    for (int i = 0; i < n; ++i)
      std::copy_n(numbers.data() + std::ptrdiff_t(i) * ld, width, out + std::ptrdiff_t(i) * width);
  }

  const Network network;
  const std::unique_ptr<Device> device;
  const Layout layout;
  const Precision precision;
  const Plan plan;
  std::vector<Memory> memory; // of the buffers, those of the data excepted
  HeldData<T> data;
  DeviceData<T> chunk; // rows to predict
  const DeviceData<T> nothing;
  std::map<Key, std::unique_ptr<Program>> programs;
  std::vector<T*> lent;
};

} // namespace

template <class T>
std::unique_ptr<Engine<T>> make_engine(const Network& network, std::unique_ptr<Device> device, Precision precision) {
  if (sizeof(T) == 8 && precision != Precision::ieee)
    throw std::invalid_argument(
        "the precisions 'tf32' and 'bf16' are for float32 data: pass float32 or dtype='float32'");
  return std::make_unique<DeviceEngine<T>>(network, std::move(device), precision);
}

template std::unique_ptr<Engine<float>> make_engine(const Network&, std::unique_ptr<Device>, Precision);
template std::unique_ptr<Engine<double>> make_engine(const Network&, std::unique_ptr<Device>, Precision);

} // namespace fastmlp::cuda
