// Runs kernels of src/cpp/cuda/kernels on one thread of a processor: slowly, but strict about barriers. To be included
// before them.
//
// Each thread of a kernel's block is a fiber with a stack of its own. It runs until it waits for others or is done;
// then another one that may run goes on: which one, `schedule_seed` decides, as well as the order of the blocks. What a
// kernel computes must not depend on it: a missing barrier shows as bits that change with the seed. Shared memory is
// filled with NaN before a block, and what lies behind its dynamic part is watched. Barriers that not all threads
// reach, or at different places, are errors.
#pragma once

#include "../../src/cpp/cuda/room.hpp"

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#define FASTMLP_CUDA_ON_HOST
#define FASTMLP_KERNEL [[maybe_unused]] static void
#define FASTMLP_DEVICE [[maybe_unused]] static inline
#define FASTMLP_UNROLL
#define FASTMLP_ROLLED
#define FASTMLP_GRID_CONSTANT
#define FASTMLP_DYNAMIC_SHARED(T, name) T* const name = reinterpret_cast<T*>(fastmlp::cuda::on_host::shared_memory())
#define __device__
#define __shared__ static // blocks run one after another; FASTMLP_SHARED is the stricter way
#define FASTMLP_SHARED(T, name, dimensions)                                                                            \
  static const int name##_number = fastmlp::cuda::on_host::n_shared++;                                                 \
  using name##_type = T dimensions;                                                                                    \
  name##_type& name = fastmlp::cuda::on_host::block->shared_object<name##_type>(name##_number)
#define __launch_bounds__(...)

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
using cudaStream_t = void*;

namespace fastmlp::cuda {

struct Grid {
  dim3 blocks, threads;
  std::size_t shared = 0;
};

namespace on_host {

inline unsigned schedule_seed = 0; // 0: threads and blocks in their order
inline int n_shared = 0;           // objects in shared memory that kernels have named

constexpr int warp_lanes = 32;
constexpr std::size_t stack_bytes = 128 * 1024, guard_bytes = 256;
constexpr unsigned char guard = 0xa5;
constexpr int most_asides = 1000000;

struct Place { // in the source
  const char* file = "";
  int line = 0;
  bool operator!=(const Place& other) const { return line != other.line || std::strcmp(file, other.file) != 0; }
};

// Those who wait for one another: a warp, or a block.
struct Barrier {
  int size = 0;
  std::vector<int> waiting;
  Place place;
};

struct Warp {
  Barrier barrier;
  alignas(16) unsigned char exchange[warp_lanes][16];
  std::uint32_t a[warp_lanes][4], b[warp_lanes][2]; // of a product
};

// Where to go on, without the system call that swapcontext makes for the mask of signals.
struct Point {
  void* words[5];
};
[[noreturn]] __attribute__((noinline)) inline void go_to(Point& to) { __builtin_longjmp(to.words, 1); }
__attribute__((noinline)) inline void leave(Point& from, Point& to) {
  if (__builtin_setjmp(from.words) == 0) go_to(to);
}
__attribute__((noinline)) inline void enter(Point& from, const ucontext_t& to) { // for the first time
  if (__builtin_setjmp(from.words) == 0) setcontext(&to);
}

struct Fiber {
  ucontext_t context;
  Point point;
  bool started = false;
  std::unique_ptr<char[]> stack;
  dim3 thread;
  int number;
};

class Block {
public:
  Block(const Grid& grid, dim3 number, const std::function<void()>& kernel)
      : number(number), blocks(grid.blocks), threads(grid.threads), kernel(kernel),
        n(int(grid.threads.x * grid.threads.y * grid.threads.z)),
        shared(grid.shared + guard_bytes + 16, static_cast<unsigned char>(0xff)) {
    void* at = shared.data();
    std::size_t space = shared.size();
    memory = static_cast<unsigned char*>(std::align(16, grid.shared + guard_bytes, at, space));
    std::fill_n(memory + grid.shared, guard_bytes, guard);
    barrier.size = n;
    for (int first = 0; first < n; first += warp_lanes) {
      warps.emplace_back(std::make_unique<Warp>());
      warps.back()->barrier.size = std::min(warp_lanes, n - first);
    }
    shared_bytes = grid.shared;
  }

  // A block alone; or one that takes turns with others: begin, then go_on while it is not done, then end.
  void run(unsigned seed) {
    begin(seed);
    while (!is_idle()) go_on();
    end();
  }
  void begin(unsigned seed);
  bool is_idle() const { return runnable.empty() || !failure.empty(); } // nobody may run: done, or in a deadlock
  void go_on();                                                         // some thread, to its next wait
  void end();

  // The object of that number, the same for all threads; filled with ones, which are NaN, before anyone writes to it.
  template <class T> T& shared_object(int object) {
    std::vector<std::max_align_t>& room = objects[object];
    if (room.empty()) {
      named_bytes += sizeof(T);
      room.resize(std::size_t(sizeof(T)) / (sizeof(std::max_align_t)) + 1);
      std::memset(static_cast<void*>(room.data()), 0xff, room.size() * sizeof(std::max_align_t));
    }
    return *reinterpret_cast<T*>(room.data());
  }

  Warp& warp() { return *warps[std::size_t(current->number / warp_lanes)]; }
  int lane() const { return current->number % warp_lanes; }

  // The running fiber waits until all of `at` do.
  void wait(Barrier& at, Place place) {
    if (at.waiting.empty())
      at.place = place;
    else if (at.place != place)
      fail("threads wait at different barriers: " + name_of(at.place) + " and " + name_of(place));
    at.waiting.push_back(current->number);
    if (int(at.waiting.size()) == at.size) {
      runnable.insert(runnable.end(), at.waiting.begin(), at.waiting.end());
      at.waiting.clear();
    }
    leave(current->point, scheduler);
  }

  // The running fiber lets others run, of this block or another one.
  void step_aside() {
    if (++asides > most_asides) fail("a block waits for another one that does not come");
    runnable.push_back(current->number);
    leave(current->point, scheduler);
  }

  dim3 number, blocks, threads;
  Barrier barrier;
  Fiber* current = nullptr;
  unsigned char* memory = nullptr;
  int asides = 0; // how often a thread has let others run

  [[noreturn]] void fail(const std::string& what) {
    failure = what;
    go_to(scheduler);
  }

private:
  static std::string name_of(const Place& place) { return std::string(place.file) + ":" + std::to_string(place.line); }
  static void start();

  const std::function<void()>& kernel;
  int n;
  std::vector<unsigned char> shared;
  std::size_t shared_bytes = 0, named_bytes = 0;
  std::vector<std::unique_ptr<Warp>> warps;
  std::map<int, std::vector<std::max_align_t>> objects;
  std::vector<Fiber> fibers;
  std::vector<int> runnable;
  std::string failure;
  int done = 0;
  unsigned seed = 0, random = 0;
  Point scheduler;
};

inline Block* block = nullptr; // that runs
inline unsigned char* shared_memory() { return block->memory; }
inline std::vector<std::unique_ptr<char[]>> free_stacks;

inline void Block::start() {
  block->kernel();
  ++block->done;
  go_to(block->scheduler);
}

// The next of a stream of numbers (Marsaglia 2003, Xorshift RNGs).
inline unsigned next_random(unsigned& state) {
  state ^= state << 13;
  state ^= state >> 17;
  return state ^= state << 5;
}

inline void Block::begin(unsigned with) {
  seed = with;
  random = seed * 2654435761u + number.x + 977u * number.y + 1;
  fibers.resize(std::size_t(n));
  for (int i = 0; i < n; ++i) {
    Fiber& fiber = fibers[std::size_t(i)];
    if (free_stacks.empty()) free_stacks.emplace_back(new char[stack_bytes]);
    fiber.stack = std::move(free_stacks.back());
    free_stacks.pop_back();
    const unsigned at = unsigned(i), plane = threads.x * threads.y;
    fiber.thread = dim3(at % threads.x, at % plane / threads.x, at / plane);
    fiber.number = i;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = stack_bytes;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, &Block::start, 0);
    runnable.push_back(n - 1 - i);
  }
}

inline void Block::go_on() {
  block = this;
  if (seed != 0) std::swap(runnable[next_random(random) % runnable.size()], runnable.back());
  current = &fibers[std::size_t(runnable.back())];
  runnable.pop_back();
  if (current->started) {
    leave(scheduler, current->point);
  } else {
    current->started = true;
    enter(scheduler, current->context);
  }
}

inline void Block::end() {
  if (failure.empty() && done != n)
    failure = "only " + std::to_string(done) + " of " + std::to_string(n) + " threads ended: the others wait, " +
              std::to_string(barrier.waiting.size()) + " of them for the block at " + name_of(barrier.place);
  for (std::size_t i = 0; i < guard_bytes && failure.empty(); ++i)
    if (memory[shared_bytes + i] != guard) failure = "a kernel wrote beyond the end of its shared memory";
  if (failure.empty() && shared_bytes > 0 && named_bytes > kernels_own_bytes)
    failure = "a kernel names " + std::to_string(named_bytes) + " bytes of shared memory: see kernels_own_bytes";
  for (Fiber& fiber : fibers) free_stacks.push_back(std::move(fiber.stack));
  block = nullptr;
  if (!failure.empty()) throw std::runtime_error(failure);
}

inline void check_grid(const Grid& grid) {
  const unsigned n_threads = grid.threads.x * grid.threads.y * grid.threads.z;
  if (n_threads == 0 || n_threads > 1024) throw std::runtime_error("a block has 1 to 1024 threads");
  if (grid.blocks.x > 0x7fffffffu || grid.blocks.y > 65535)
    throw std::runtime_error("a grid has at most 2**31 - 1 blocks, and 65535 in its second dimension");
  if (grid.shared > 227 * 1024) throw std::runtime_error("a block has at most 227 KB of shared memory");
}

} // namespace on_host

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), const Grid& grid, cudaStream_t, const Arguments&... arguments) {
  const unsigned seed = on_host::schedule_seed;
  on_host::check_grid(grid);
  std::vector<dim3> numbers;
  for (unsigned y = 0; y < grid.blocks.y; ++y)
    for (unsigned x = 0; x < grid.blocks.x; ++x) numbers.emplace_back(x, y);
  unsigned state = seed;
  for (std::size_t i = numbers.size(); seed != 0 && i > 1; --i)
    std::swap(numbers[i - 1], numbers[on_host::next_random(state) % i]);
  const std::function<void()> body = [&] { kernel(Parameters(arguments)...); };
  for (const dim3& number : numbers) on_host::Block(grid, number, body).run(seed);
}

// All blocks take turns, of lengths by chance, until they wait for others: some run far ahead, some come late.
template <class... Parameters, class... Arguments>
void launch_together(void (*kernel)(Parameters...), const Grid& grid, cudaStream_t, const Arguments&... arguments) {
  on_host::check_grid(grid);
  const std::function<void()> body = [&] { kernel(Parameters(arguments)...); };
  std::vector<std::unique_ptr<on_host::Block>> blocks;
  std::vector<on_host::Block*> running;
  for (unsigned x = 0; x < grid.blocks.x; ++x) {
    blocks.push_back(std::make_unique<on_host::Block>(grid, dim3(x), body));
    blocks.back()->begin(on_host::schedule_seed);
    running.push_back(blocks.back().get());
  }
  unsigned state = on_host::schedule_seed + 1;
  while (!running.empty()) {
    const std::size_t at = on_host::next_random(state) % running.size();
    on_host::Block& block = *running[at];
    const unsigned turns = 1u << on_host::next_random(state) % 20;
    const int asides = block.asides;
    for (unsigned turn = 0; turn < turns && !block.is_idle() && block.asides == asides; ++turn) block.go_on();
    if (block.is_idle()) running.erase(running.begin() + std::ptrdiff_t(at));
  }
  for (const auto& block : blocks) block->end();
}

inline void let_others_run() { on_host::block->step_aside(); }

} // namespace fastmlp::cuda

// --- what kernels find --------------------------------------------------------------------------------------------

#define threadIdx (fastmlp::cuda::on_host::block->current->thread)
#define blockIdx (fastmlp::cuda::on_host::block->number)
#define blockDim (fastmlp::cuda::on_host::block->threads)
#define gridDim (fastmlp::cuda::on_host::block->blocks)

#define __syncthreads()                                                                                                \
  fastmlp::cuda::on_host::block->wait(fastmlp::cuda::on_host::block->barrier, {__FILE__, __LINE__})
#define __syncwarp(...)                                                                                                \
  fastmlp::cuda::on_host::block->wait(fastmlp::cuda::on_host::block->warp().barrier, {__FILE__, __LINE__})
inline void __threadfence() {}

// What lane `lane ^ mask` has. All lanes must call it.
template <class S> S __shfl_xor_sync(unsigned, S value, int mask) {
  static_assert(sizeof(S) <= 16);
  using namespace fastmlp::cuda::on_host;
  Warp& warp = block->warp();
  const int lane = block->lane();
  std::memcpy(warp.exchange[lane], &value, sizeof(S));
  __syncwarp();
  S other;
  std::memcpy(&other, warp.exchange[lane ^ mask], sizeof(S));
  __syncwarp();
  return other;
}

inline unsigned atomicAdd(unsigned* at, unsigned add) { // never of floating-point numbers
  const unsigned before = *at;
  *at += add;
  return before;
}

#include "tensor_cores_on_host.hpp"
