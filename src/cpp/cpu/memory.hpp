// Aligned, zeroed memory that says what it could not get, instead of letting the system kill the process later.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <new>
#include <string>

namespace fastmlp {

// Thrown when more is asked for than the machine has; a std::bad_alloc, so that Python sees a MemoryError.
class OutOfMemory : public std::bad_alloc {
public:
  explicit OutOfMemory(double bytes)
      : message("the network and its batch need " + std::to_string(bytes / (1 << 30)) +
                " GiB more than this machine can give; use smaller layers or a smaller batch_size") {}
  const char* what() const noexcept override { return message.c_str(); }

private:
  std::string message;
};

double physical_memory(); // bytes; 0 if unknown

template <class T> class AlignedArray {
public:
  AlignedArray() = default;
  explicit AlignedArray(std::size_t n) {
    constexpr std::size_t alignment = 64; // a cache line, and the widest register
    const double bytes = double(n) * sizeof(T), limit = physical_memory();
    if (bytes > 1e18 || (limit > 0 && bytes > limit)) throw OutOfMemory(bytes);
    const std::size_t size = (n * sizeof(T) + alignment - 1) / alignment * alignment;
    memory.reset(static_cast<T*>(std::aligned_alloc(alignment, size ? size : alignment)));
    if (!memory) throw OutOfMemory(bytes);
    for (std::size_t i = 0; i < n; ++i) memory.get()[i] = T(0);
  }
  T* data() const { return memory.get(); }

private:
  struct Free {
    void operator()(T* p) const { std::free(p); }
  };
  std::unique_ptr<T[], Free> memory;
};

} // namespace fastmlp
