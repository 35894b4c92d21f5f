// Aligned, zeroed memory that says what it could not get, instead of letting the system kill the process later.
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <new>
#include <string>
#include <vector>

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

// Zeroed bytes from the start of a cache line; large blocks come in huge pages, where the system has them, as a step
// that walks through megabytes would otherwise wait for address translation; some of them were given back before.
// Throws OutOfMemory.
void* allocate(std::size_t count, std::size_t size);
void deallocate(void* memory, std::size_t bytes);

template <class T> class AlignedArray {
public:
  AlignedArray() = default;
  explicit AlignedArray(std::size_t n) : memory(static_cast<T*>(allocate(n, sizeof(T))), Free{n * sizeof(T)}) {}
  T* data() const { return memory.get(); }

private:
  struct Free {
    std::size_t bytes;
    void operator()(T* p) const { deallocate(p, bytes); }
  };
  std::unique_ptr<T[], Free> memory{nullptr, Free{0}};
};

// One block cut into aligned pieces of the given sizes.
template <class T> class AlignedPieces {
public:
  AlignedPieces() = default;
  explicit AlignedPieces(const std::vector<std::size_t>& sizes) {
    for (std::size_t n : sizes) {
      starts.push_back(total);
      total += round_up(n);
    }
    block = AlignedArray<T>(total);
  }
  T* operator[](std::size_t i) const { return block.data() + starts[i]; }
  void copy(const AlignedPieces& from) { std::copy_n(from.block.data(), total, block.data()); } // of the same sizes

private:
  static std::size_t round_up(std::size_t n) {
    constexpr std::size_t line = 64 / sizeof(T);
    return (n + line - 1) / line * line;
  }
  AlignedArray<T> block;
  std::size_t total = 0;
  std::vector<std::size_t> starts;
};

} // namespace fastmlp
