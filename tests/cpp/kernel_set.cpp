// The kernel set FASTMLP_ISA, whether this machine would choose it or not.
#include "../../src/cpp/cpu/kernels.hpp"

namespace fastmlp {
namespace FASTMLP_ISA {
const Kernels<float>* float_kernels();
const Kernels<double>* double_kernels();
} // namespace FASTMLP_ISA

template <> const Kernels<float>& kernels<float>() { return *FASTMLP_ISA::float_kernels(); }
template <> const Kernels<double>& kernels<double>() { return *FASTMLP_ISA::double_kernels(); }
template <> const Kernels<float>& kernels_for<float>(std::ptrdiff_t) { return kernels<float>(); }
template <> const Kernels<double>& kernels_for<double>(std::ptrdiff_t) { return kernels<double>(); }
} // namespace fastmlp
