#include "processors.hpp"

#ifdef _OPENMP
#include <omp.h>
#endif

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <sstream>

namespace fastmlp {

namespace {

constexpr double unlimited = std::numeric_limits<double>::infinity();

// Where a hierarchy of control groups is mounted, and which of its groups is the top of what can be seen there.
struct Hierarchy {
  bool unified; // version 2
  std::string folder, top;
};

bool lists(const std::string& comma_separated, const std::string& word) {
  return ("," + comma_separated + ",").find("," + word + ",") != std::string::npos;
}

// A line of /proc/self/mountinfo: id, parent, device, top, folder, options ..., "-", type, source, options (proc(5)).
bool parse_mount(const std::string& line, Hierarchy& mounted) {
  std::istringstream words(line);
  std::string word, type, source, options;
  words >> word >> word >> word >> mounted.top >> mounted.folder;
  while (words >> word && word != "-") {
  }
  words >> type >> source >> options;
  mounted.unified = type == "cgroup2";
  return mounted.unified || (type == "cgroup" && lists(options, "cpu"));
}

// The group of this process, as a path below the mounted folder.
std::string own_group(const std::string& root, const Hierarchy& mounted) {
  std::ifstream groups(root + "/proc/self/cgroup");
  std::string number, controllers, path;
  while (std::getline(groups, number, ':') && std::getline(groups, controllers, ':') && std::getline(groups, path)) {
    if (mounted.unified ? number != "0" : !lists(controllers, "cpu")) continue;
    if (mounted.top != "/" && path.rfind(mounted.top, 0) == 0) path.erase(0, mounted.top.size());
    // In a container the path may be that of the host, of which only the container's own part can be seen: the walk to
    // the top ends there.
    return path == "/" ? "" : path;
  }
  return "";
}

double quota_of(const std::string& folder, bool unified) {
  std::string quota; // "max", -1 or microseconds
  double period = 0;
  if (unified) {
    std::ifstream(folder + "/cpu.max") >> quota >> period;
  } else {
    std::ifstream(folder + "/cpu.cfs_quota_us") >> quota;
    std::ifstream(folder + "/cpu.cfs_period_us") >> period;
  }
  const double microseconds = std::strtod(quota.c_str(), nullptr);
  return microseconds > 0 && period > 0 ? microseconds / period : unlimited;
}

// Read again after a second: limits change while a container runs, and reading takes longer than a prediction.
double recent_quota() {
  using Clock = std::chrono::steady_clock;
  static std::atomic<double> quota{unlimited};
  static std::atomic<Clock::rep> due{Clock::time_point::min().time_since_epoch().count()};
  const auto now = Clock::now();
  if (now.time_since_epoch().count() < due.load(std::memory_order_acquire)) return quota;
  quota = processor_quota("");
  due.store((now + std::chrono::seconds(1)).time_since_epoch().count(), std::memory_order_release);
  return quota;
}

} // namespace

double processor_quota(const std::string& root) {
  double tightest = unlimited;
  std::ifstream mounts(root + "/proc/self/mountinfo");
  for (std::string line; std::getline(mounts, line);) {
    Hierarchy mounted;
    if (!parse_mount(line, mounted)) continue;
    for (std::string path = own_group(root, mounted);; path.erase(path.rfind('/'))) {
      tightest = std::min(tightest, quota_of(root + mounted.folder + path, mounted.unified));
      if (path.find('/') == std::string::npos) break;
    }
  }
  return tightest;
}

int available_threads() {
#ifdef _OPENMP
  const int threads = std::min({omp_get_max_threads(), omp_get_thread_limit(), omp_get_num_procs()});
#else
  const int threads = 1;
#endif
  return std::max(1, int(std::min<double>(threads, std::ceil(recent_quota()))));
}

} // namespace fastmlp
