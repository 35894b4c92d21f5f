#include "engine.hpp"
#include "exports.hpp"
#include "gpu.hpp"

namespace fastmlp::cuda {

namespace {

template <class T> Engine<T>* make(const Network& network, int device, int precision) {
  return make_engine<T>(network, open_gpu(device), Precision(precision)).release();
}

const Api api = {"cuda", describe_gpu, make<float>, make<double>, &arrays_on_gpu};

} // namespace

} // namespace fastmlp::cuda

FASTMLP_EXPORT_API(fastmlp::cuda::api)
