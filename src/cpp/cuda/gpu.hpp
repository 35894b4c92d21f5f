// The GPUs of this machine.
#pragma once

#include "api.hpp"
#include "device.hpp"

namespace fastmlp::cuda {

void describe_gpu(int device, const char* const* cublas, int n_cublas, Status* status); // see Api
std::unique_ptr<Device> open_gpu(int device);
extern const Arrays arrays_on_gpu;

} // namespace fastmlp::cuda
