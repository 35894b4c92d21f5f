// The GPU engine with the host in the place of the GPU: a library that the module opens like the other one, so that all
// but the hardware can be tested from Python. Kernels run as cuda_on_host.hpp has it, products in plain loops.
//
// What it does besides is said by environment variables, read when an engine is made:
//   FASTMLP_HOST_GPU_ORDER    if set, a seed: operations run in a random order of those that their dependencies allow,
//                             and threads likewise
//   FASTMLP_HOST_GPU_BYTES    how much memory the device has
//   FASTMLP_HOST_GPU_PRODUCTS "kernels": by kernels, as on a GPU where cuBLASLt knows no way; "epilogues": only what
//                             follows them; else all in loops
//   FASTMLP_HOST_GPU_SHARED   how much a block of threads shares; 0: no network is so narrow that one kernel takes it
//   FASTMLP_HOST_GPU_DEVICES  how many devices there are; arrays that do not say on which they are, are on the last one
// What came from the host, and which streams were waited for, is told by fastmlp_host_gpu_log.
#include "cuda_on_host.hpp"

#include "../../src/cpp/cuda/accesses.hpp"
#include "../../src/cpp/cuda/engine.hpp"
#include "../../src/cpp/cuda/exports.hpp"
#include "../../src/cpp/cuda/kernels/arrays.cuh"
#include "../../src/cpp/cuda/kernels/cooperative.cuh"
#include "../../src/cpp/cuda/kernels/fit_many.cuh"
#include "../../src/cpp/cuda/many_engine.hpp"
#include "../../src/cpp/cuda/memory.hpp"
#include "../../src/cpp/cuda/run_ops.cuh"

#include <cstdlib>
#include <map>

namespace fastmlp::cuda {

namespace {

// Since the process began: uploads and downloads of bytes, and streams by their handles.
struct Log {
  std::uint64_t uploaded = 0, downloaded = 0, converted = 0, n_streams = 0;
  std::int64_t streams[16] = {}; // the last ones
};
Log log_of_calls;

std::size_t setting(const char* name, std::size_t otherwise) {
  const char* given = std::getenv(name);
  return given ? std::size_t(std::strtoull(given, nullptr, 10)) : otherwise;
}

Done products_in_loops() {
  const char* given = std::getenv("FASTMLP_HOST_GPU_PRODUCTS");
  const std::string by_kernels = given ? given : "";
  return by_kernels == "kernels" ? Done::nothing : by_kernels == "epilogues" ? Done::sums : Done::all;
}

// With 10 bits of fraction, to the nearest, as tensor cores are given it.
float as_tf32(float x) { return x - x == 0 ? from_bits<float>((to_bits(x) + 0x1000u) & ~0x1fffu) : x; }
double as_tf32(double x) { return x; }

// In loops; or as little as on a GPU if cuBLASLt knows no way, and the rest by kernels.
template <class T> class LoopProducts final : public Products<T> {
public:
  explicit LoopProducts(Done most) : most(most) {}

  void run(const Product& op, const ProductOperands<T>& operands, cudaStream_t stream) override {
    if constexpr (sizeof(T) == 4) {
      if (op.narrow)
        multiply<bfloat16, bfloat16>(op, operands);
      else if (op.precision == Precision::bf16)
        multiply<bfloat16, T>(op, operands);
      else
        multiply<T, T>(op, operands);
    } else {
      multiply<T, T>(op, operands);
    }
    launch_rest_of_product(stream, op, operands, most);
  }

private:
  template <class A, class C> void multiply(const Product& op, const ProductOperands<T>& operands) const {
    if (most == Done::nothing) return;
    const PlainProduct<T, A> p = plain_product_of<T, A>(op, operands);
    Finishing<C> finish = finishing_of<C>(op, operands);
    if (most == Done::sums) finish = {finish.c, finish.ldc, nullptr, nullptr, 0, false};
    const bool rounds = op.precision == Precision::tf32;
    std::vector<T> sums(static_cast<std::size_t>(op.n));
    for (int i = 0; i < op.m; ++i) {
      std::fill(sums.begin(), sums.end(), T(0));
      for (int l = 0; l < op.k; ++l) {
        const T a = rounds ? as_tf32(p.a_at(i, l)) : p.a_at(i, l);
        for (int j = 0; j < op.n; ++j) sums[std::size_t(j)] += a * (rounds ? as_tf32(p.b_at(l, j)) : p.b_at(l, j));
      }
      for (int j = 0; j < op.n; ++j) finish.put(i, j, p.start(i, j) + sums[std::size_t(j)]);
    }
    if (!operands.column_sums || most == Done::sums) return;
    for (int j = 0; j < op.n; ++j) {
      double sum = 0;
      for (int l = 0; l < op.k; ++l) sum += double(p.b_at(l, j));
      operands.column_sums[j] = T(sum);
    }
  }

  const Done most;
};

struct List final : Program {
  std::function<void(std::size_t)> run;
  std::vector<std::vector<int>> before;
};

class Host final : public Device {
public:
  Host() : order(unsigned(setting("FASTMLP_HOST_GPU_ORDER", 0))), bytes(setting("FASTMLP_HOST_GPU_BYTES", 1 << 30)) {
    on_host::schedule_seed = order;
  }

  void* allocate(std::size_t n) override {
    if (n > free_bytes()) throw OutOfMemory("no memory for " + gibibytes(n));
    used += n;
    void* memory = std::calloc(n + guard_bytes, 1);
    std::memset(static_cast<char*>(memory) + n, on_host::guard, guard_bytes);
    sizes[memory] = n;
    return memory;
  }
  void free(void* memory) override {
    used -= sizes.at(memory);
    sizes.erase(memory);
    std::free(memory);
  }
  std::size_t free_bytes() const override { return bytes - used; }
  void upload(void* to, const void* from, std::size_t n) override {
    log_of_calls.uploaded += n;
    move(to, from, n);
  }
  void download(void* to, const void* from, std::size_t n) override { move(to, from, n); }
  void upload_beside(void* to, const void* from, std::size_t n) override { move(to, from, n); }
  void copy(void* to, const void* from, std::size_t n) override { move(to, from, n); }
  void wait() override {}
  Capabilities capabilities() const override {
    return {int(setting("FASTMLP_HOST_GPU_SHARED", 227 * 1024)), 3, 0, wished_way()};
  }

  std::unique_ptr<Program> compile(const Network& network, const std::vector<Op>& ops, const std::vector<Place>& places,
                                   bool is_double) override {
    auto list = std::make_unique<List>();
    list->before = predecessors(network, ops);
    list->run = is_double ? runner<double>(network, ops, places) : runner<float>(network, ops, places);
    return list;
  }

  void run(Program& program) override {
    const List& list = static_cast<List&>(program);
    std::vector<std::size_t> left(list.before.size());
    for (std::size_t i = 0; i < left.size(); ++i) left[i] = i;
    std::vector<bool> done(left.size());
    while (!left.empty()) {
      std::vector<std::size_t> ready; // places in `left`
      for (std::size_t at = 0; at < left.size() && (order != 0 || ready.empty()); ++at)
        if (std::all_of(list.before[left[at]].begin(), list.before[left[at]].end(),
                        [&](int j) { return bool(done[std::size_t(j)]); }))
          ready.push_back(at);
      const std::size_t chosen = ready.at(order != 0 ? on_host::next_random(order) % ready.size() : 0);
      list.run(left[chosen]);
      check_guards();
      done[left[chosen]] = true;
      left.erase(left.begin() + std::ptrdiff_t(chosen));
    }
  }

  void fit_many(Precision precision, const FitPlan& plan, const FitData& data, int n_models) override {
    launch_fit_many(nullptr, precision, plan, data, n_models);
    check_guards();
  }

private:
  static constexpr std::size_t guard_bytes = 256;

  void check_guards() const {
    for (const auto& [memory, n] : sizes)
      for (std::size_t i = 0; i < guard_bytes; ++i)
        if (static_cast<const unsigned char*>(memory)[n + i] != on_host::guard)
          throw std::runtime_error("an operation wrote beyond the end of a buffer of " + std::to_string(n) + " bytes");
  }

  static void move(void* to, const void* from, std::size_t n) {
    if (n > 0) std::memcpy(to, from, n);
  }

  template <class T>
  std::function<void(std::size_t)> runner(const Network& network, const std::vector<Op>& ops,
                                          const std::vector<Place>& places) const {
    return [&network, ops, places, in_loops = in_loops](std::size_t i) {
      LoopProducts<T> products(in_loops);
      std::visit(OpRunner<T>(network, places, network.loss.values.data(), products, nullptr), ops[i]);
    };
  }

  unsigned order;
  const Done in_loops = products_in_loops();
  std::size_t bytes, used = 0;
  std::map<void*, std::size_t> sizes;
};

int n_devices() { return int(setting("FASTMLP_HOST_GPU_DEVICES", 1)); }

// --- arrays of others

int device_of(const void*) { return n_devices() - 1; }

void wait_for(int, std::intptr_t stream) { log_of_calls.streams[log_of_calls.n_streams++ % 16] = stream; }

void download(int, void* to, const void* from, std::size_t bytes, std::size_t pitch, std::int64_t n_rows) {
  log_of_calls.downloaded += bytes * std::size_t(n_rows);
  for (std::int64_t i = 0; i < n_rows; ++i)
    std::memcpy(static_cast<char*>(to) + i * std::int64_t(bytes),
                static_cast<const char*>(from) + i * std::int64_t(pitch), bytes);
}

std::int64_t find_not_finite_in(int, const ArrayRows& rows) {
  std::vector<std::int64_t> found(std::size_t(searching_blocks(rows.n_rows)) * searching_warps);
  launch_find_not_finite(nullptr, rows, found.data());
  return first_of(found.data(), rows.n_rows);
}

void* convert(int, const ArrayRows& rows) {
  log_of_calls.converted += converted_bytes(rows);
  void* copy = std::malloc(converted_bytes(rows));
  launch_convert(nullptr, rows, copy);
  return copy;
}

void free_array(int, void* memory) { std::free(memory); }

const Arrays arrays = {device_of, wait_for, download, find_not_finite_in, convert, free_array};

// --- the library

void describe(int device, const char* const*, int, Status* status) {
  *status = {};
  status->n_devices = n_devices();
  status->state = device < status->n_devices ? State::ok : State::no_device;
  std::snprintf(status->device, sizeof status->device, "host");
  std::snprintf(status->detail, sizeof status->detail, "device %d of %d", device, n_devices());
}

template <class T> Engine<T>* make(const Network& network, int, int precision) {
  return make_engine<T>(network, std::make_unique<Host>(), Precision(precision)).release();
}

ManyEngine* make_many(const Network& network, int, int precision, const std::vector<Dataset<float>>& data,
                      const std::vector<ManyModel>& models) {
  return make_many_engine(network, std::make_unique<Host>(), Precision(precision), data, models).release();
}

const Api api = {"host", describe, make<float>, make<double>, make_many, &arrays};

} // namespace

} // namespace fastmlp::cuda

FASTMLP_EXPORT_API(fastmlp::cuda::api)
FASTMLP_EXPORT void fastmlp_host_gpu_log(fastmlp::cuda::Log* log) { *log = fastmlp::cuda::log_of_calls; }
