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
int result_type(const Product& op, bool is_double) {
  if (is_double) return Lt::float64;
  return op.narrow ? Lt::bfloat16 : Lt::float32;
}
int compute_type(const Product& op, bool is_double) {
  if (is_double) return Lt::in_float64;
  return op.precision == Precision::tf32 ? Lt::in_tf32 : Lt::in_float32;
}

} // namespace

// cuBLASLt has matrices column by column: what is c row by row is the transpose of c to it, and
// c^T = op(b)^T op(a)^T, so that b comes first, and the bias of a column of c belongs to a row of c^T.
struct LtProducts::Prepared {
  Prepared(const Lt& lt, LtObject handle, const Product& op, bool is_double, const LtOperands& given, int epilogue)
      : product(lt.product_destroy, "creating a product",
                [&](LtObject* p) {
                  return lt.product_create(p, compute_type(op, is_double), is_double ? Lt::float64 : Lt::float32);
                }),
        first(layout(lt, operand_type(op, is_double), op.transpose_b ? op.k : op.n, op.transpose_b ? op.n : op.k,
                     op.b.ld)),
        second(layout(lt, operand_type(op, is_double), op.transpose_a ? op.m : op.k, op.transpose_a ? op.k : op.m,
                      op.a.ld)),
        result(layout(lt, result_type(op, is_double), op.n, op.m, op.c.ld)), epilogue(epilogue) {
    set(lt, Lt::transpose_a, std::int32_t(op.transpose_b));
    set(lt, Lt::transpose_b, std::int32_t(op.transpose_a));
    set(lt, Lt::epilogue, std::int32_t(epilogue));
    if (uses_mask()) set(lt, Lt::mask_ld, std::int64_t(op.mask.ld));
    give(lt, given); // the choice may depend on where they are
    choose(lt, handle, given.workspace_bytes);
  }

  // What the epilogue reads or writes besides.
  void give(const Lt& lt, const LtOperands& given) {
    if (epilogue == Lt::with_sums_of_a)
      set(lt, Lt::bias_pointer, static_cast<const void*>(given.column_sums));
    else if (epilogue != Lt::plain && epilogue != Lt::with_relu_slope)
      set(lt, Lt::bias_pointer, given.bias);
    if (uses_mask()) set(lt, Lt::mask_pointer, static_cast<const void*>(given.mask));
  }

  Object product;
  std::unique_ptr<Object> first, second, result;
  const int epilogue;
  bool found = false;
  LtHeuristic heuristic{};

private:
  bool uses_mask() const { return epilogue == Lt::with_relu_bias_and_mask || epilogue == Lt::with_relu_slope; }

  template <class S> void set(const Lt& lt, int attribute, S value) {
    check(lt.product_set(product, attribute, &value, sizeof value), "setting an attribute of a product");
  }

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

// Epilogues that do some or all of what is asked, the best first.
std::vector<int> LtProducts::ways(const Product& op, const LtOperands& given) const {
  std::vector<int> found;
  if (op.finish == Finish::relu && given.mask) found.push_back(Lt::with_relu_bias_and_mask);
  if (op.finish == Finish::relu) found.push_back(Lt::with_relu_and_bias);
  if (op.finish == Finish::relu_slope && masks.count(given.mask)) found.push_back(Lt::with_relu_slope);
  if (op.finish == Finish::none && given.column_sums) found.push_back(Lt::with_sums_of_a);
  if (op.finish == Finish::none && given.bias) found.push_back(Lt::with_bias);
  found.push_back(Lt::plain);
  return found;
}

LtProducts::Prepared& LtProducts::prepared(const Product& op, bool is_double, const LtOperands& given, int epilogue) {
  const Key key{op.m,           op.n,      op.k,      op.a.ld,         op.b.ld,           op.c.ld, op.transpose_a,
                op.transpose_b, is_double, op.narrow, bool(op.addend), int(op.precision), epilogue};
  std::unique_ptr<Prepared>& found = all[key];
  if (!found) found = std::make_unique<Prepared>(lt, handle, op, is_double, given, epilogue);
  return *found;
}

bool LtProducts::adds_up(Precision precision) {
  constexpr int n = 128; // a shape like any other
  const View view{0, 0, n};
  const Product op{n, n, n, true, false, view, view, view, precision, {}};
  LtOperands given{};
  given.column_sums = reinterpret_cast<void*>(std::uintptr_t(256)); // nobody looks there
  return prepared(op, false, given, Lt::with_sums_of_a).found;
}

Done LtProducts::multiply(const Product& op, bool is_double, const LtOperands& given, void* stream) {
  if (op.finish == Finish::relu) masks.erase(given.mask);
  for (int epilogue : ways(op, given)) {
    Prepared& how = prepared(op, is_double, given, epilogue);
    if (!how.found) continue;
    how.give(lt, given);
    const double wide[] = {1, op.addend ? 1.0 : 0.0};
    const float narrow[] = {1, op.addend ? 1.0f : 0.0f};
    const void* alpha = is_double ? static_cast<const void*>(&wide[0]) : &narrow[0];
    const void* beta = is_double ? static_cast<const void*>(&wide[1]) : &narrow[1];
    check(lt.multiply(handle, how.product, alpha, given.b, *how.first, given.a, *how.second, beta, given.c, *how.result,
                      given.c, *how.result, how.heuristic.algorithm, given.workspace, given.workspace_bytes, stream),
          "a product");
    if (epilogue == Lt::with_relu_bias_and_mask) masks.insert(given.mask);
    return epilogue == Lt::plain ? Done::sums : Done::all;
  }
  return Done::nothing;
}

} // namespace fastmlp::cuda
