// The engine of a device: parameters, slots, data and lists of operations in its memory.
#pragma once

#include "device.hpp"
#include "plan.hpp"

#include <memory>

namespace fastmlp::cuda {

template <class T>
std::unique_ptr<Engine<T>> make_engine(const Network& network, std::unique_ptr<Device> device, Precision precision);

} // namespace fastmlp::cuda
