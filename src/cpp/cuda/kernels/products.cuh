// Products of matrices in plain arithmetic, each sum in one order: for shapes for which cuBLASLt knows no way.
#pragma once

#include "../bfloat16.hpp"
#include "launch.cuh"

namespace fastmlp::cuda {

// c (m, n) = op(a) (m, k) op(b) (k, n) + addend + bias, then max(0, .) if `relu`; addend and bias may be null.
template <class T, class A> struct PlainProduct {
  int m, n, k;
  bool transpose_a, transpose_b, relu;
  const A* a;
  int lda;
  const A* b;
  int ldb;
  const T *addend, *bias;
  T* c;
  int ldc;

  FASTMLP_HOST_DEVICE T a_at(int i, int l) const {
    return T(a[transpose_a ? std::ptrdiff_t(l) * lda + i : std::ptrdiff_t(i) * lda + l]);
  }
  FASTMLP_HOST_DEVICE T b_at(int l, int j) const {
    return T(b[transpose_b ? std::ptrdiff_t(j) * ldb + l : std::ptrdiff_t(l) * ldb + j]);
  }
  FASTMLP_HOST_DEVICE void put(int i, int j, T sum) const {
    const std::ptrdiff_t at = std::ptrdiff_t(i) * ldc + j;
    if (addend) sum += addend[at];
    if (bias) sum += bias[j];
    c[at] = relu && sum < T(0) ? T(0) : sum;
  }
};

constexpr int product_tile = 16;

template <class T, class A> FASTMLP_KERNEL plain_product(PlainProduct<T, A> p) {
  __shared__ T a[product_tile][product_tile + 1], b[product_tile][product_tile + 1];
  const int x = int(threadIdx.x), y = int(threadIdx.y);
  const int i = int(blockIdx.y) * product_tile + y, j = int(blockIdx.x) * product_tile + x;
  T sum = 0;
  for (int first = 0; first < p.k; first += product_tile) {
    a[y][x] = i < p.m && first + x < p.k ? p.a_at(i, first + x) : T(0);
    b[y][x] = j < p.n && first + y < p.k ? p.b_at(first + y, j) : T(0);
    __syncthreads();
    for (int l = 0; l < product_tile; ++l) sum += a[y][l] * b[l][x];
    __syncthreads();
  }
  if (i < p.m && j < p.n) p.put(i, j, sum);
}

// Rows are the second dimension of a grid, which may be 65535 long.
template <class T, class A> void launch_plain_product(cudaStream_t stream, const PlainProduct<T, A>& product) {
  constexpr int most_rows = 65535 * product_tile;
  for (int first = 0; first < product.m; first += most_rows) {
    PlainProduct<T, A> part = product;
    part.m = product.m - first < most_rows ? product.m - first : most_rows;
    part.a += product.transpose_a ? std::ptrdiff_t(first) : std::ptrdiff_t(first) * product.lda;
    part.c += std::ptrdiff_t(first) * product.ldc;
    if (part.addend) part.addend += std::ptrdiff_t(first) * product.ldc;
    launch(plain_product<T, A>,
           Grid{dim3(unsigned(ceil_div(part.n, product_tile)), unsigned(ceil_div(part.m, product_tile))),
                dim3(product_tile, product_tile), 0},
           stream, part);
  }
}

} // namespace fastmlp::cuda
