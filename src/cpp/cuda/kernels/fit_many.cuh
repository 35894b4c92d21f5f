// Many whole trainings in one kernel: a block trains one model, epoch after epoch, with the fused step's products; the
// optimizer works on weights and slots in shared memory if they fit there.
#pragma once

#include "../fit_many.hpp"
#include "fused.cuh"
#include "update.cuh"

namespace fastmlp::cuda {

// What all threads of a block know of their model; in shared memory, as registers are for gradients.
struct FitShared {
  Parameters<float> parameters; // where they lie, or in the block's shared memory
  FusedData batch;
  double room[most_warps];
};

FASTMLP_DEVICE void describe_model(const FusedPlan& plan, const FitData& data, FitModel& model, unsigned char* memory,
                                   FitShared& to) {
  const std::int64_t n = plan.n_parameters;
  float* const shared = data.state_at < 0 ? nullptr : reinterpret_cast<float*>(memory + data.state_at);
  Parameters<float>& p = to.parameters;
  p.n = p.matrices_again = n;
  p.matrices_end = data.matrices_end;
  p.n_parts = 1;
  p.operands = nullptr;
  p.gradient = shared ? shared : data.gradients + std::int64_t(blockIdx.x) * n;
  p.w = shared ? shared + n : model.w;
  for (int s = 0; s <= max_slots; ++s)
    p.slots[s] = s >= data.n_slots ? nullptr : shared ? shared + (2 + s) * n : model.slots[s];
  to.batch.X = data.X;
  to.batch.stride = data.stride;
  to.batch.targets = model.targets;
  to.batch.loss = data.loss;
  to.batch.state = &model.state;
}

FASTMLP_DEVICE void copy_numbers(const float* from, float* to, std::int64_t n) {
  for (std::int64_t i = threadIdx.x; from != to && i < n; i += fused_threads) to[i] = from[i];
}

// Loss, weight and gradient of a batch; loss and weight are the same in all threads, and all have left the gradient.
template <Precision precision>
FASTMLP_DEVICE void batch_gradient(const FusedBlock<precision>& block, FitShared& shared, double& loss,
                                   double& weight) {
  FusedGradients<few_slots> gradients;
  loss = weight = 0;
  for (int first = 0; first < shared.batch.rows.n; first += block.plan.rows)
    pass_tile(block, shared.batch, first, gradients, loss, weight);
  gradients.write(block.plan, shared.parameters.gradient);
  loss = block_sum(loss, shared.room);
  weight = block_sum(weight, shared.room); // behind its barriers the gradient is complete
}

// A step of the optimizer; returns the sum of the squared weights before it, the same in all threads.
FASTMLP_DEVICE double fit_step(const Parameters<float>& p, const FitModel& model, int optimizer, double weight,
                               double* room) {
  const StepCoefficients<float>& c = model.table[model.state.t - model.state.table_after];
  double squares = 0, shortened = 1;
  const float scale = float(1 / weight);
  const bool clips = model.clip_norm < model.clip_norm + 1; // not infinite
  const auto finish = [&](std::int64_t i) { return finished(p, i, p.gradient[i], model.alpha, scale); };
  if (clips) {
    double length = 0;
    for (std::int64_t i = threadIdx.x; i < p.n; i += fused_threads) length += double(finish(i)) * double(finish(i));
    length = square_root(block_sum(length, room));
    if (length > model.clip_norm) shortened = model.clip_norm / length;
  }
  Optimizers::visit(optimizer, [&](auto entry) {
    for (std::int64_t i = threadIdx.x; i < p.n; i += fused_threads) {
      if (p.decays(i)) squares += double(p.w[i]) * double(p.w[i]);
      step<decltype(entry)>(p, i, clips ? finish(i) * float(shortened) : finish(i), model.clip_value, c);
    }
  });
  return block_sum(squares, room);
}

// scikit-learn's rule: too many epochs whose loss is not better than the best by tol end the training.
FASTMLP_DEVICE void judge_epoch(FitModel& model, double loss) {
  model.no_improvement_count = loss > model.best_loss - model.tol ? model.no_improvement_count + 1 : 0;
  if (loss < model.best_loss) model.best_loss = loss;
  ++model.n_iter;
  if (double(model.no_improvement_count) > model.n_iter_no_change) model.stopped = true;
}

template <Precision precision>
FASTMLP_KERNEL __launch_bounds__(fused_threads, 1)
    fit_many(const FASTMLP_GRID_CONSTANT FusedPlan plan, const FASTMLP_GRID_CONSTANT FitData data) {
  FASTMLP_DYNAMIC_SHARED(unsigned char, memory);
  FASTMLP_SHARED(FitShared, shared, );
  FitModel& model = data.models[blockIdx.x];
  const FusedBlock<precision> block{plan, memory};
  const Parameters<float>& p = shared.parameters;
  if (threadIdx.x == 0) describe_model(plan, data, model, memory, shared);
  __syncthreads();
  copy_numbers(model.w, p.w, p.n);
  for (int s = 0; s < data.n_slots; ++s) copy_numbers(model.slots[s], p.slots[s], p.n);
  __syncthreads();
  block.load_weights(p.w);
  for (int epoch = 0; epoch < model.n_epochs && model.goes_on(); ++epoch) {
    double sum = 0; // of losses and penalties, times rows
    for (int first = 0; first < model.n_rows && model.goes_on(); first += model.batch_size) {
      const int left = model.n_rows - first, n = left < model.batch_size ? left : model.batch_size;
      if (threadIdx.x == 0) shared.batch.rows = {model.order + std::int64_t(epoch) * model.n_rows + first, nullptr, n};
      __syncthreads();
      double loss, weight, squares = 0;
      batch_gradient(block, shared, loss, weight);
      const bool moves = weight != 0 && loss == loss;
      if (moves) squares = fit_step(p, model, data.optimizer, weight, shared.room);
      if (moves) block.load_weights(p.w); // fit_step's last sum has waited for all weights
      const double scale = weight != 0 ? 1 / weight : 0;
      const double mean = weight != 0 ? loss * scale : 0, penalty = 0.5 * double(model.alpha) * squares * scale;
      sum += (mean / data.loss_share + penalty) * n;
      if (threadIdx.x == 0) {
        if (moves) ++model.state.t;
        if (!(mean + penalty == mean + penalty)) model.state.failed = first / model.batch_size + 1;
      }
      __syncthreads();
    }
    if (threadIdx.x == 0) {
      model.losses[epoch] = sum / model.n_rows; // NaN if a batch failed
      judge_epoch(model, sum / model.n_rows);
    }
    __syncthreads();
  }
  copy_numbers(p.w, model.w, p.n);
  for (int s = 0; s < data.n_slots; ++s) copy_numbers(p.slots[s], model.slots[s], p.n);
}

template <Precision precision>
void launch_fit_many_instance(cudaStream_t stream, const FusedPlan& plan, const FitData& data, int n_models) {
  launch(fit_many<precision>, Grid{dim3(unsigned(n_models)), dim3(fused_threads), std::size_t(plan.shared_bytes)},
         stream, plan, data);
}

} // namespace fastmlp::cuda
