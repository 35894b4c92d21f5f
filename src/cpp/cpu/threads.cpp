#include "threads.hpp"

#ifndef _WIN32
#include <pthread.h>
#endif

namespace fastmlp {

namespace {

bool forked = false;

#ifndef _WIN32
const int registered = pthread_atfork(nullptr, nullptr, [] { forked = true; });
#endif

} // namespace

bool in_forked_child() { return forked; }

int available_threads() {
#ifdef _OPENMP
  return std::max(1, omp_get_max_threads());
#else
  return 1;
#endif
}

} // namespace fastmlp
