// Data in the device's memory.
#pragma once

#include "memory.hpp"

#include <list>

namespace fastmlp::cuda {

// Rows of X, by number if numbers are given, without gaps.
template <class T>
void pack_rows(const Matrix<T>& X, const std::int64_t* rows, std::int64_t first, std::int64_t n, T* out) {
  for (std::int64_t i = first; i < first + n; ++i, out += X.n_columns)
    std::copy_n(X.data + (rows ? rows[i] : i) * X.stride, X.n_columns, out);
}

template <class T> struct DeviceData {
  DeviceData() = default;
  explicit DeviceData(Device& device) : X(device), y(device), labels(device), weights(device) {}

  // X itself where it is on the device already.
  T* features() const { return in_place ? const_cast<T*>(in_place) : static_cast<T*>(X.get()); } // it is only read
  Rows rows(int n, bool ordered) const { return {n, ordered, labels.get() != nullptr, weights.get() != nullptr}; }

  // Takes n rows to predict, from `first` on; returns where they are among its features.
  std::int64_t take(Device& device, const Matrix<T>& given, const std::int64_t* rows, std::int64_t first, int n) {
    stride = int(given.on_device ? given.stride : given.n_columns);
    in_place = given.on_device ? given.data : nullptr;
    if (in_place) return first;
    std::vector<T> packed(std::size_t(n) * std::size_t(given.n_columns));
    pack_rows(given, rows, first, n, packed.data());
    X.reserve(packed.size() * sizeof(T));
    device.upload(X.get(), packed.data(), packed.size() * sizeof(T));
    return 0;
  }

  Memory X, y, labels, weights;
  const T* in_place = nullptr;
  int stride = 0;
  long long serial = 0; // tells data from others
};

// Copies of data that stay as they are, and of the data that were asked for last.
template <class T> class HeldData {
public:
  HeldData(Device& device, int n_targets) : device(device), n_targets(n_targets) {}

  void hold(const std::vector<const Dataset<T>*>& datasets) {
    held.clear();
    passing.clear();
    try {
      for (const Dataset<T>* data : datasets)
        if (data->X.data && !data->X.indptr && !data->loss && !find(*data)) held.push_back({*data, copy(*data)});
    } catch (...) {
      held.clear(); // their addresses may be others' next time
      throw;
    }
  }

  const DeviceData<T>& find(const Dataset<T>& data, bool& is_new) {
    if (const DeviceData<T>* found = find(data)) return *found;
    is_new = true;
    passing.clear();
    passing.push_back({data, copy(data)});
    return passing.front().on_device;
  }

private:
  struct Entry {
    Dataset<T> data;
    DeviceData<T> on_device;
  };

  const DeviceData<T>* find(const Dataset<T>& data) const {
    for (const Entry& entry : held) {
      const Dataset<T>& d = entry.data;
      if (d.X.data == data.X.data && d.X.n_rows == data.X.n_rows && d.X.stride == data.X.stride && d.y == data.y &&
          d.labels == data.labels && d.sample_weight == data.sample_weight)
        return &entry.on_device;
    }
    return nullptr;
  }

  DeviceData<T> copy(const Dataset<T>& data) {
    DeviceData<T> copy(device);
    const std::size_t n = std::size_t(data.X.n_rows), columns = std::size_t(data.X.n_columns);
    const std::size_t n_targets = data.y ? std::size_t(this->n_targets) : 0;
    const std::size_t all = n * ((columns * !data.X.on_device + n_targets + (data.sample_weight ? 1 : 0)) * sizeof(T) +
                                 (data.labels ? sizeof(std::int32_t) : 0));
    if (all > device.free_bytes())
      throw OutOfMemory("data of " + std::to_string(n) + " rows and " + std::to_string(columns) + " features need " +
                        gibibytes(all) + " of the device's memory, of which " + gibibytes(device.free_bytes()) +
                        " are free");
    copy.stride = data.X.n_columns;
    if (data.X.on_device) {
      copy.in_place = data.X.data;
      copy.stride = int(data.X.stride);
    } else {
      copy.X.reserve(n * columns * sizeof(T));
      copy_features(data.X, copy.X);
    }
    give(data.y, n * n_targets, copy.y);
    give(data.labels, data.labels ? n : 0, copy.labels);
    give(data.sample_weight, data.sample_weight ? n : 0, copy.weights);
    copy.serial = ++last_serial;
    return copy;
  }

  void copy_features(const Matrix<T>& X, Memory& to) {
    T* out = static_cast<T*>(to.get());
    if (X.stride == X.n_columns || X.n_rows == 1)
      return device.upload(out, X.data, std::size_t(X.n_rows) * std::size_t(X.n_columns) * sizeof(T));
    constexpr std::int64_t at_once = 1 << 14;
    std::vector<T> packed;
    for (std::int64_t first = 0; first < X.n_rows; first += at_once) {
      const std::int64_t n = std::min(at_once, X.n_rows - first);
      packed.resize(std::size_t(n) * std::size_t(X.n_columns));
      pack_rows<T>(X, nullptr, first, n, packed.data());
      device.upload(out + first * X.n_columns, packed.data(), packed.size() * sizeof(T));
    }
  }

  template <class S> void give(const S* from, std::size_t n, Memory& to) {
    if (n == 0) return;
    to.reserve(n * sizeof(S));
    device.upload(to.get(), from, n * sizeof(S));
  }

  Device& device;
  const int n_targets;
  std::list<Entry> held, passing;
  long long last_serial = 0;
};

} // namespace fastmlp::cuda
