// How many processors this process may keep busy.
#pragma once

#include <string>

namespace fastmlp {

// The share of the machine that Linux control groups grant, in processors: 1.5 is one and half of another; infinity if
// nothing limits it. Of all groups that the process is in, and of all their parents, the tightest counts. `root` is put
// before the paths of the system's files, for tests.
double processor_quota(const std::string& root);

// The processors that an automatic choice of threads counts on: at most what OMP_NUM_THREADS, threadpoolctl and
// OMP_THREAD_LIMIT say, the CPU affinity and the quota, rounded up.
int available_threads();

} // namespace fastmlp
