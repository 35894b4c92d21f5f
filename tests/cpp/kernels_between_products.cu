// Every kernel that stands between products, for the types that engines use: compiled by tests/test_cuda_kernels.py.
#include "../../src/cpp/cuda/kernels/gather.cuh"
#include "../../src/cpp/cuda/kernels/hidden_layers.cuh"
#include "../../src/cpp/cuda/kernels/loss_rows.cuh"
#include "../../src/cpp/cuda/kernels/products.cuh"
#include "../../src/cpp/cuda/kernels/sums.cuh"
#include "../../src/cpp/cuda/kernels/update.cuh"

namespace fastmlp::cuda {

template <class T, class A> void with_operands(cudaStream_t stream) {
  launch_gather<T>(stream, static_cast<const T*>(nullptr), 0, {}, 0, {}, static_cast<A*>(nullptr), 0);
  launch_activate<T, A>(stream, {}, nullptr, nullptr, true, nullptr, 0);
  launch_differentiate<T, A>(stream, {}, nullptr, 0, nullptr, 0, nullptr, 0, nullptr, 0, nullptr);
  launch_through_rows<T, A>(stream, {}, nullptr, nullptr, nullptr, 0);
  launch_through_units<T, A>(stream, {}, {}, {}, nullptr, nullptr, nullptr, nullptr, nullptr, 0);
  launch_loss_rows<T, A>(stream, {}, {}, {}, nullptr, nullptr, 0, nullptr, nullptr);
  launch_sum_columns<T, A>(stream, {}, nullptr, 0, nullptr, nullptr, nullptr);
}

template <class T> void all(cudaStream_t stream) {
  launch_add_bias<T>(stream, {}, nullptr, nullptr);
  launch_unit_moments<T>(stream, {}, {}, {}, nullptr, nullptr, nullptr);
  launch_use_running_statistics<T>(stream, nullptr, nullptr, 0, nullptr, nullptr);
  launch_link_rows<T>(stream, {}, nullptr, nullptr);
  launch_finish_gradient<T>(stream, {}, 0, nullptr, nullptr);
  launch_rest_of_product<T>(stream, {}, {}, Done::nothing);
  launch_update<T>(stream, {}, {}, nullptr);
  with_operands<T, T>(stream);
}

template void all<float>(cudaStream_t);
template void all<double>(cudaStream_t);
template void with_operands<float, bfloat16>(cudaStream_t);

} // namespace fastmlp::cuda
