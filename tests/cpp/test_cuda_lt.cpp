// Products by cuBLASLt, against a stand-in for it that keeps what it is told, and multiplies as cuBLASLt documents:
// column by column, with the same descriptors.
#include "check.hpp"

#include "../../src/cpp/cuda/bfloat16.hpp"
#include "../../src/cpp/cuda/layout.hpp"
#include "../../src/cpp/cuda/lt_products.hpp"

#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <set>

namespace fastmlp {

namespace {

using namespace cuda;

struct Shape {
  int type;
  std::uint64_t rows, columns;
  std::int64_t ld;
};
struct Descriptor {
  int compute, scale;
  std::map<int, std::int32_t> attributes;
  void *bias = nullptr, *mask = nullptr;
  std::int64_t mask_ld = 0;

  int epilogue() const { return attributes.at(Lt::epilogue); }
};

int alive = 0, heuristics = 0, products = 0, answers = 1, answer_status = 0;
std::size_t answer_workspace = 0;
std::set<int> unknown; // epilogues
std::map<int, std::uint64_t> preferences;
Descriptor last_product;

template <class S, class... A> int make(LtObject* object, A... values) {
  *object = new S{values...};
  ++alive;
  return 0;
}
template <class S> int destroy(LtObject object) {
  delete static_cast<S*>(object);
  --alive;
  return 0;
}

bool has_bias(int epilogue) { return epilogue != Lt::plain && epilogue != Lt::with_relu_slope; }
bool has_mask(int epilogue) { return epilogue == Lt::with_relu_bias_and_mask || epilogue == Lt::with_relu_slope; }

// A bit of a mask, in an order of this stand-in's own: nobody else may read it.
bool mask_bit(const Descriptor& how, std::uint64_t i, std::uint64_t j) {
  const auto* bytes = static_cast<const unsigned char*>(how.mask) + j * std::uint64_t(how.mask_ld) / 8;
  return bytes[i / 8] >> (7 - i % 8) & 1;
}
void set_mask_bit(const Descriptor& how, std::uint64_t i, std::uint64_t j, bool bit) {
  auto* bytes = static_cast<unsigned char*>(how.mask) + j * std::uint64_t(how.mask_ld) / 8;
  bytes[i / 8] = static_cast<unsigned char>((bytes[i / 8] & ~(1 << (7 - i % 8))) | int(bit) << (7 - i % 8));
}

// The number of row i and column j of D: what the epilogue makes of the sum.
template <class T>
T finished(const Descriptor& how, T sum, std::uint64_t i, std::uint64_t j, const std::function<T(std::size_t)>& bias) {
  const int epilogue = how.epilogue();
  if (has_bias(epilogue) && epilogue != Lt::with_sums_of_a) sum += bias(i);
  if (epilogue == Lt::with_relu_bias_and_mask) set_mask_bit(how, i, j, sum > 0);
  if (epilogue == Lt::with_relu_bias_and_mask || epilogue == Lt::with_relu_and_bias) return sum > 0 ? sum : T(0);
  return epilogue == Lt::with_relu_slope && !mask_bit(how, i, j) ? T(0) : sum;
}

// T: of sums; A: of operands; D: of the result.
template <class T, class A, class D>
void multiply(const Descriptor& how, const void* given_a, const Shape& la, const void* given_b, const Shape& lb,
              void* given_d, const Shape& ld, T alpha, T beta) {
  const A *a = static_cast<const A*>(given_a), *b = static_cast<const A*>(given_b);
  D* d = static_cast<D*>(given_d);
  const bool ta = how.attributes.at(Lt::transpose_a), tb = how.attributes.at(Lt::transpose_b);
  const std::uint64_t k = ta ? la.rows : la.columns;
  check((ta ? la.columns : la.rows) == ld.rows && (tb ? lb.rows : lb.columns) == ld.columns &&
            (tb ? lb.columns : lb.rows) == k,
        "layouts of a product fit together");
  const auto at = [](const A* p, const Shape& l, std::uint64_t row, std::uint64_t column) {
    return T(p[row + column * std::uint64_t(l.ld)]);
  };
  const auto bias = [&](std::size_t i) { return T(static_cast<const D*>(how.bias)[i]); };
  for (std::uint64_t i = 0; i < ld.rows; ++i) {
    T of_row = 0;
    for (std::uint64_t l = 0; l < k; ++l) of_row += ta ? at(a, la, l, i) : at(a, la, i, l);
    if (how.epilogue() == Lt::with_sums_of_a) static_cast<D*>(how.bias)[i] = D(of_row);
    for (std::uint64_t j = 0; j < ld.columns; ++j) {
      T sum = 0;
      for (std::uint64_t l = 0; l < k; ++l)
        sum += (ta ? at(a, la, l, i) : at(a, la, i, l)) * (tb ? at(b, lb, j, l) : at(b, lb, l, j));
      D& out = d[i + j * std::uint64_t(ld.ld)];
      sum = alpha * sum + (beta != 0 ? beta * T(out) : T(0));
      out = D(finished<T>(how, sum, i, j, bias));
    }
  }
}

Lt stand_in() {
  Lt lt{};
  lt.create = [](LtObject* object) { return make<int>(object); };
  lt.destroy = destroy<int>;
  lt.version = []() -> std::size_t { return 130000; };
  lt.product_create = [](LtObject* object, int compute, int scale) {
    *object = new Descriptor{compute, scale, {}};
    ++alive;
    return 0;
  };
  lt.product_destroy = destroy<Descriptor>;
  lt.product_set = [](LtObject object, int attribute, const void* value, std::size_t size) {
    Descriptor& product = *static_cast<Descriptor*>(object);
    if (attribute == Lt::bias_pointer || attribute == Lt::mask_pointer) {
      check(size == sizeof(void*), "a pointer is given as such");
      std::memcpy(attribute == Lt::mask_pointer ? &product.mask : &product.bias, value, size);
    } else if (attribute == Lt::mask_ld) {
      check(size == sizeof(std::int64_t), "the leading dimension of a mask has 64 bits");
      std::memcpy(&product.mask_ld, value, size);
    } else {
      check(size == sizeof(std::int32_t), "an attribute has 32 bits");
      std::memcpy(&product.attributes[attribute], value, sizeof(std::int32_t));
    }
    return 0;
  };
  lt.layout_create = [](LtObject* object, int type, std::uint64_t rows, std::uint64_t columns, std::int64_t ld) {
    check(std::uint64_t(ld) >= rows, "columns do not overlap");
    return make<Shape>(object, type, rows, columns, ld);
  };
  lt.layout_destroy = destroy<Shape>;
  lt.preference_create = [](LtObject* object) { return make<int>(object); };
  lt.preference_destroy = destroy<int>;
  lt.preference_set = [](LtObject, int attribute, const void* value, std::size_t size) {
    check(size == (attribute == Lt::most_workspace ? 8 : 4), "preferences have the sizes of cublasLt.h");
    std::memcpy(&preferences[attribute], value, size);
    return 0;
  };
  lt.heuristic = [](LtObject, LtObject product, LtObject, LtObject, LtObject, LtObject result, LtObject, int,
                    LtHeuristic* found, int* n_found) {
    const Descriptor& description = *static_cast<Descriptor*>(product);
    check(!has_bias(description.epilogue()) || description.bias, "a bias is known before the choice");
    if (has_mask(description.epilogue())) {
      check(reinterpret_cast<std::uintptr_t>(description.mask) % 16 == 0 && description.mask,
            "a mask is aligned to 16 bytes");
      check(description.mask_ld % 128 == 0 && std::uint64_t(description.mask_ld) >= static_cast<Shape*>(result)->rows,
            "rows of a mask have a multiple of 128 bits");
    }
    ++heuristics;
    *found = {};
    if (unknown.count(description.epilogue())) return 15;
    found->algorithm[0] = 4711;
    found->workspace_bytes = answer_workspace;
    *n_found = answers;
    return answer_status;
  };
  lt.multiply = [](LtObject, LtObject product, const void* alpha, const void* a, LtObject la, const void* b,
                   LtObject lb, const void* beta, const void* c, LtObject lc, void* d, LtObject ld,
                   const std::uint64_t* algorithm, void*, std::size_t, void*) {
    ++products;
    const Descriptor& how = last_product = *static_cast<Descriptor*>(product);
    const auto layout = [](LtObject object) { return *static_cast<Shape*>(object); };
    check(algorithm[0] == 4711, "the algorithm that was found is used");
    check(c == d && lc == ld, "what is added to is c itself");
    const Shape first = layout(la), second = layout(lb), result = layout(ld);
    const auto run = [&](auto number, auto operand, auto out) {
      using T = decltype(number);
      multiply<T, decltype(operand), decltype(out)>(how, a, first, b, second, d, result, *static_cast<const T*>(alpha),
                                                    *static_cast<const T*>(beta));
    };
    check(first.type == second.type, "both factors are of one type");
    if (how.scale == Lt::float64)
      run(double(), double(), double());
    else if (first.type == Lt::float32)
      run(float(), float(), float());
    else if (result.type == Lt::float32)
      run(float(), bfloat16(), float());
    else
      run(float(), bfloat16(), bfloat16());
    return 0;
  };
  return lt;
}

// A product, its operands, and the same computed in double.
template <class T, class A, class C> struct Example {
  static constexpr int m = 5, n = 7, k = 3, ld = 8, ldc = 9;

  Example(bool ta, bool tb, bool adds, Finish finish, bool with_bias, bool with_sums) {
    RandomNumbers<float> numbers(3);
    const auto fill = [&](auto& array, std::size_t size) {
      for (std::size_t i = 0; i < size; ++i) array.push_back(std::remove_reference_t<decltype(array[0])>(numbers()));
    };
    fill(a, 8 * ld), fill(b, 8 * ld), fill(bias, n), fill(c, m * ldc), fill(units, m * ldc);
    const View c_view{2, 0, ldc}, of_n{3, 0, n}, none{};
    op = {m, n, k, ta, tb, {0, 0, ld}, {1, 0, ld}, c_view, Precision::ieee, none};
    op.addend = adds ? c_view : none;
    op.bias = with_bias ? of_n : none;
    op.finish = finish;
    op.narrow = sizeof(C) == 2;
    if (sizeof(A) == 2) op.precision = Precision::bf16;
    op.mask = {4, 0, mask_ld(n)};
    if (with_sums) op.column_sums = of_n;
    if (finish == Finish::relu_slope) op.units = c_view;
    expect(ta, tb);
  }

  Done by(LtProducts& lt) {
    return lt.multiply(op, sizeof(T) == 8,
                       {a.data(), b.data(), c.data(), op.bias ? bias.data() : nullptr, mask,
                        op.column_sums ? sums.data() : nullptr, nullptr, 1 << 20},
                       nullptr);
  }
  void check_result(const std::string& what) const {
    double worst = 0;
    for (std::size_t i = 0; i < c.size(); ++i) worst = std::max(worst, std::abs(double(T(c[i])) - expected[i]));
    check(worst < (sizeof(C) == 2 ? 0.05 : 1e-5), what + ": off by " + std::to_string(worst));
  }
  void check_sums(const std::string& what) const {
    for (int j = 0; j < n; ++j) check(std::abs(double(sums[j]) - expected_sums[j]) < 1e-5, what);
  }

  Product op;
  std::vector<A> a, b;
  std::vector<C> c, bias, units;
  std::vector<T> sums = std::vector<T>(n);
  std::vector<double> expected, expected_sums = std::vector<double>(n);
  alignas(16) unsigned char mask[16 * m] = {};

private:
  void expect(bool ta, bool tb) {
    for (C x : c) expected.push_back(double(T(x)));
    for (int j = 0; j < n; ++j) {
      for (int l = 0; l < k; ++l) expected_sums[j] += double(T(b[l * ld + j]));
      for (int i = 0; i < m; ++i) {
        double sum = (op.addend ? double(T(c[i * ldc + j])) : 0) + (op.bias ? double(T(bias[j])) : 0);
        for (int l = 0; l < k; ++l)
          sum += double(T(ta ? a[l * ld + i] : a[i * ld + l])) * double(T(tb ? b[j * ld + l] : b[l * ld + j]));
        if (op.finish == Finish::relu && sum < 0) sum = 0;
        expected[i * ldc + j] = sum;
      }
    }
  }
};

template <class T, class A, class C> void test_products(const Lt& lt) {
  LtProducts by_lt(lt);
  for (bool ta : {false, true})
    for (bool tb : {false, true})
      for (bool adds : {false, true})
        for (bool with_bias : {false, true})
          for (Finish finish : {Finish::none, Finish::relu}) {
            if (finish == Finish::relu && !with_bias) continue;
            Example<T, A, C> example(ta, tb, adds, finish, with_bias, false);
            const Done done = example.by(by_lt);
            check(done == (with_bias ? Done::all : Done::sums), "there is an algorithm");
            example.check_result("a product by cuBLASLt");
          }
  if (sizeof(C) != sizeof(T)) return; // sums would be of the type of the result
  Example<T, A, C> gradients(true, false, false, Finish::none, false, true);
  check(gradients.by(by_lt) == Done::all && last_product.epilogue() == Lt::with_sums_of_a, "sums beside a product");
  gradients.check_result("a product with sums");
  gradients.check_sums("sums beside a product");
}

// What rectified linear units leave in a mask is what their slopes are taken from; nobody else's mask is read.
template <class T, class A, class C> void test_masks(const Lt& lt) {
  LtProducts by_lt(lt);
  Example<T, A, C> forward(false, false, false, Finish::relu, true, false),
      back(false, true, false, Finish::relu_slope, false, false);
  const auto slopes = [&](const unsigned char* mask) {
    std::memcpy(back.mask, mask, sizeof back.mask);
    return by_lt.multiply(back.op, sizeof(T) == 8,
                          {back.a.data(), back.b.data(), back.c.data(), nullptr, forward.mask, nullptr, nullptr, 0},
                          nullptr);
  };
  check(slopes(forward.mask) == Done::sums, "a mask that is not written is not read");
  back.check_result("a product without its slopes");
  check(forward.by(by_lt) == Done::all && last_product.epilogue() == Lt::with_relu_bias_and_mask, "a mask is written");
  check(slopes(forward.mask) == Done::all && last_product.epilogue() == Lt::with_relu_slope, "and read");
  for (int i = 0; i < back.m; ++i)
    for (int j = 0; j < back.n; ++j)
      if (!(T(forward.c[i * back.ldc + j]) > 0)) back.expected[i * back.ldc + j] = 0;
  back.check_result("a product with slopes");
  unknown = {Lt::with_relu_bias_and_mask};
  {
    LtProducts without(lt);
    check(forward.by(without) == Done::all && last_product.epilogue() == Lt::with_relu_and_bias, "relu without a mask");
    check(without.multiply(back.op, sizeof(T) == 8,
                           {back.a.data(), back.b.data(), back.c.data(), nullptr, forward.mask, nullptr, nullptr, 0},
                           nullptr) == Done::sums,
          "then slopes are the caller's");
  }
  unknown = {};
}

// An epilogue that is not known leaves the sums; without any algorithm nothing is multiplied, and it is said.
void test_fallbacks(const Lt& lt) {
  unknown = {Lt::with_relu_bias_and_mask, Lt::with_relu_and_bias, Lt::with_sums_of_a, Lt::with_bias};
  for (int way = 0; way < 3; ++way) {
    LtProducts by_lt(lt);
    Example<float, float, float> example(false, false, false, way == 0 ? Finish::relu : Finish::none, way < 2,
                                         way == 2);
    check(example.by(by_lt) == Done::sums && last_product.epilogue() == Lt::plain, "without an epilogue, the sums");
    products = heuristics = 0;
    check(example.by(by_lt) == Done::sums && products == 1 && heuristics == 0, "what is not known is asked for once");
  }
  check(!LtProducts(lt).adds_up(Precision::tf32), "sums beside products are not known");
  unknown = {};
  check(LtProducts(lt).adds_up(Precision::tf32) && LtProducts(lt).adds_up(Precision::bf16), "and are");
  for (int way = 0; way < 3; ++way) { // none is found, or can be, or it wants too much memory
    answers = way == 0 ? 0 : 1;
    answer_status = way == 1 ? 15 : 0;
    answer_workspace = way == 2 ? (2 << 20) : 0;
    LtProducts by_lt(lt);
    products = 0;
    Example<float, float, float> example(false, false, false, Finish::relu, true, false);
    check(example.by(by_lt) == Done::nothing && products == 0, "without an algorithm nothing is multiplied");
  }
  answers = 1;
  answer_workspace = 0;
  answer_status = 14; // something is wrong: a slow way round would hide it
  bool says_so = false;
  try {
    LtProducts by_lt(lt);
    Example<float, float, float>(false, false, false, Finish::none, false, false).by(by_lt);
  } catch (const std::runtime_error& error) {
    says_so = std::string(error.what()).find("the search for an algorithm failed with status 14") != std::string::npos;
  }
  check(says_so, "a search that fails is an error");
  answer_status = 0;
}

} // namespace

void test_cuda_lt() {
  const Lt lt = stand_in();
  test_products<float, float, float>(lt);
  test_products<double, double, double>(lt);
  test_products<float, bfloat16, float>(lt);
  test_products<float, bfloat16, bfloat16>(lt);
  test_masks<float, float, float>(lt);
  test_masks<float, bfloat16, bfloat16>(lt);
  check(preferences[Lt::reduction_schemes] == Lt::reduce_in_compute_type, "sums have one order");
  check(preferences[Lt::most_workspace] == 0, "the workspace is as large as it is");
  test_fallbacks(lt);
  check(preferences[Lt::most_workspace] == 1 << 20, "the workspace is as large as it is");
  {
    LtProducts by_lt(lt);
    Example<float, float, float> example(false, false, false, Finish::none, false, false);
    example.op.precision = Precision::tf32;
    heuristics = products = 0;
    example.by(by_lt);
    example.by(by_lt);
    check(heuristics == 1 && products == 2, "an algorithm is chosen once for a shape");
    check(last_product.compute == Lt::in_tf32, "tf32 is asked for where it is meant");
    example.op.precision = Precision::ieee;
    example.by(by_lt);
    check(heuristics == 2 && last_product.compute == Lt::in_float32, "and only there");
  }
  check(alive == 0, "all descriptors are destroyed");
}

} // namespace fastmlp
