// What libfastmlp_cuda.so exports, from the functions of an Api.
#pragma once

#include "api.hpp"

#define FASTMLP_EXPORT extern "C" __attribute__((visibility("default")))
#define FASTMLP_EXPORT_API(api)                                                                                        \
  FASTMLP_EXPORT const char* fastmlp_cuda_build() { return FASTMLP_BUILD; }                                            \
  FASTMLP_EXPORT const fastmlp::cuda::Api* fastmlp_cuda_api() { return &(api); }
