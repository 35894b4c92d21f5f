// Arrays of others in the memory of a GPU.
#include "gpu.hpp"

#include "kernels/arrays.cuh"
#include "memory.hpp"

#include <memory>
#include <vector>

namespace fastmlp::cuda {

namespace {

// The thread's current device belongs to the caller, and to whatever library made the array.
class CurrentDevice {
public:
  explicit CurrentDevice(int device) {
    check(cudaGetDevice(&before), "asking for the device");
    check(cudaSetDevice(device), "choosing the device");
  }
  ~CurrentDevice() { cudaSetDevice(before); }
  CurrentDevice(const CurrentDevice&) = delete;
  CurrentDevice& operator=(const CurrentDevice&) = delete;

private:
  int before = 0;
};

const cudaStream_t stream = cudaStreamPerThread;

void wait() { check(cudaStreamSynchronize(stream), "waiting for the device"); }

struct Free {
  void operator()(void* memory) const { cudaFree(memory); }
};

std::unique_ptr<void, Free> allocate(std::size_t bytes) {
  void* memory = nullptr;
  const cudaError_t error = cudaMalloc(&memory, bytes);
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError(); // it would be reported again by the next call
    throw OutOfMemory("a converted copy needs " + gibibytes(bytes) + " of the device's memory, which are not free");
  }
  check(error, "allocating memory");
  return std::unique_ptr<void, Free>(memory);
}

int device_of(const void* array) {
  cudaPointerAttributes attributes{};
  const cudaError_t error = cudaPointerGetAttributes(&attributes, array);
  cudaGetLastError();
  const bool on_device = attributes.type == cudaMemoryTypeDevice || attributes.type == cudaMemoryTypeManaged;
  if (error != cudaSuccess || !on_device)
    throw std::invalid_argument("the array is not where it says: there is no memory of a GPU");
  return attributes.device;
}

void wait_for(int device, std::intptr_t given) {
  const CurrentDevice here(device);
  check(given == every_stream ? cudaDeviceSynchronize() : cudaStreamSynchronize(reinterpret_cast<cudaStream_t>(given)),
        "waiting for the stream of an array");
}

void download(int device, void* to, const void* from, std::size_t bytes, std::size_t pitch, std::int64_t n_rows) {
  const CurrentDevice here(device);
  const std::size_t n = std::size_t(n_rows);
  if (pitch == bytes || n == 1) // a copy in two dimensions has a limit on its pitch
    check(cudaMemcpyAsync(to, from, n * bytes, cudaMemcpyDeviceToHost, stream), "copying an array");
  else
    check(cudaMemcpy2DAsync(to, bytes, from, pitch, bytes, n, cudaMemcpyDeviceToHost, stream), "copying an array");
  wait();
}

std::int64_t find_not_finite_in(int device, const ArrayRows& rows) {
  const CurrentDevice here(device);
  std::vector<std::int64_t> found(std::size_t(searching_blocks(rows.n_rows)) * searching_warps);
  const auto memory = allocate(found.size() * sizeof found[0]);
  launch_find_not_finite(stream, rows, static_cast<std::int64_t*>(memory.get()));
  download(device, found.data(), memory.get(), found.size() * sizeof found[0], 0, 1);
  return first_of(found.data(), rows.n_rows);
}

void* convert(int device, const ArrayRows& rows) {
  const CurrentDevice here(device);
  auto memory = allocate(converted_bytes(rows));
  launch_convert(stream, rows, memory.get());
  wait();
  return memory.release();
}

void free_array(int device, void* memory) {
  if (cudaSetDevice(device) == cudaSuccess) cudaFree(memory);
}

} // namespace

const Arrays arrays_on_gpu = {device_of, wait_for, download, find_not_finite_in, convert, free_array};

} // namespace fastmlp::cuda
