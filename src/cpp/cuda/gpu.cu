// The device that is a GPU: memory, and lists of operations as CUDA graphs.
#include "gpu.hpp"

#include "accesses.hpp"
#include "lt_products.hpp"
#include "memory.hpp"
#include "run_ops.cuh"

#include <pthread.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <stdexcept>

namespace fastmlp::cuda {

namespace {

// CUDA works in the process alone that has started it: a child by fork() must not touch what it has inherited.
std::atomic<bool> started{false}, forked{false};
constexpr const char* forked_text = "this process was forked from one that had used CUDA, and a GPU works only in the "
                                    "process that began with it: start processes by joblib, or with the method 'spawn'";

void watch_forks() {
  static const int watching = pthread_atfork(nullptr, nullptr, [] { forked = started.load(); });
  static_cast<void>(watching);
}

// Of calls that need memory on the device and do not say how much.
void check_room(cudaError_t error, const char* what) {
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError(); // it would be reported again by the next call
    throw OutOfMemory(std::string(what) + " needs more of the device's memory than is free");
  }
  check(error, what);
}

template <class T> class GpuProducts final : public Products<T> {
public:
  explicit GpuProducts(LtProducts& lt) : lt(lt) {}

  void run(const Product& op, const ProductOperands<T>& operands, cudaStream_t stream) override {
    if (op.m == 0 || op.n == 0) return;
    const LtOperands given{operands.a,    operands.b,           operands.c,         operands.bias,
                           operands.mask, operands.column_sums, operands.workspace, workspace_bytes};
    launch_rest_of_product(stream, op, operands, lt.multiply(op, sizeof(T) == 8, given, stream));
  }

private:
  LtProducts& lt;
};

class GraphProgram final : public Program {
public:
  GraphProgram() { check(cudaGraphCreate(&graph, 0), "creating a graph"); }
  ~GraphProgram() override {
    loss_values.clear(); // waits until the graph runs no more
    if (forked) return;
    if (executable) cudaGraphExecDestroy(executable);
    if (graph) cudaGraphDestroy(graph);
  }

  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  Memory loss_values;
};

class Gpu final : public Device {
public:
  Gpu(int number, const Lt& table) : number(number) {
    use();
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "creating a stream");
    check(cudaStreamCreateWithFlags(&capture, cudaStreamNonBlocking), "creating a stream");
    check(cudaStreamCreateWithFlags(&beside, cudaStreamNonBlocking), "creating a stream");
    for (cudaEvent_t& event : events)
      check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "creating an event");
    lt = std::make_unique<LtProducts>(table);
  }

  ~Gpu() override {
    if (forked) {
      static_cast<void>(lt.release());
      return;
    }
    cudaSetDevice(number);
    cudaStreamSynchronize(stream);
    lt.reset();
    for (cudaEvent_t event : events)
      if (event) cudaEventDestroy(event);
    if (beside) cudaStreamDestroy(beside);
    if (capture) cudaStreamDestroy(capture);
    if (stream) cudaStreamDestroy(stream);
  }

  void* allocate(std::size_t bytes) override {
    use();
    void* memory = nullptr;
    const cudaError_t error = cudaMalloc(&memory, bytes);
    if (error == cudaErrorMemoryAllocation) {
      cudaGetLastError(); // it would be reported again by the next call
      throw OutOfMemory(gibibytes(bytes) + " of the device's memory were needed at once, of which " +
                        gibibytes(free_bytes()) + " are free");
    }
    check(error, "allocating memory");
    try {
      check(cudaMemsetAsync(memory, 0, bytes, stream), "clearing memory");
      wait(); // other streams may be the next to write there
    } catch (...) {
      cudaFree(memory);
      throw;
    }
    return memory;
  }
  void free(void* memory) override {
    if (forked) return;
    cudaSetDevice(number);
    cudaStreamSynchronize(stream);
    cudaFree(memory);
  }
  std::size_t free_bytes() const override {
    use();
    std::size_t free = 0, total = 0;
    check(cudaMemGetInfo(&free, &total), "asking for free memory");
    return free;
  }

  void upload(void* to, const void* from, std::size_t bytes) override {
    if (bytes == 0) return;
    use();
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream), "copying to the device");
    wait();
  }
  void download(void* to, const void* from, std::size_t bytes) override {
    use();
    if (bytes > 0) check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream), "copying from the device");
    wait();
  }
  void upload_beside(void* to, const void* from, std::size_t bytes) override {
    if (bytes == 0) return;
    use();
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, beside), "copying to the device");
    check(cudaStreamSynchronize(beside), "waiting for the device");
  }
  void copy(void* to, const void* from, std::size_t bytes) override {
    use();
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream), "copying on the device");
  }
  Capabilities capabilities() const override {
    use();
    const auto ask = [&](cudaDeviceAttr attribute) {
      int value = 0;
      check(cudaDeviceGetAttribute(&value, attribute, number), "describing the device");
      return value;
    };
    return {ask(cudaDevAttrMaxSharedMemoryPerBlockOptin),
            ask(cudaDevAttrMultiProcessorCount),
            ask(cudaDevAttrMaxSharedMemoryPerMultiprocessor),
            wished_way(),
            {lt->adds_up(Precision::ieee), lt->adds_up(Precision::tf32), lt->adds_up(Precision::bf16)}};
  }
  void wait() override { check(cudaStreamSynchronize(stream), "waiting for the device"); }

  std::unique_ptr<Program> compile(const Network& network, const std::vector<Op>& ops, const std::vector<Place>& places,
                                   bool is_double) override {
    use();
    auto program = std::make_unique<GraphProgram>();
    const std::vector<double>& values = network.loss.values;
    program->loss_values = Memory(*this);
    program->loss_values.reserve(std::max<std::size_t>(values.size(), 1) * sizeof(double));
    upload(program->loss_values.get(), values.data(), values.size() * sizeof(double));
    if (is_double)
      record<double>(*program, network, ops, places);
    else
      record<float>(*program, network, ops, places);
    check_room(cudaGraphInstantiate(&program->executable, program->graph, 0), "making a graph executable");
    return program;
  }

  // Few programs are under way at a time, so that whoever asks between them whether to stop is heard soon.
  void run(Program& program) override {
    use();
    cudaEvent_t& event = events[n_runs++ % events.size()];
    check(cudaEventSynchronize(event), "waiting for the device");
    check_room(cudaGraphLaunch(static_cast<GraphProgram&>(program).executable, stream), "starting a graph");
    check(cudaEventRecord(event, stream), "recording an event");
  }

  void fit_many(Precision precision, const FitPlan& plan, const FitData& data, int n_models) override {
    use();
    launch_fit_many(stream, precision, plan, data, n_models);
  }

private:
  void use() const {
    if (forked) throw std::runtime_error(forked_text);
    check(cudaSetDevice(number), "choosing the device");
  }

  // Each operation becomes nodes of the graph behind the last nodes of those that it must wait for.
  template <class T>
  void record(GraphProgram& program, const Network& network, const std::vector<Op>& ops,
              const std::vector<Place>& places) {
    GpuProducts<T> products(*lt);
    const OpRunner<T> runner(network, places, static_cast<const double*>(program.loss_values.get()), products, capture);
    const std::vector<std::vector<int>> before = predecessors(network, ops);
    std::vector<std::vector<cudaGraphNode_t>> ends(ops.size());
    for (std::size_t i = 0; i < ops.size(); ++i) {
      std::vector<cudaGraphNode_t> wait_for;
      for (int j : before[i]) wait_for.insert(wait_for.end(), ends[std::size_t(j)].begin(), ends[std::size_t(j)].end());
      std::sort(wait_for.begin(), wait_for.end()); // a node is named once
      wait_for.erase(std::unique(wait_for.begin(), wait_for.end()), wait_for.end());
      check(cudaStreamBeginCaptureToGraph(capture, program.graph, wait_for.data(), nullptr, wait_for.size(),
                                          cudaStreamCaptureModeRelaxed),
            "recording a graph");
      try {
        std::visit(runner, ops[i]);
        ends[i] = captured();
      } catch (...) {
        cudaStreamEndCapture(capture, &program.graph); // null if the graph is gone
        cudaGetLastError();
        throw;
      }
      check(cudaStreamEndCapture(capture, &program.graph), "recording a graph");
      if (ends[i].empty()) ends[i] = wait_for; // nothing was to be done
    }
  }

  std::vector<cudaGraphNode_t> captured() const {
    cudaStreamCaptureStatus status{};
    const cudaGraphNode_t* nodes = nullptr;
    const cudaGraphEdgeData* edges = nullptr;
    std::size_t n = 0;
    check(cudaStreamGetCaptureInfo(capture, &status, nullptr, nullptr, &nodes, &edges, &n), "looking at a graph");
    return {nodes, nodes + n};
  }

  const int number;
  cudaStream_t stream = nullptr, capture = nullptr, beside = nullptr;
  std::array<cudaEvent_t, 4> events{};
  std::size_t n_runs = 0;
  std::unique_ptr<LtProducts> lt;
};

// A kernel of the kind that all steps need: whether the library holds code for the device.
FASTMLP_KERNEL probe() {}

void describe(int device, const char* const* names, int n_names, Status& status) {
  const auto report = [&](State state, const std::string& detail) {
    status.state = state;
    std::snprintf(status.detail, sizeof status.detail, "%s", detail.c_str());
  };
  watch_forks();
  cudaDriverGetVersion(&status.driver);
  cudaRuntimeGetVersion(&status.runtime);
  if (forked) return report(State::error, forked_text);
  started = status.driver != 0;
  const cudaError_t error = cudaGetDeviceCount(&status.n_devices);
  cudaGetLastError(); // it would be reported again by the next call
  const std::string text = std::string(cudaGetErrorName(error)) + ": " + cudaGetErrorString(error);
  if (status.driver == 0 || error == cudaErrorStubLibrary) return report(State::no_driver, text);
  if (error == cudaErrorInsufficientDriver) return report(State::driver_too_old, text);
  if (error == cudaErrorNoDevice || (error == cudaSuccess && device >= status.n_devices))
    return report(State::no_device, "device " + std::to_string(device) + " of " + std::to_string(status.n_devices));
  if (error != cudaSuccess) return report(State::error, text);
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, device), "describing the device");
  status.major = properties.major;
  status.minor = properties.minor;
  status.total_bytes = properties.totalGlobalMem;
  std::snprintf(status.device, sizeof status.device, "%s", properties.name);
  cudaFuncAttributes attributes{};
  check(cudaSetDevice(device), "choosing the device");
  const cudaError_t loaded = cudaFuncGetAttributes(&attributes, probe);
  if (properties.major < 8 || loaded == cudaErrorNoKernelImageForDevice || loaded == cudaErrorInvalidDeviceFunction) {
    cudaGetLastError();
    return report(State::device_too_old,
                  "compute capability " + std::to_string(properties.major) + "." + std::to_string(properties.minor));
  }
  check(loaded, "loading a kernel");
  std::size_t total = 0;
  check(cudaMemGetInfo(&status.free_bytes, &total), "asking for free memory");
  try {
    status.cublas = open_lt({names, names + n_names}).version();
  } catch (const std::exception& missing) {
    return report(State::no_cublas, missing.what());
  }
  status.state = State::ok;
}

} // namespace

void describe_gpu(int device, const char* const* cublas, int n_cublas, Status* status) {
  *status = {};
  try {
    describe(device, cublas, n_cublas, *status);
  } catch (const std::exception& error) {
    status->state = State::error;
    std::snprintf(status->detail, sizeof status->detail, "%s", error.what());
  }
}

std::unique_ptr<Device> open_gpu(int device) {
  const Lt* lt = opened_lt();
  if (!lt) throw std::runtime_error("cuBLASLt has not been opened: ask for the status of the device first");
  return std::make_unique<Gpu>(device, *lt);
}

} // namespace fastmlp::cuda
