// How products of matrices of float32 are computed.
#pragma once

namespace fastmlp::cuda {

// With float's multiply-adds, or by tensor cores from operands that are rounded to 10 or 7 bits of fraction, with float
// sums.
enum class Precision { ieee, tf32, bf16 };

} // namespace fastmlp::cuda
