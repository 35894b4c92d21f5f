// cuBLASLt without its headers: it is opened at run time, through this table. Names and numbers are those of
// cublasLt.h, which has kept them since CUDA 11.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace fastmlp::cuda {

using LtObject = void*; // handles and descriptors

struct LtHeuristic { // what cuBLASLt proposes for a product
  std::uint64_t algorithm[8];
  std::size_t workspace_bytes;
  int status;
  float waves;
  int reserved[4];
};
static_assert(sizeof(LtHeuristic) == 96, "as cublasLtMatmulHeuristicResult_t");

struct Lt {
  enum Type { float32 = 0, float64 = 1, bfloat16 = 14 };
  enum Compute { in_float32 = 68, in_float64 = 70, in_tf32 = 77 };
  enum Attribute {
    transpose_a = 3,
    transpose_b = 4,
    epilogue = 7,
    bias_pointer = 8, // or of the sums that an epilogue leaves
    mask_pointer = 11,
    mask_ld = 12
  };
  enum Preference {
    most_workspace = 1,
    reduction_schemes = 3,
    alignment_a = 5,
    alignment_b = 6,
    alignment_c = 7,
    alignment_d = 8
  };
  enum Epilogue {
    plain = 1,
    with_bias = 4,
    with_relu_and_bias = 6,
    with_relu_bias_and_mask = 134,
    with_relu_slope = 136, // of a mask
    with_sums_of_a = 256   // over the depth
  };
  static constexpr std::uint32_t reduce_in_compute_type = 2; // or not at all: others depend on the order of blocks

  int (*create)(LtObject*);
  int (*destroy)(LtObject);
  std::size_t (*version)();
  int (*product_create)(LtObject*, int compute, int scale);
  int (*product_destroy)(LtObject);
  int (*product_set)(LtObject, int attribute, const void*, std::size_t);
  int (*layout_create)(LtObject*, int type, std::uint64_t rows, std::uint64_t columns, std::int64_t ld);
  int (*layout_destroy)(LtObject);
  int (*preference_create)(LtObject*);
  int (*preference_destroy)(LtObject);
  int (*preference_set)(LtObject, int attribute, const void*, std::size_t);
  int (*heuristic)(LtObject handle, LtObject product, LtObject a, LtObject b, LtObject c, LtObject d,
                   LtObject preference, int wanted, LtHeuristic* found, int* n_found);
  int (*multiply)(LtObject handle, LtObject product, const void* alpha, const void* a, LtObject a_layout, const void* b,
                  LtObject b_layout, const void* beta, const void* c, LtObject c_layout, void* d, LtObject d_layout,
                  const std::uint64_t* algorithm, void* workspace, std::size_t workspace_bytes, void* stream);
};

// The first library of these names that can be opened and has all of it, never closed. Throws if there is none, with
// what was wrong with each.
const Lt& open_lt(const std::vector<std::string>& names);

// The one that was opened last, or null.
const Lt* opened_lt();

} // namespace fastmlp::cuda
