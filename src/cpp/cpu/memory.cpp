#include "memory.hpp"

#ifdef _WIN32
namespace fastmlp {
double physical_memory() { return 0; }
} // namespace fastmlp
#else
#include <unistd.h>
namespace fastmlp {
double physical_memory() {
  const long pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGE_SIZE);
  return pages > 0 && size > 0 ? double(pages) * double(size) : 0;
}
} // namespace fastmlp
#endif
