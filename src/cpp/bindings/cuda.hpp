// The GPU engine as Python sees it: whether it can be had, and if so, engines.
#pragma once

#include "../cuda/library.hpp"
#include "arrays.hpp"

#include <variant>

namespace fastmlp {

using AnyEngine = std::variant<std::unique_ptr<Engine<float>>, std::unique_ptr<Engine<double>>>;

// Loads the library and describes one device; raises if the library cannot be opened or is of another build.
inline py::dict cuda_status(const std::string& library, int device, const std::vector<std::string>& cublas) {
  if (device < 0) reject("device must not be negative, got " + std::to_string(device));
  std::vector<const char*> names;
  for (const std::string& name : cublas) names.push_back(name.c_str());
  cuda::Status status{};
  const char* engine = nullptr;
  {
    const py::gil_scoped_release release;
    const cuda::Api& api = cuda::open_library(library);
    engine = api.name;
    api.status(device, names.data(), int(names.size()), &status);
  }
  static const char* const states[] = {"ok",        "no_driver", "driver_too_old", "no_device", "device_too_old",
                                       "no_cublas", "error"};
  py::dict d;
  d["state"] = states[int(status.state)];
  d["detail"] = status.detail;
  d["engine"] = engine;
  d["driver"] = status.driver;
  d["runtime"] = status.runtime;
  d["cublas"] = status.cublas;
  d["n_devices"] = status.n_devices;
  d["device"] = status.device;
  d["capability"] = py::make_tuple(status.major, status.minor);
  d["total_bytes"] = status.total_bytes;
  d["free_bytes"] = status.free_bytes;
  return d;
}

// A GPU whose status is ok, and how it computes; from a tuple of a library, the number of a device and a precision.
struct CudaPlace {
  std::string library;
  int device, precision;
};

inline CudaPlace cuda_place(const py::object& where) {
  static const char* const precisions[] = {"ieee", "tf32", "bf16"};
  if (!py::isinstance<py::tuple>(where) || py::len(where) != 3)
    throw py::type_error("cuda must be None or a tuple of a library, a device and a precision");
  const auto parts = where.cast<py::tuple>();
  const auto precision = std::find(std::begin(precisions), std::end(precisions), parts[2].cast<std::string>());
  if (precision == std::end(precisions))
    reject("unknown precision '" + parts[2].cast<std::string>() + "'; valid names: 'ieee' 'tf32' 'bf16'");
  return {parts[0].cast<std::string>(), parts[1].cast<int>(), int(precision - precisions)};
}

inline AnyEngine make_cuda_engine(const Network& network, const std::string& dtype, const py::object& where) {
  const auto [library, device, precision] = cuda_place(where);
  const py::gil_scoped_release release;
  const cuda::Api& api = cuda::open_library(library);
  if (dtype == "float32") return std::unique_ptr<Engine<float>>(api.make_float_engine(network, device, precision));
  return std::unique_ptr<Engine<double>>(api.make_double_engine(network, device, precision));
}

} // namespace fastmlp
