// Runs all checks with the kernel set that is linked in; says how many passed.
#include "check.hpp"

#include "../../src/cpp/cpu/kernels.hpp"

int main() {
  using namespace fastmlp;
  test_kernels<float>();
  test_kernels<double>();
  test_engine<float>();
  test_engine<double>();
  test_memory();
  test_threads();
  std::printf("%s: %d passed, %d failed\n", kernels<float>().name, n_passed, n_failed);
  return n_failed || !n_passed;
}
