// Memory on a device that is given back, and asked for anew when more is needed.
#pragma once

#include "device.hpp"

#include <cstdio>
#include <utility>

namespace fastmlp::cuda {

inline std::string gibibytes(std::size_t bytes) {
  char text[32];
  std::snprintf(text, sizeof text, "%.2f GiB", double(bytes) / double(1 << 30));
  return text;
}

class Memory {
public:
  Memory() = default;
  explicit Memory(Device& device) : device(&device) {}
  Memory(Memory&& other) noexcept { swap(other); }
  Memory& operator=(Memory&& other) noexcept {
    swap(other);
    return *this;
  }
  ~Memory() { clear(); }

  // At least so many bytes, zeros if they are new; true if they are.
  bool reserve(std::size_t bytes) {
    if (bytes <= size) return false;
    clear();
    start = device->allocate(bytes);
    size = bytes;
    return true;
  }
  void clear() {
    if (start) device->free(start);
    start = nullptr;
    size = 0;
  }
  void* get() const { return start; }
  std::size_t bytes() const { return size; }

private:
  void swap(Memory& other) {
    std::swap(device, other.device);
    std::swap(start, other.start);
    std::swap(size, other.size);
  }

  Device* device = nullptr;
  void* start = nullptr;
  std::size_t size = 0;
};

} // namespace fastmlp::cuda
