// Arrays of others that lie in the memory of a device already: what must be known of them before an engine reads them.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fastmlp::cuda {

// Rows of float or double, with unit column stride.
struct ArrayRows {
  const void* data;
  std::ptrdiff_t stride; // between rows, in elements
  std::int64_t n_rows;
  int n_columns;
  bool is_double;
};

constexpr std::intptr_t every_stream = -1; // of the device

// Each call returns when its work is done, and throws if it cannot be done.
struct Arrays {
  int (*device_of)(const void* array); // its number
  // For all work that was given to a stream: its handle, or 1 and 2 for the two default streams of CUDA, or
  // every_stream.
  void (*wait_for)(int device, std::intptr_t stream);
  // Rows of `bytes` bytes, which are `pitch` bytes apart on the device and without gaps here.
  void (*download)(int device, void* to, const void* from, std::size_t bytes, std::size_t pitch, std::int64_t n_rows);
  // Row times n_columns plus column of the first number that is NaN or infinite, or -1.
  std::int64_t (*find_not_finite)(int device, const ArrayRows& rows);
  // A copy without gaps of the other type, to be given back by `free`.
  void* (*convert)(int device, const ArrayRows& rows);
  void (*free)(int device, void* memory);
};

} // namespace fastmlp::cuda
