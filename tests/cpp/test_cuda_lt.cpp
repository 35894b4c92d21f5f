// Products by cuBLASLt, against a stand-in for it that keeps what it is told, and multiplies as cuBLASLt documents:
// column by column, with the same descriptors.
#include "check.hpp"

#include "../../src/cpp/cuda/lt_products.hpp"

#include <cstring>
#include <map>
#include <memory>

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
  const void* bias = nullptr;
};

int alive = 0, heuristics = 0, products = 0, answers = 1, answer_status = 0;
std::size_t answer_workspace = 0;
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

template <class T>
void multiply(const Descriptor& how, const T* a, const Shape& la, const T* b, const Shape& lb, T* d, const Shape& ld,
              T alpha, T beta) {
  const bool ta = how.attributes.at(Lt::transpose_a), tb = how.attributes.at(Lt::transpose_b);
  const std::uint64_t k = ta ? la.rows : la.columns;
  check((ta ? la.columns : la.rows) == ld.rows && (tb ? lb.rows : lb.columns) == ld.columns &&
            (tb ? lb.columns : lb.rows) == k,
        "layouts of a product fit together");
  const auto at = [](const T* p, const Shape& l, std::uint64_t row, std::uint64_t column) {
    return p[row + column * std::uint64_t(l.ld)];
  };
  for (std::uint64_t i = 0; i < ld.rows; ++i)
    for (std::uint64_t j = 0; j < ld.columns; ++j) {
      T sum = 0;
      for (std::uint64_t l = 0; l < k; ++l)
        sum += (ta ? at(a, la, l, i) : at(a, la, i, l)) * (tb ? at(b, lb, j, l) : at(b, lb, l, j));
      T& out = d[i + j * std::uint64_t(ld.ld)];
      sum = alpha * sum + (beta != 0 ? beta * out : T(0));
      const int epilogue = how.attributes.at(Lt::epilogue);
      if (epilogue != Lt::plain) sum += static_cast<const T*>(how.bias)[i];
      out = epilogue == Lt::with_relu_and_bias && sum < 0 ? T(0) : sum;
    }
}

Lt stand_in() {
  Lt lt{};
  lt.create = [](LtObject* object) { return make<int>(object); };
  lt.destroy = destroy<int>;
  lt.version = []() -> std::size_t { return 130000; };
  lt.product_create = [](LtObject* object, int compute, int scale) {
    *object = new Descriptor{compute, scale, {}, nullptr};
    ++alive;
    return 0;
  };
  lt.product_destroy = destroy<Descriptor>;
  lt.product_set = [](LtObject object, int attribute, const void* value, std::size_t size) {
    Descriptor& product = *static_cast<Descriptor*>(object);
    if (attribute == Lt::bias_pointer) {
      check(size == sizeof(void*), "a pointer is given as such");
      std::memcpy(&product.bias, value, sizeof(void*));
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
  lt.heuristic = [](LtObject, LtObject product, LtObject, LtObject, LtObject, LtObject, LtObject, int,
                    LtHeuristic* found, int* n_found) {
    const Descriptor& asked = *static_cast<Descriptor*>(product);
    check(asked.attributes.at(Lt::epilogue) == Lt::plain || asked.bias, "a bias is known before the choice");
    ++heuristics;
    *found = {};
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
    if (how.scale == Lt::float64)
      multiply<double>(how, static_cast<const double*>(a), layout(la), static_cast<const double*>(b), layout(lb),
                       static_cast<double*>(d), layout(ld), *static_cast<const double*>(alpha),
                       *static_cast<const double*>(beta));
    else
      multiply<float>(how, static_cast<const float*>(a), layout(la), static_cast<const float*>(b), layout(lb),
                      static_cast<float*>(d), layout(ld), *static_cast<const float*>(alpha),
                      *static_cast<const float*>(beta));
    return 0;
  };
  return lt;
}

template <class T> void test_products(const Lt& lt) {
  RandomNumbers<T> numbers(3);
  LtProducts by_lt(lt);
  for (bool ta : {false, true})
    for (bool tb : {false, true})
      for (bool adds : {false, true})
        for (int with : {0, 1, 2}) { // nothing, bias, bias and relu
          const int m = 5, n = 7, k = 3, lda = 8, ldb = 8, ldc = 9;
          const Array<T> a = numbers.array(8 * lda), b = numbers.array(8 * ldb), bias = numbers.array(n);
          Array<T> c = numbers.array(m * ldc);
          std::vector<double> expected(c.begin(), c.end());
          for (int i = 0; i < m; ++i)
            for (int j = 0; j < n; ++j) {
              double sum = (adds ? double(c[i * ldc + j]) : 0) + (with ? double(bias[j]) : 0);
              for (int l = 0; l < k; ++l)
                sum += double(ta ? a[l * lda + i] : a[i * lda + l]) * double(tb ? b[j * ldb + l] : b[l * ldb + j]);
              expected[i * ldc + j] = with == 2 && sum < 0 ? 0 : sum;
            }
          const View va{0, 0, lda}, vb{1, 0, ldb}, vc{2, 0, ldc}, none{}, vbias{3, 0, n};
          const Product op{
              m, n, k, ta, tb, va, vb, vc, adds ? vc : none, with ? vbias : none, with == 2, Precision::ieee, none};
          const bool done = by_lt.multiply(op, sizeof(T) == 8, a.data(), b.data(), c.data(),
                                           with ? bias.data() : nullptr, nullptr, 1 << 20, nullptr);
          check(done, "there is an algorithm");
          check_close(c, expected, "a product by cuBLASLt");
        }
}

} // namespace

void test_cuda_lt() {
  const Lt lt = stand_in();
  test_products<float>(lt);
  test_products<double>(lt);
  check(alive == 0, "all descriptors are destroyed");
  check(preferences[Lt::reduction_schemes] == Lt::reduce_in_compute_type, "sums have one order");
  check(preferences[Lt::most_workspace] == 1 << 20, "the workspace is as large as it is");

  float a[64] = {}, b[64] = {}, c[64] = {};
  const View view{0, 0, 8};
  Product op{4, 4, 4, false, false, view, view, view, View{}, View{}, false, Precision::tf32, View{}};
  {
    LtProducts by_lt(lt);
    const auto multiply = [&] { return by_lt.multiply(op, false, a, b, c, nullptr, nullptr, 4096, nullptr); };
    heuristics = products = 0;
    multiply();
    multiply();
    check(heuristics == 1 && products == 2, "an algorithm is chosen once for a shape");
    check(last_product.compute == Lt::in_tf32, "tf32 is asked for where it is meant");
    op.precision = Precision::ieee;
    multiply();
    check(heuristics == 2 && last_product.compute == Lt::in_float32, "and only there");
  }
  for (int way = 0; way < 3; ++way) { // none is found, or can be, or it wants too much memory
    answers = way == 0 ? 0 : 1;
    answer_status = way == 1 ? 15 : 0;
    answer_workspace = way == 2 ? 8192 : 0;
    LtProducts by_lt(lt);
    products = 0;
    check(!by_lt.multiply(op, false, a, b, c, nullptr, nullptr, 4096, nullptr) && products == 0,
          "without an algorithm nothing is multiplied, and it is said");
  }
  answers = 1;
  answer_workspace = 0;
  answer_status = 14; // something is wrong: a slow way round would hide it
  bool says_so = false;
  try {
    LtProducts by_lt(lt);
    by_lt.multiply(op, false, a, b, c, nullptr, nullptr, 4096, nullptr);
  } catch (const std::runtime_error& error) {
    says_so = std::string(error.what()).find("the search for an algorithm failed with status 14") != std::string::npos;
  }
  check(says_so, "a search that fails is an error");
  answer_status = 0;
  check(alive == 0, "all descriptors are destroyed");
}

} // namespace fastmlp
