// What an engine asks of a device: memory, and lists of operations that it may run again and again.
#pragma once

#include "ops.hpp"

#include <cstdlib>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

namespace fastmlp::cuda {

// There is not enough memory; says how much was asked for.
class OutOfMemory : public std::bad_alloc {
public:
  explicit OutOfMemory(std::string text) : text(std::move(text)) {}
  const char* what() const noexcept override { return text.c_str(); }

private:
  std::string text;
};

// How steps are to be taken, by FASTMLP_CUDA_STEP.
inline Way wished_way() {
  const char* given = std::getenv("FASTMLP_CUDA_STEP");
  const std::string name = given ? given : "";
  if (name.empty()) return Way::chosen;
  if (name == "fused") return Way::fused;
  if (name == "cooperative") return Way::cooperative;
  if (name == "products") return Way::products;
  throw std::invalid_argument("FASTMLP_CUDA_STEP must be 'fused', 'cooperative' or 'products', got '" + name + "'");
}

// Where a buffer is, and what it holds.
struct Place {
  void* address;
  Element element;
};

struct FitPlan; // of many trainings at once: fit_many.hpp
struct FitData;

// A list of operations in the form in which the device runs it.
class Program {
public:
  virtual ~Program() = default;
};

// Calls return at once or later, but in the order in which they were made; `download` and `wait` return when all before
// them is done.
class Device {
public:
  virtual ~Device() = default;

  virtual void* allocate(std::size_t bytes) = 0; // zeros; throws OutOfMemory
  virtual void free(void* memory) = 0;
  virtual std::size_t free_bytes() const = 0;
  virtual void upload(void* to, const void* from, std::size_t bytes) = 0; // `from` may change once this has returned
  virtual void download(void* to, const void* from, std::size_t bytes) = 0;
  // The same while other calls are still under way: only where none of these looks.
  virtual void upload_beside(void* to, const void* from, std::size_t bytes) = 0;
  virtual void copy(void* to, const void* from, std::size_t bytes) = 0; // on the device
  virtual void wait() = 0;
  virtual Capabilities capabilities() const = 0;

  // `places` are those of all buffers; `is_double` says what a real number is. The network must live as long as the
  // program.
  virtual std::unique_ptr<Program> compile(const Network& network, const std::vector<Op>& ops,
                                           const std::vector<Place>& places, bool is_double) = 0;
  virtual void run(Program& program) = 0;
  // Epochs of many models: fit_many.hpp
  virtual void fit_many(Precision precision, const FitPlan& plan, const FitData& data, int n_models) = 0;
};

} // namespace fastmlp::cuda
