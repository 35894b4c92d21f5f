// What the module and libfastmlp_cuda.so, which it opens when a GPU is asked for, know of each other. Both must be of
// one build: objects of C++ pass between them.
#pragma once

#include "../many_engine.hpp"
#include "arrays.hpp"

#include <cstddef>

namespace fastmlp::cuda {

enum class State { ok, no_driver, driver_too_old, no_device, device_too_old, no_cublas, error };

struct Status {
  State state;
  int driver, runtime; // versions of CUDA, as 1000 * major + 10 * minor; 0: unknown
  int n_devices;
  int major, minor; // compute capability of the device
  std::size_t total_bytes, free_bytes;
  std::size_t cublas; // version of cuBLASLt, 0: none
  char device[128], detail[512];
};

struct Api {
  const char* name;
  // Of device number `device`; cuBLASLt is looked for under these names, in this order. Never throws.
  void (*status)(int device, const char* const* cublas, int n_cublas, Status* status);
  // After a status that is ok. Precision by its number.
  Engine<float>* (*make_float_engine)(const Network& network, int device, int precision);
  Engine<double>* (*make_double_engine)(const Network& network, int device, int precision);
  // Likewise, for many models that learn from the same rows of X, each from one of the data.
  ManyEngine* (*make_many_engine)(const Network& network, int device, int precision,
                                  const std::vector<Dataset<float>>& data, const std::vector<ManyModel>& models);
  const Arrays* arrays;
};

// The only names that the library exports: of which build it is, and what it offers.
using BuildFunction = const char* (*)();
using ApiFunction = const Api* (*)();
constexpr const char* build_function = "fastmlp_cuda_build";
constexpr const char* api_function = "fastmlp_cuda_api";

} // namespace fastmlp::cuda
