// What each operation of a list reads and writes, and so which must wait for which.
#pragma once

#include "ops.hpp"

namespace fastmlp::cuda {

// Elements begin ... end - 1 of a buffer.
struct Access {
  int buffer;
  std::ptrdiff_t begin, end;
  bool writes;

  bool conflicts(const Access& other) const {
    return buffer == other.buffer && (writes || other.writes) && begin < other.end && other.begin < end;
  }
};

std::vector<Access> accesses(const Network& network, const Op& op);

// For each operation the numbers of those before it that must be done first. What follows from others is left out.
std::vector<std::vector<int>> predecessors(const Network& network, const std::vector<Op>& ops);

} // namespace fastmlp::cuda
