// Products by cuBLASLt: descriptors and an algorithm for each shape, chosen once.
#pragma once

#include "lt.hpp"
#include "ops.hpp"

#include <map>
#include <memory>
#include <tuple>

namespace fastmlp::cuda {

class LtProducts {
public:
  explicit LtProducts(const Lt& lt);
  ~LtProducts();
  LtProducts(const LtProducts&) = delete;
  LtProducts& operator=(const LtProducts&) = delete;

  // False if cuBLASLt knows no algorithm for it whose sums have one order. The addend can only be c itself.
  bool multiply(const Product& op, bool is_double, const void* a, const void* b, void* c, const void* bias,
                void* workspace, std::size_t workspace_bytes, void* stream);

private:
  // Shape, leading dimensions, what is done besides, precision: all that the algorithm may depend on.
  using Key = std::tuple<int, int, int, int, int, int, bool, bool, bool, bool, bool, int>;
  struct Prepared;

  Prepared& prepared(const Product& op, bool is_double, const void* bias, std::size_t workspace_bytes);

  const Lt& lt;
  LtObject handle = nullptr;
  std::map<Key, std::unique_ptr<Prepared>> all;
};

} // namespace fastmlp::cuda
