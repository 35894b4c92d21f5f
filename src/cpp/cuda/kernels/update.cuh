// The end of a step: from the sums of gradients to weights, and on to the next batch.
#pragma once

#include "../parameters.hpp"
#include "block_sums.cuh"

namespace fastmlp::cuda {

// visit(i) for the numbers that are this thread's
template <class F> FASTMLP_DEVICE void for_each_of_thread(std::ptrdiff_t n, F&& visit) {
  const std::ptrdiff_t start = std::ptrdiff_t(blockIdx.x) * (update_threads * numbers_per_thread) + threadIdx.x;
  for (int k = 0; k < numbers_per_thread; ++k) {
    const std::ptrdiff_t i = start + k * update_threads;
    if (i < n) visit(i);
  }
}

// In the last block: the sum of what each block found, in the order of the blocks.
FASTMLP_DEVICE double sum_partials(const double* partials, unsigned n, double* room) {
  double sum = 0;
  for (unsigned block = threadIdx.x; block < n; block += update_threads) sum += partials[block];
  return block_sum(sum, room);
}

template <class T> FASTMLP_DEVICE T sum_of_parts(const Parameters<T>& p, std::ptrdiff_t i) {
  T sum = p.gradient[i];
  for (int part = 1; part < p.n_parts; ++part) sum += p.gradient[part * p.part + i];
  return sum;
}

template <class T> FASTMLP_DEVICE T finished(const Parameters<T>& p, std::ptrdiff_t i, T gradient, T alpha, T scale) {
  return (gradient + (p.decays(i) ? alpha : T(0)) * p.w[i]) * scale;
}

FASTMLP_DEVICE double scale_of(const StepState& state) { return state.weight != 0 ? 1 / state.weight : 0; }

// Where gradients are clipped by their length: gradient = (gradient + alpha w) / weight, and the sum of its squares.
template <class T> FASTMLP_KERNEL finish_gradient(Parameters<T> p, T alpha, double* partials, StepState* state) {
  FASTMLP_SHARED(double, room, [most_warps]);
  const T scale = T(scale_of(*state));
  double squares = 0;
  for_each_of_thread(p.n, [&](std::ptrdiff_t i) {
    const T g = p.gradient[i] = finished(p, i, sum_of_parts(p, i), alpha, scale);
    squares += double(g) * double(g);
  });
  squares = block_sum(squares, room);
  if (threadIdx.x == 0) partials[blockIdx.x] = squares;
  if (!is_last_block(&state->arrived_norm, gridDim.x)) return;
  squares = sum_partials(partials, gridDim.x, room);
  if (threadIdx.x == 0) state->gradient_squares = squares;
}

// One step of the optimizer on one weight. `finish` says that the gradient still lacks alpha and scale.
template <class Entry, class T>
FASTMLP_DEVICE void step(const Parameters<T>& p, std::ptrdiff_t i, T gradient, T clip_value,
                         const StepCoefficients<T>& c) {
  gradient = gradient > clip_value ? clip_value : gradient < -clip_value ? -clip_value : gradient; // NaN stays NaN
  constexpr int n_slots = slot_count<Entry>;
  T weight = p.w[i], slot[max_slots];
  FASTMLP_UNROLL
  for (int s = 0; s < n_slots; ++s) slot[s] = p.slots[s][i];
  Entry::update(weight, gradient, slot, p.decays(i) ? c.weights : c.others);
  FASTMLP_UNROLL
  for (int s = 0; s < n_slots; ++s) p.slots[s][i] = slot[s];
  p.w[i] = weight;
  if (p.operands) p.operands[i] = bfloat16(float(weight));
  if (T* average = p.slots[n_slots]) average[i] = c.ema_decay * average[i] + (T(1) - c.ema_decay) * weight;
}

// The state after a step; returns what is reported of its batch.
FASTMLP_DEVICE BatchReport end_step(StepState* state, double alpha, double squares, std::int64_t advance) {
  const double scale = scale_of(*state), loss = state->loss * scale, penalty = 0.5 * alpha * squares * scale;
  if (state->moves()) ++state->t;
  ++state->batch;
  state->first += advance;
  if (state->weight == 0) return {0, 0};
  if (!(loss + penalty == loss + penalty)) state->failed = state->batch;
  return {loss, penalty};
}

template <class T> FASTMLP_KERNEL update(Parameters<T> p, UpdateHow<T> how, StepState* state) {
  FASTMLP_SHARED(double, room, [most_warps]);
  if (state->failed != 0) return;                       // all blocks alike: it changes when all have arrived
  const bool clips = how.clip_norm < how.clip_norm + 1; // not infinite
  double squares = 0;
  if (state->moves()) {
    const StepCoefficients<T>& c = how.table[state->t - state->table_after];
    double shortened = 1;
    if (clips) {
      const double norm = square_root(state->gradient_squares);
      if (norm > how.clip_norm) shortened = how.clip_norm / norm;
    }
    const T alpha = clips ? T(0) : how.alpha, scale = T(clips ? shortened : scale_of(*state));
    Optimizers::visit(how.optimizer, [&](auto entry) {
      for_each_of_thread(p.n, [&](std::ptrdiff_t i) {
        if (p.decays(i)) squares += double(p.w[i]) * double(p.w[i]);
        const T gradient = clips ? p.gradient[i] : sum_of_parts(p, i); // finish_gradient has added them up
        step<decltype(entry)>(p, i, finished(p, i, gradient, alpha, scale), how.clip_value, c);
      });
    });
  }
  squares = block_sum(squares, room);
  if (threadIdx.x == 0) how.partials[blockIdx.x] = squares;
  if (!is_last_block(&state->arrived_update, gridDim.x)) return;
  squares = sum_partials(how.partials, gridDim.x, room);
  if (threadIdx.x != 0) return;
  const std::int64_t batch = state->batch;
  how.reports[batch] = end_step(state, double(how.alpha), squares, how.advance);
}

template <class T>
void launch_finish_gradient(cudaStream_t stream, const Parameters<T>& p, T alpha, double* partials, StepState* state) {
  launch(finish_gradient<T>, Grid{dim3(unsigned(update_blocks(p.n))), dim3(update_threads), 0}, stream, p, alpha,
         partials, state);
}
// After launch_finish_gradient if how.clip_norm is finite.
template <class T>
void launch_update(cudaStream_t stream, const Parameters<T>& p, const UpdateHow<T>& how, StepState* state) {
  launch(update<T>, Grid{dim3(unsigned(update_blocks(p.n))), dim3(update_threads), 0}, stream, p, how, state);
}

} // namespace fastmlp::cuda
