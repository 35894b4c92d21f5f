// The BLAS that SciPy already carries, by the function pointers of scipy.linalg.cython_blas, and the engine that uses
// it.
//
// The panel engine beats it on every network measured so far; this plain one (row-major, one matrix product at a time)
// serves FASTMLP_BLAS=on: as an independent check, and to measure again on other machines. Its sums follow the BLAS:
// the promise of equal bits for any number of threads is the BLAS's to keep.
#pragma once

#include "../engine.hpp"

#include <string>

namespace fastmlp {

// Column-major C = alpha op(A) op(B) + beta C with 32-bit integers, as in Fortran.
template <class T>
using Gemm = void (*)(const char* op_a, const char* op_b, const int* m, const int* n, const int* k, const T* alpha,
                      const T* A, const int* lda, const T* B, const int* ldb, const T* beta, T* C, const int* ldc);

void set_blas(const std::string& mode, void* sgemm, void* dgemm); // mode: off, auto, on
std::string blas_mode();
bool use_blas();

template <class T> std::unique_ptr<Engine<T>> make_blas_engine(const Network& network);

// Step number `t` of the rule for n numbers, the first `n_weights` of which decay, and what the optimizer keeps for
// each.
template <class T>
void update_array(const Rule& rule, long long t, T* w, const T* gradient, const std::vector<T*>& slots,
                  std::ptrdiff_t n_weights, std::ptrdiff_t n);

} // namespace fastmlp
