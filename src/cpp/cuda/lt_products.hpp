// Products by cuBLASLt: descriptors and an algorithm for each shape, chosen once. What follows a product, cuBLASLt does
// itself where it can: for which types and shapes it can, only it knows.
//
// Masks are in a format that it alone reads and writes. So slopes are taken from a mask only if it has written it, and
// else are left to the caller, who has the units.
#pragma once

#include "lt.hpp"
#include "ops.hpp"

#include <map>
#include <memory>
#include <set>
#include <tuple>

namespace fastmlp::cuda {

// Where a product's operands are.
struct LtOperands {
  const void *a, *b;
  void* c; // the addend, too, if there is one
  const void* bias;
  void *mask, *column_sums, *workspace;
  std::size_t workspace_bytes;
};

class LtProducts {
public:
  explicit LtProducts(const Lt& lt);
  ~LtProducts();
  LtProducts(const LtProducts&) = delete;
  LtProducts& operator=(const LtProducts&) = delete;

  // Does as much of a product as it knows an algorithm for whose sums have one order.
  Done multiply(const Product& op, bool is_double, const LtOperands& given, void* stream);
  // Whether it knows how to add up the columns of a factor beside products of float32 in that precision.
  bool adds_up(Precision precision);

private:
  // Shape, leading dimensions, epilogue, types, precision: all that the algorithm may depend on.
  using Key = std::tuple<int, int, int, int, int, int, bool, bool, bool, bool, bool, int, int>;
  struct Prepared;

  std::vector<int> ways(const Product& op, const LtOperands& given) const;
  Prepared& prepared(const Product& op, bool is_double, const LtOperands& given, int epilogue);

  const Lt& lt;
  LtObject handle = nullptr;
  std::map<Key, std::unique_ptr<Prepared>> all;
  std::set<const void*> masks; // that it has written
};

} // namespace fastmlp::cuda
