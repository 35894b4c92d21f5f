// Which kernel set runs: the best that this build has and this machine supports, unless FASTMLP_ISA names another.
// Processors that take an operation on 512 bits in two halves have the same peak with 256: there, networks of few
// parameters run faster with the shorter panels of AVX2, whose transposes take fewer steps and whose last panel has
// fewer empty rows.
// To add an instruction set: a line in CMakeLists.txt and a line in `built` here.
#include "kernels.hpp"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <stdexcept>

namespace fastmlp {

#define FASTMLP_DECLARE(isa)                                                                                           \
  namespace isa {                                                                                                      \
  const Kernels<float>* float_kernels();                                                                               \
  const Kernels<double>* double_kernels();                                                                             \
  }
FASTMLP_DECLARE(baseline)
#ifdef FASTMLP_HAS_AVX2
FASTMLP_DECLARE(avx2)
#endif
#ifdef FASTMLP_HAS_AVX512
FASTMLP_DECLARE(avx512)
#endif

namespace {

struct Build {
  const char* name;
  bool supported, for_few_parameters;
  const Kernels<float>* (*float_kernels)();
  const Kernels<double>* (*double_kernels)();
};

const std::vector<Build>& usable() {
  static const std::vector<Build> sets = [] {
    const Build built[] = {
        {"baseline", true, true, baseline::float_kernels, baseline::double_kernels},
#ifdef FASTMLP_HAS_AVX2
        {"avx2", __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"), true, avx2::float_kernels,
         avx2::double_kernels},
#endif
#ifdef FASTMLP_HAS_AVX512
        {"avx512",
         __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"),
         !__builtin_cpu_is("amdfam19h"), // Zen 4; later ones from AMD have whole registers
         avx512::float_kernels, avx512::double_kernels},
#endif
    };
    std::vector<Build> can_run;
    for (const Build& set : built)
      if (set.supported) can_run.push_back(set);
    return can_run;
  }();
  return sets;
}

// None for "auto".
const Build* find(const std::string& name, const char* source) {
  if (name == "auto") return nullptr;
  std::string message = std::string(source) + " '" + name + "' cannot run here; choose one of: 'auto',";
  for (const Build& set : usable()) {
    if (set.name == name) return &set;
    message += std::string(" '") + set.name + "',";
  }
  message.back() = '.';
  throw std::invalid_argument(message);
}

std::atomic<const Build*>& named() {
  static std::atomic<const Build*> set = [] {
    const char* wanted = std::getenv("FASTMLP_ISA");
    return wanted && *wanted ? find(wanted, "the environment variable FASTMLP_ISA names the instruction set") : nullptr;
  }();
  return set;
}

const Build& chosen() {
  const Build* set = named();
  return set ? *set : usable().back();
}

const Build& chosen_for(std::ptrdiff_t n_parameters) {
  static const Build& for_few =
      *std::find_if(usable().rbegin(), usable().rend(), [](const Build& set) { return set.for_few_parameters; });
  return named() || n_parameters > few_parameters ? chosen() : for_few;
}

} // namespace

template <> const Kernels<float>& kernels<float>() { return *chosen().float_kernels(); }
template <> const Kernels<double>& kernels<double>() { return *chosen().double_kernels(); }
template <> const Kernels<float>& kernels_for<float>(std::ptrdiff_t n) { return *chosen_for(n).float_kernels(); }
template <> const Kernels<double>& kernels_for<double>(std::ptrdiff_t n) { return *chosen_for(n).double_kernels(); }

std::vector<std::string> instruction_sets() {
  std::vector<std::string> names;
  for (const Build& set : usable()) names.push_back(set.name);
  return names;
}

void set_instruction_set(const std::string& name) { named() = find(name, "instruction set"); }

} // namespace fastmlp
