#include "library.hpp"

#include <map>
#include <mutex>
#include <stdexcept>

#ifndef _WIN32
#include <dlfcn.h>
#endif

namespace fastmlp::cuda {

namespace {

#ifdef _WIN32
const Api* load(const std::string& path) {
  throw std::runtime_error("there is no GPU engine on Windows: " + path + " cannot be opened");
}
#else
template <class F> F function(void* library, const char* name, const std::string& path) {
  void* found = dlsym(library, name);
  if (!found) throw std::runtime_error(path + " is no GPU engine of fastmlp: it has no " + name);
  return reinterpret_cast<F>(found);
}

const Api* load(const std::string& path) {
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) throw std::runtime_error(dlerror());
  const std::string build = function<BuildFunction>(library, build_function, path)();
  if (build != FASTMLP_BUILD)
    throw std::runtime_error(path + " is of the build '" + build + "', but this module of '" FASTMLP_BUILD "'");
  return function<ApiFunction>(library, api_function, path)();
}
#endif

} // namespace

const Api& open_library(const std::string& path) {
  static std::mutex lock;
  static std::map<std::string, const Api*> opened;
  const std::lock_guard<std::mutex> guard(lock);
  const Api*& api = opened[path];
  if (!api) api = load(path);
  return *api;
}

} // namespace fastmlp::cuda
