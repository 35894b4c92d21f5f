// Runs the kernels for graphics processors on the host, and says how many checks passed. With the argument "costs" it
// prints what a step of some networks costs instead.
#include "check.hpp"

#include <cstring>

namespace fastmlp {
void test_cuda_kernels();
void test_cuda_steps();
void test_cuda_fused();
void test_cuda_fit_many();
void test_cuda_cooperative();
void test_cuda_plan();
void test_cuda_costs();
void print_cuda_costs();
void test_cuda_lt();
} // namespace fastmlp

int main(int n_arguments, char** arguments) {
  if (n_arguments > 1 && std::strcmp(arguments[1], "costs") == 0) {
    fastmlp::print_cuda_costs();
    return 0;
  }
  fastmlp::test_cuda_kernels();
  fastmlp::test_cuda_steps();
  fastmlp::test_cuda_fused();
  fastmlp::test_cuda_fit_many();
  fastmlp::test_cuda_cooperative();
  fastmlp::test_cuda_plan();
  fastmlp::test_cuda_costs();
  fastmlp::test_cuda_lt();
  std::printf("kernels for graphics processors: %d passed, %d failed\n", fastmlp::n_passed, fastmlp::n_failed);
  return fastmlp::n_failed || !fastmlp::n_passed;
}
