// Arrays of other libraries in the memory of a GPU, as they describe them: by DLPack, or by __cuda_array_interface__.
#pragma once

#include "../cuda/library.hpp"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <limits>
#include <string>
#include <vector>

namespace py = pybind11;

namespace fastmlp {

// What a capsule named "dltensor" points to. https://dmlc.github.io/dlpack/latest/c_api.html
struct DlTensor {
  void* data;
  std::int32_t device_type, device;
  std::int32_t ndim;
  std::uint8_t kind, bits; // of the numbers: 0 and 1 integers, 2 float, 6 bool
  std::uint16_t lanes;
  const std::int64_t* shape;
  const std::int64_t* strides; // in elements; null: no gaps
  std::uint64_t byte_offset;
};

// An array that is kept, where it is, as long as this lives. What its producer had begun is done once this is made.
class CudaArray {
public:
  CudaArray(const py::object& array, const std::string& library, const std::string& name)
      : name(name), arrays(cuda::open_library(library).arrays) {
    const std::intptr_t stream = describe(array);
    if (number_of_bytes() == 0) throw py::value_error(name + " is empty: its shape is " + text(shape_tuple()));
    if (reinterpret_cast<std::uintptr_t>(data) % itemsize() != 0)
      throw py::value_error(name + " must be aligned in memory");
    const py::gil_scoped_release release;
    if (device < 0) device = arrays->device_of(data);
    if (stream != no_stream) arrays->wait_for(device, stream);
  }
  ~CudaArray() {
    if (own) arrays->free(device, own);
  }
  CudaArray(const CudaArray&) = delete;
  CudaArray& operator=(const CudaArray&) = delete;

  py::tuple shape_tuple() const { return py::cast(shape); }
  py::dtype number_type() const { return dtype; }
  int device_number() const { return device; }
  std::int64_t length() const { return shape.empty() ? 0 : shape[0]; }

  // n rows from number `first` on, in the host's memory.
  py::array to_host(std::int64_t first, std::int64_t n) const {
    require_rows();
    if (first < 0 || n < 0 || first > length() - n) throw py::index_error(name + " does not have these rows");
    std::vector<py::ssize_t> wanted(shape.begin(), shape.end());
    if (!wanted.empty()) wanted[0] = n;
    py::array out(dtype, wanted);
    const std::size_t bytes = row_bytes(), pitch = std::size_t(row_stride()) * itemsize();
    void* const to = out.mutable_data();
    const char* const from = static_cast<const char*>(data) + std::size_t(first) * pitch;
    const py::gil_scoped_release release;
    if (n > 0) arrays->download(device, to, from, bytes, pitch, n);
    return out;
  }

  // The place of the first number that is not finite, or None.
  py::object find_not_finite() const {
    const cuda::ArrayRows rows = features();
    std::int64_t place = -1;
    {
      const py::gil_scoped_release release;
      place = arrays->find_not_finite(device, rows);
    }
    if (place < 0) return py::none();
    return py::make_tuple(place / rows.n_columns, place % rows.n_columns);
  }

  // A copy in the other one of float32 and float64, on the same device.
  std::unique_ptr<CudaArray> converted() const {
    const cuda::ArrayRows rows = features();
    std::unique_ptr<CudaArray> copy(new CudaArray(*this, py::dtype(rows.is_double ? "float32" : "float64")));
    {
      const py::gil_scoped_release release;
      copy->own = arrays->convert(device, rows);
    }
    copy->data = copy->own;
    return copy;
  }

  // As features: two axes, float32 or float64.
  cuda::ArrayRows features() const {
    const bool is_double = dtype.equal(py::dtype::of<double>());
    if (!is_double && !dtype.equal(py::dtype::of<float>()))
      throw py::type_error(name + " must have dtype float32 or float64, got " + text(dtype));
    if (shape.size() != 2) throw py::value_error(name + " must have two axes, got shape " + text(shape_tuple()));
    require_rows();
    constexpr std::int64_t most = std::numeric_limits<std::int32_t>::max();
    if (shape[1] > most || row_stride() > most)
      throw py::value_error("the rows of " + name + " must be at most 2**31 - 1 numbers apart");
    return {data, std::ptrdiff_t(row_stride()), shape[0], int(shape[1]), is_double};
  }

private:
  static constexpr std::intptr_t no_stream = 0, default_stream = 1;

  CudaArray(const CudaArray& like, py::dtype dtype) // without gaps, and without memory yet
      : name(like.name), arrays(like.arrays), shape(like.shape), dtype(std::move(dtype)), device(like.device) {
    set_strides_without_gaps();
  }

  // These return the stream whose work must be waited for.

  std::intptr_t describe(const py::object& array) {
    if (!py::hasattr(array, "__dlpack_device__")) return read_cuda_array_interface(array);
    try {
      return read_dlpack(array);
    } catch (const py::error_already_set& error) { // PyTorch exports no tensor but of the current device
      if (!error.matches(PyExc_BufferError) || !py::hasattr(array, "__cuda_array_interface__")) throw;
    }
    return read_cuda_array_interface(array);
  }

  std::intptr_t read_dlpack(const py::object& array) {
    owner = array.attr("__dlpack__")(py::arg("stream") = default_stream); // the producer has it wait for its own
    if (!PyCapsule_IsValid(owner.ptr(), "dltensor"))
      throw py::type_error(name + ".__dlpack__() must return a capsule named 'dltensor', got " + text(py::repr(owner)));
    // The capsule keeps its name: its end, with this, gives the tensor back
    const auto& tensor = *static_cast<const DlTensor*>(PyCapsule_GetPointer(owner.ptr(), "dltensor"));
    constexpr int cuda = 2, managed = 13; // device types
    if (tensor.device_type != cuda && tensor.device_type != managed)
      throw py::value_error(name + ".__dlpack__() must return a tensor on a GPU, as __dlpack_device__() says");
    if (tensor.ndim < 0 || tensor.lanes != 1 || tensor.bits % 8 != 0)
      throw py::type_error(name + " has numbers that NumPy does not know");
    data = static_cast<char*>(tensor.data) + tensor.byte_offset;
    device = tensor.device;
    dtype = py::dtype(dlpack_type(tensor));
    shape.assign(tensor.shape, tensor.shape + tensor.ndim);
    if (tensor.strides)
      strides.assign(tensor.strides, tensor.strides + tensor.ndim);
    else
      set_strides_without_gaps();
    return default_stream;
  }

  std::string dlpack_type(const DlTensor& tensor) const {
    switch (tensor.kind) {
    case 0:
      return "i" + std::to_string(tensor.bits / 8);
    case 1:
      return "u" + std::to_string(tensor.bits / 8);
    case 2:
      return "f" + std::to_string(tensor.bits / 8);
    case 6:
      return "?";
    default:
      throw py::type_error(name + " has numbers that NumPy does not know, such as bfloat16: convert it to float32");
    }
  }

  std::intptr_t read_cuda_array_interface(const py::object& array) {
    owner = array;
    const auto interface = array.attr("__cuda_array_interface__").cast<py::dict>();
    const auto optional = [&](const char* key) {
      return interface.contains(key) ? py::object(interface[key]) : py::object(py::none());
    };
    if (!optional("mask").is_none()) throw py::value_error(name + " must have no mask");
    data = reinterpret_cast<void*>(interface["data"].cast<py::tuple>()[0].cast<std::uintptr_t>());
    dtype = py::dtype(interface["typestr"].cast<std::string>());
    shape = interface["shape"].cast<std::vector<std::int64_t>>();
    if (optional("strides").is_none()) {
      set_strides_without_gaps();
    } else {
      strides = interface["strides"].cast<std::vector<std::int64_t>>();
      for (std::int64_t& stride : strides) {
        if (stride % std::int64_t(itemsize()) != 0) throw py::value_error(name + " must be aligned in memory");
        stride /= std::int64_t(itemsize());
      }
    }
    if (strides.size() != shape.size()) throw py::value_error(name + " must have a stride for each axis");
    if (!interface.contains("stream")) return cuda::every_stream; // older versions of the interface
    if (interface["stream"].is_none()) return no_stream;
    const auto stream = interface["stream"].cast<std::intptr_t>();
    if (stream == 0) throw py::value_error("the stream of " + name + " must not be 0");
    return stream;
  }

  void set_strides_without_gaps() {
    strides.assign(shape.size(), 1);
    for (std::size_t i = shape.size(); i-- > 1;) strides[i - 1] = strides[i] * shape[i];
  }

  std::size_t itemsize() const { return std::size_t(dtype.itemsize()); }
  std::size_t row_bytes() const {
    std::size_t bytes = itemsize();
    for (std::size_t i = 1; i < shape.size(); ++i) bytes *= std::size_t(shape[i]);
    return bytes;
  }
  std::size_t number_of_bytes() const { return row_bytes() * std::size_t(shape.empty() ? 1 : shape[0]); }
  std::int64_t row_stride() const { // in elements
    return length() > 1 ? strides[0] : std::int64_t(row_bytes() / itemsize());
  }

  // Each row without gaps, and behind the one before.
  void require_rows() const {
    std::int64_t gapless = 1;
    bool fits = true;
    for (std::size_t i = shape.size(); i-- > 1; gapless *= shape[i])
      fits = fits && (shape[i] == 1 || strides[i] == gapless);
    if (!fits || row_stride() < gapless)
      throw py::value_error(name +
                            " must be C-contiguous, or have gaps only between its rows: make it so on the GPU, "
                            "with cupy.ascontiguousarray(" +
                            name + ") or " + name + ".contiguous() of PyTorch");
  }

  static std::string text(const py::handle& object) { return py::str(object).cast<std::string>(); }

  const std::string name; // as errors call it
  const cuda::Arrays* const arrays;
  py::object owner;
  std::vector<std::int64_t> shape, strides; // in elements
  py::dtype dtype;
  void* data = nullptr;
  void* own = nullptr; // memory to be given back
  int device = -1;
};

} // namespace fastmlp
