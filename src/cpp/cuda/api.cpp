#include "engine.hpp"
#include "exports.hpp"
#include "gpu.hpp"
#include "many_engine.hpp"

namespace fastmlp::cuda {

namespace {

template <class T> Engine<T>* make(const Network& network, int device, int precision) {
  return make_engine<T>(network, open_gpu(device), Precision(precision)).release();
}

ManyEngine* make_many(const Network& network, int device, int precision, const std::vector<Dataset<float>>& data,
                      const std::vector<ManyModel>& models) {
  return make_many_engine(network, open_gpu(device), Precision(precision), data, models).release();
}

const Api api = {"cuda", describe_gpu, make<float>, make<double>, make_many, &arrays_on_gpu};

} // namespace

} // namespace fastmlp::cuda

FASTMLP_EXPORT_API(fastmlp::cuda::api)
