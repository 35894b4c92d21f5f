// How functions are marked that a processor runs, or a graphics processor, or both.
#pragma once

#ifdef __CUDACC__
#define FASTMLP_HOST_DEVICE __host__ __device__
// Before a template that calls what it is given: whether that may be called there is for its user to know.
#define FASTMLP_CALLS_ITS_ARGUMENT _Pragma("nv_exec_check_disable")
#else
#define FASTMLP_HOST_DEVICE
#define FASTMLP_CALLS_ITS_ARGUMENT
#endif

#define FASTMLP_INLINE static inline __attribute__((always_inline)) FASTMLP_HOST_DEVICE
