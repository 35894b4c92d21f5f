// The engine of a device for many small networks of one shape: each is a block's own, with the kernel of fit_many.hpp.
#pragma once

#include "../many_engine.hpp"
#include "device.hpp"

#include <memory>

namespace fastmlp::cuda {

// The data have the same X, without gaps between its rows, and may go once the engine is made; what models point to
// must stay. Throws std::invalid_argument if the network is none for the kernel.
std::unique_ptr<ManyEngine> make_many_engine(const Network& network, std::unique_ptr<Device> device,
                                             Precision precision, const std::vector<Dataset<float>>& data,
                                             const std::vector<ManyModel>& models);

} // namespace fastmlp::cuda
