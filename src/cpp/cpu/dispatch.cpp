// Which kernel set runs: the best that this build has and this machine supports, unless FASTMLP_ISA names another.
// To add an instruction set: a line in CMakeLists.txt and a line in `built` here.
#include "kernels.hpp"

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
  bool supported;
  const Kernels<float>* (*float_kernels)();
  const Kernels<double>* (*double_kernels)();
};

const std::vector<Build>& usable() {
  static const std::vector<Build> sets = [] {
    const Build built[] = {
        {"baseline", true, baseline::float_kernels, baseline::double_kernels},
#ifdef FASTMLP_HAS_AVX2
        {"avx2", __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"), avx2::float_kernels,
         avx2::double_kernels},
#endif
#ifdef FASTMLP_HAS_AVX512
        {"avx512",
         __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"),
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

const Build* find(const std::string& name, const char* source) {
  std::string message = std::string(source) + " '" + name + "' cannot run here; choose one of:";
  for (const Build& set : usable()) {
    if (set.name == name) return &set;
    message += std::string(" '") + set.name + "',";
  }
  message.back() = '.';
  throw std::invalid_argument(message);
}

std::atomic<const Build*>& chosen() {
  static std::atomic<const Build*> set = [] {
    const char* wanted = std::getenv("FASTMLP_ISA");
    return wanted && *wanted ? find(wanted, "the environment variable FASTMLP_ISA names the instruction set")
                             : &usable().back();
  }();
  return set;
}

} // namespace

template <> const Kernels<float>& kernels<float>() { return *chosen().load()->float_kernels(); }
template <> const Kernels<double>& kernels<double>() { return *chosen().load()->double_kernels(); }

std::vector<std::string> instruction_sets() {
  std::vector<std::string> names;
  for (const Build& set : usable()) names.push_back(set.name);
  return names;
}

void set_instruction_set(const std::string& name) { chosen() = find(name, "instruction set"); }

} // namespace fastmlp
