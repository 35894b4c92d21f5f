// Opens libfastmlp_cuda.so.
#pragma once

#include "api.hpp"

#include <string>

namespace fastmlp::cuda {

// What the library under this path offers; opened once, and never closed. Throws if it cannot be opened, or is of
// another build than this module.
const Api& open_library(const std::string& path);

} // namespace fastmlp::cuda
