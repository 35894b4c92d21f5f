// Products of matrices where cuBLASLt knows no way, in plain arithmetic, each sum in one order; and what follows a
// product where cuBLASLt cannot do it itself.
#pragma once

#include "../ops.hpp"
#include "sums.cuh"

namespace fastmlp::cuda {

// Where a product's operands are.
template <class T> struct ProductOperands {
  const void *a, *b; // of T, or of bfloat16
  void* c;
  const T* addend;
  const void *bias, *units; // of the type of c
  void* mask;
  T *column_sums, *room;
  void* workspace;
};

// What becomes of the sums of a product; pointers may be null.
template <class C> struct Finishing {
  C* c; // (m, n)
  int ldc;
  const C *bias, *units;
  int ld_units;
  bool relu;

  template <class T> FASTMLP_HOST_DEVICE void put(int i, int j, T sum) const {
    if (bias) sum += T(bias[j]);
    if (relu && sum < T(0)) sum = T(0); // NaN stays
    if (units && !(T(units[std::ptrdiff_t(i) * ld_units + j]) > T(0))) sum = T(0);
    c[std::ptrdiff_t(i) * ldc + j] = C(sum);
  }
};

// op(a) (m, k) op(b) (k, n) + addend; the addend may be null, or c itself.
template <class T, class A> struct PlainProduct {
  int m, n, k;
  bool transpose_a, transpose_b;
  const A* a;
  int lda;
  const A* b;
  int ldb;
  const T* addend;
  int ld_addend;

  FASTMLP_HOST_DEVICE T a_at(int i, int l) const {
    return T(a[transpose_a ? std::ptrdiff_t(l) * lda + i : std::ptrdiff_t(i) * lda + l]);
  }
  FASTMLP_HOST_DEVICE T b_at(int l, int j) const {
    return T(b[transpose_b ? std::ptrdiff_t(j) * ldb + l : std::ptrdiff_t(l) * ldb + j]);
  }
  FASTMLP_HOST_DEVICE T start(int i, int j) const { return addend ? addend[std::ptrdiff_t(i) * ld_addend + j] : T(0); }
};

constexpr int product_tile = 16;

// Tiles are counted along rows first: their number may exceed what a grid's second dimension holds.
FASTMLP_DEVICE void place_of_tile(int n, int& row, int& column) {
  const unsigned across = unsigned(ceil_div(n, product_tile));
  row = int(blockIdx.x / across) * product_tile + int(threadIdx.y);
  column = int(blockIdx.x % across) * product_tile + int(threadIdx.x);
}
inline Grid tiles_of(int m, int n) {
  return {dim3(unsigned(ceil_div(m, product_tile)) * unsigned(ceil_div(n, product_tile))),
          dim3(product_tile, product_tile), 0};
}

template <class T, class A, class C> FASTMLP_KERNEL plain_product(PlainProduct<T, A> p, Finishing<C> finish) {
  FASTMLP_SHARED(T, a, [product_tile][product_tile + 1]);
  FASTMLP_SHARED(T, b, [product_tile][product_tile + 1]);
  const int x = int(threadIdx.x), y = int(threadIdx.y);
  int i, j;
  place_of_tile(p.n, i, j);
  T sum = 0;
  for (int first = 0; first < p.k; first += product_tile) {
    a[y][x] = i < p.m && first + x < p.k ? p.a_at(i, first + x) : T(0);
    b[y][x] = j < p.n && first + y < p.k ? p.b_at(first + y, j) : T(0);
    __syncthreads();
    for (int l = 0; l < product_tile; ++l) sum += a[y][l] * b[l][x];
    __syncthreads();
  }
  if (i < p.m && j < p.n) finish.put(i, j, p.start(i, j) + sum);
}

template <class T, class C> FASTMLP_KERNEL finish_sums(int m, int n, Finishing<C> finish) {
  int i, j;
  place_of_tile(n, i, j);
  if (i < m && j < n) finish.put(i, j, T(finish.c[std::ptrdiff_t(i) * finish.ldc + j]));
}

template <class T, class A> PlainProduct<T, A> plain_product_of(const Product& op, const ProductOperands<T>& operands) {
  return {op.m,           op.n,
          op.k,           op.transpose_a,
          op.transpose_b, static_cast<const A*>(operands.a),
          op.a.ld,        static_cast<const A*>(operands.b),
          op.b.ld,        operands.addend,
          op.addend.ld};
}
template <class C, class T> Finishing<C> finishing_of(const Product& op, const ProductOperands<T>& operands) {
  return {static_cast<C*>(operands.c),           op.c.ld,     static_cast<const C*>(operands.bias),
          static_cast<const C*>(operands.units), op.units.ld, op.finish == Finish::relu};
}

// What is not yet done of a product. A: what a and b are of; C: what c, bias and units are of.
template <class T, class A, class C>
void launch_product(cudaStream_t stream, const Product& op, const ProductOperands<T>& operands, Done done) {
  if (done == Done::all) return;
  const Finishing<C> finish = finishing_of<C>(op, operands);
  if (done == Done::nothing)
    launch(plain_product<T, A, C>, tiles_of(op.m, op.n), stream, plain_product_of<T, A>(op, operands), finish);
  else if (finish.bias || finish.units || finish.relu)
    launch(finish_sums<T, C>, tiles_of(op.m, op.n), stream, op.m, op.n, finish);
  if (!operands.column_sums) return;
  HiddenRows<T> rows{};
  rows.n_rows = op.k;
  rows.n = op.n;
  launch_sum_columns<T, A>(stream, rows, static_cast<const A*>(operands.b), op.b.ld, operands.column_sums, nullptr,
                           operands.room);
}

// The same, for the types that the operation says.
template <class T>
void launch_rest_of_product(cudaStream_t stream, const Product& op, const ProductOperands<T>& operands, Done done) {
  if constexpr (sizeof(T) == 4) {
    if (op.narrow) return launch_product<T, bfloat16, bfloat16>(stream, op, operands, done);
    if (op.precision == Precision::bf16) return launch_product<T, bfloat16, T>(stream, op, operands, done);
  }
  launch_product<T, T, T>(stream, op, operands, done);
}

// Somebody who multiplies: all that an operation says, in the order of the stream.
template <class T> class Products {
public:
  virtual ~Products() = default;
  virtual void run(const Product& op, const ProductOperands<T>& operands, cudaStream_t stream) = 0;
};

} // namespace fastmlp::cuda
