#include "memory.hpp"

#include <cstdlib>
#include <cstring>

#if defined(__linux__)
#include <mutex>
#include <sys/mman.h>
#endif
#ifndef _WIN32
#include <unistd.h>
#endif

namespace fastmlp {

namespace {

constexpr std::size_t line = 64;                        // bytes of a cache line, and the widest register
constexpr std::size_t page = 1 << 16;                   // a multiple of every system's page
constexpr std::size_t huge_page = std::size_t(2) << 20; // on x86-64 and most aarch64 systems
constexpr std::size_t worth_huge_pages = 2 * huge_page;

double physical_memory() { // bytes; 0 if unknown
#ifdef _WIN32
  return 0;
#else
  const long pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGE_SIZE);
  return pages > 0 && size > 0 ? double(pages) * double(size) : 0;
#endif
}

std::size_t round_up(std::size_t bytes, std::size_t unit) { return (bytes + unit - 1) / unit * unit; }

#if defined(__linux__)
// Large blocks that were given back, for the next call on the same network: the system takes as long to clear fresh
// pages as a step on a small batch. Until then it may have these pages for others. A request for another size comes
// from another network: all blocks go. Whoever finds the lock taken gets fresh pages, so that nobody waits, not even in
// a fork's child, where nobody may be left to open it.
class SpareBlocks {
public:
  void* take(std::size_t bytes) {
    const std::unique_lock<std::mutex> lock(mutex, std::try_to_lock);
    if (!lock) return nullptr;
    Block* const found = std::find_if(blocks, blocks + n, [&](const Block& b) { return b.bytes == bytes; });
    if (found == blocks + n) {
      while (n > 0) {
        const Block& last = blocks[--n];
        munmap(last.start, last.bytes);
      }
      total = 0;
      return nullptr;
    }
    void* const start = found->start;
    *found = blocks[--n];
    total -= bytes;
    return start;
  }

  bool keep(void* start, std::size_t bytes) {
    const std::unique_lock<std::mutex> lock(mutex, std::try_to_lock);
    if (!lock || total + bytes > most || madvise(start, bytes, MADV_FREE) != 0) return false;
    blocks[n++] = {start, bytes};
    total += bytes;
    return true;
  }

private:
  struct Block {
    void* start;
    std::size_t bytes;
  };
  static constexpr std::size_t most = std::size_t(256) << 20;
  std::mutex mutex;
  Block blocks[most / worth_huge_pages];
  std::size_t n = 0, total = 0;
};

SpareBlocks& spare_blocks() {
  static SpareBlocks* const blocks = new SpareBlocks; // never destroyed: there may be engines until the very end
  return *blocks;
}
#endif

} // namespace

void* allocate(std::size_t count, std::size_t size) {
  static const double limit = physical_memory(); // asking the system takes as long as a small step
  const double wanted = double(count) * double(size);
  if (wanted > 1e18 || (limit > 0 && wanted > limit)) throw OutOfMemory(wanted);
  const std::size_t bytes = round_up(count ? count * size : 1, line);
#if defined(__linux__)
  if (bytes >= worth_huge_pages) { // fresh pages are zero already, and cost nothing before they are used
    if (void* const spare = spare_blocks().take(round_up(bytes, page))) return std::memset(spare, 0, bytes);
    const std::size_t whole = round_up(bytes, page) + huge_page;
    void* p = mmap(nullptr, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) throw OutOfMemory(wanted);
    char* const start = static_cast<char*>(p);
    char* const aligned = start + (huge_page - reinterpret_cast<std::size_t>(start) % huge_page) % huge_page;
    if (aligned > start) munmap(start, std::size_t(aligned - start));
    char* const end = aligned + round_up(bytes, page);
    if (start + whole > end) munmap(end, std::size_t(start + whole - end));
    madvise(aligned, std::size_t(end - aligned), MADV_HUGEPAGE); // a wish: the system may have none
    return aligned;
  }
#endif
  void* p = std::aligned_alloc(line, bytes);
  if (!p) throw OutOfMemory(wanted);
  std::memset(p, 0, bytes);
  return p;
}

void deallocate(void* p, std::size_t bytes) {
#if defined(__linux__)
  bytes = round_up(bytes ? bytes : 1, line);
  if (p && bytes >= worth_huge_pages) {
    if (!spare_blocks().keep(p, round_up(bytes, page))) munmap(p, round_up(bytes, page));
    return;
  }
#else
  (void)bytes;
#endif
  std::free(p);
}

} // namespace fastmlp
