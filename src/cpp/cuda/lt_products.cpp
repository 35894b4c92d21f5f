#include "lt_products.hpp"

#include <stdexcept>

namespace fastmlp::cuda {

namespace {

void check(int status, const char* what) {
  if (status != 0)
    throw std::runtime_error(std::string("cuBLASLt: ") + what + " failed with status " + std::to_string(status));
}

// A descriptor that is destroyed with it.
class Object {
public:
  template <class Create> Object(int (*destroy)(LtObject), const char* what, Create&& create) : destroy(destroy) {
    check(create(&object), what);
  }
  ~Object() { destroy(object); }
  Object(const Object&) = delete;
  operator LtObject() const { return object; }

private:
  LtObject object = nullptr;
  int (*destroy)(LtObject);
};

int operand_type(const Product& op, bool is_double) {
  if (is_double) return Lt::float64;
  return op.precision == Precision::bf16 ? Lt::bfloat16 : Lt::float32;
}
int compute_type(const Product& op, bool is_double) {
  if (is_double) return Lt::in_float64;
  return op.precision == Precision::tf32 ? Lt::in_tf32 : Lt::in_float32;
}

} // namespace

// cuBLASLt has matrices column by column: what is c row by row is the transpose of c to it, and
// c^T = op(b)^T op(a)^T, so that b comes first, and the bias of a column of c belongs to a row of c^T.
struct LtProducts::Prepared {
  Prepared(const Lt& lt, LtObject handle, const Product& op, bool is_double, const void* bias,
           std::size_t workspace_bytes)
      : product(lt.product_destroy, "creating a product",
                [&](LtObject* p) {
                  return lt.product_create(p, compute_type(op, is_double), is_double ? Lt::float64 : Lt::float32);
                }),
        first(layout(lt, operand_type(op, is_double), op.transpose_b ? op.k : op.n, op.transpose_b ? op.n : op.k,
                     op.b.ld)),
        second(layout(lt, operand_type(op, is_double), op.transpose_a ? op.m : op.k, op.transpose_a ? op.k : op.m,
                      op.a.ld)),
        result(layout(lt, is_double ? Lt::float64 : Lt::float32, op.n, op.m, op.c.ld)) {
    set(lt, Lt::transpose_a, std::int32_t(op.transpose_b));
    set(lt, Lt::transpose_b, std::int32_t(op.transpose_a));
    set(lt, Lt::epilogue, std::int32_t(op.relu ? Lt::with_relu_and_bias : op.bias ? Lt::with_bias : Lt::plain));
    if (bias) give(lt, bias); // the choice may depend on where it is
    choose(lt, handle, workspace_bytes);
  }

  void give(const Lt& lt, const void* bias) {
    check(lt.product_set(product, Lt::bias_pointer, &bias, sizeof bias), "giving a bias");
  }

  void set(const Lt& lt, int attribute, std::int32_t value) {
    check(lt.product_set(product, attribute, &value, sizeof value), "setting an attribute of a product");
  }

  Object product;
  std::unique_ptr<Object> first, second, result;
  bool found = false;
  LtHeuristic heuristic{};

private:
  static std::unique_ptr<Object> layout(const Lt& lt, int type, int rows, int columns, int ld) {
    return std::make_unique<Object>(lt.layout_destroy, "creating a layout", [&](LtObject* p) {
      return lt.layout_create(p, type, std::uint64_t(rows), std::uint64_t(columns), ld);
    });
  }

  void choose(const Lt& lt, LtObject handle, std::size_t workspace_bytes) {
    const Object preference(lt.preference_destroy, "creating a preference",
                            [&](LtObject* p) { return lt.preference_create(p); });
    const std::uint64_t bytes = workspace_bytes;
    const std::uint32_t schemes = Lt::reduce_in_compute_type, alignment = 16;
    const auto prefer = [&](int attribute, const void* value, std::size_t size) {
      check(lt.preference_set(preference, attribute, value, size), "setting a preference");
    };
    prefer(Lt::most_workspace, &bytes, sizeof bytes);
    prefer(Lt::reduction_schemes, &schemes, sizeof schemes);
    for (int attribute : {Lt::alignment_a, Lt::alignment_b, Lt::alignment_c, Lt::alignment_d})
      prefer(attribute, &alignment, sizeof alignment);
    int n_found = 0;
    const int status =
        lt.heuristic(handle, product, *first, *second, *result, *result, preference, 1, &heuristic, &n_found);
    constexpr int invalid_value = 7, not_supported = 15; // there is none
    if (status != invalid_value && status != not_supported) check(status, "the search for an algorithm");
    found = status == 0 && n_found > 0 && heuristic.status == 0 && heuristic.workspace_bytes <= workspace_bytes;
  }
};

LtProducts::LtProducts(const Lt& lt) : lt(lt) { check(lt.create(&handle), "its start"); }

LtProducts::~LtProducts() {
  all.clear();
  lt.destroy(handle);
}

LtProducts::Prepared& LtProducts::prepared(const Product& op, bool is_double, const void* bias,
                                           std::size_t workspace_bytes) {
  const Key key{op.m,           op.n,           op.k,    op.a.ld,       op.b.ld,   op.c.ld,
                op.transpose_a, op.transpose_b, op.relu, bool(op.bias), is_double, int(op.precision)};
  std::unique_ptr<Prepared>& found = all[key];
  if (!found) found = std::make_unique<Prepared>(lt, handle, op, is_double, bias, workspace_bytes);
  return *found;
}

bool LtProducts::multiply(const Product& op, bool is_double, const void* a, const void* b, void* c, const void* bias,
                          void* workspace, std::size_t workspace_bytes, void* stream) {
  Prepared& how = prepared(op, is_double, bias, workspace_bytes);
  if (!how.found) return false;
  if (bias) how.give(lt, bias);
  const double wide[] = {1, op.addend ? 1.0 : 0.0};
  const float narrow[] = {1, op.addend ? 1.0f : 0.0f};
  const void* alpha = is_double ? static_cast<const void*>(&wide[0]) : &narrow[0];
  const void* beta = is_double ? static_cast<const void*>(&wide[1]) : &narrow[1];
  check(lt.multiply(handle, how.product, alpha, b, *how.first, a, *how.second, beta, c, *how.result, c, *how.result,
                    how.heuristic.algorithm, workspace, workspace_bytes, stream),
        "a product");
  return true;
}

} // namespace fastmlp::cuda
