#include "lt.hpp"

#include <dlfcn.h>

#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>

namespace fastmlp::cuda {

namespace {

std::mutex lock;
const Lt* last = nullptr;

template <class F> void bind(void* library, const char* name, F& function) {
  void* found = dlsym(library, name);
  if (!found) throw std::runtime_error(std::string("it lacks ") + name);
  function = reinterpret_cast<F>(found);
}

Lt table_of(void* library) {
  Lt lt{};
  bind(library, "cublasLtCreate", lt.create);
  bind(library, "cublasLtDestroy", lt.destroy);
  bind(library, "cublasLtGetVersion", lt.version);
  bind(library, "cublasLtMatmulDescCreate", lt.product_create);
  bind(library, "cublasLtMatmulDescDestroy", lt.product_destroy);
  bind(library, "cublasLtMatmulDescSetAttribute", lt.product_set);
  bind(library, "cublasLtMatrixLayoutCreate", lt.layout_create);
  bind(library, "cublasLtMatrixLayoutDestroy", lt.layout_destroy);
  bind(library, "cublasLtMatmulPreferenceCreate", lt.preference_create);
  bind(library, "cublasLtMatmulPreferenceDestroy", lt.preference_destroy);
  bind(library, "cublasLtMatmulPreferenceSetAttribute", lt.preference_set);
  bind(library, "cublasLtMatmulAlgoGetHeuristic", lt.heuristic);
  bind(library, "cublasLtMatmul", lt.multiply);
  return lt;
}

} // namespace

const Lt& open_lt(const std::vector<std::string>& names) {
  static std::map<std::string, std::unique_ptr<Lt>> opened;
  const std::lock_guard<std::mutex> guard(lock);
  std::string complaints;
  for (const std::string& name : names) {
    std::unique_ptr<Lt>& lt = opened[name];
    if (!lt) {
      void* library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
      try {
        if (!library) throw std::runtime_error(dlerror());
        lt = std::make_unique<Lt>(table_of(library));
      } catch (const std::exception& error) {
        complaints += (complaints.empty() ? "" : "; ") + name + ": " + error.what();
      }
    }
    if (lt) return *(last = lt.get());
  }
  throw std::runtime_error(complaints.empty() ? "no name to look for was given" : complaints);
}

const Lt* opened_lt() {
  const std::lock_guard<std::mutex> guard(lock);
  return last;
}

} // namespace fastmlp::cuda
