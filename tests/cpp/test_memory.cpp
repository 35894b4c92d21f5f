// Memory comes zeroed and aligned, also where a block is used again.
#include "check.hpp"

#include "../../src/cpp/cpu/memory.hpp"

#include <algorithm>

namespace fastmlp {

namespace {

bool is_clean(const char* p, std::size_t n) {
  return reinterpret_cast<std::uintptr_t>(p) % 64 == 0 && std::all_of(p, p + n, [](char c) { return c == 0; });
}

// Several blocks at once, of which each is left dirty.
void test_blocks(const std::vector<std::size_t>& sizes) {
  std::vector<AlignedArray<char>> blocks;
  for (std::size_t n : sizes) {
    blocks.emplace_back(n);
    check(is_clean(blocks.back().data(), n), "a block of " + std::to_string(n) + " bytes is zero");
    std::fill_n(blocks.back().data(), n, char(1));
  }
  for (std::size_t i = 0; i < sizes.size(); ++i)
    check(std::all_of(blocks[i].data(), blocks[i].data() + sizes[i], [](char c) { return c == 1; }),
          "a block of " + std::to_string(sizes[i]) + " bytes is nobody else's");
}

} // namespace

void test_memory() {
  constexpr std::size_t large = std::size_t(5) << 20, larger = std::size_t(9) << 20;
  for (int round = 0; round < 3; ++round) {
    test_blocks({1, 64, 1000, large, large, larger});
    test_blocks({large, large + 1, large - 1, larger}); // of one size in pages, and others
  }
  test_blocks({std::size_t(300) << 20}); // more than is kept
  test_blocks({large, large});
}

} // namespace fastmlp
