// The one dispatch trick: a catalogue is a list of types, visited by number, looked up by name.
//
// Activations, losses and optimizers are structs; the list at the bottom of their header is the only place that
// names them all. A kernel visits the list once per call, so that its loops are compiled for each entry.
// This room knows nothing of what it lists.
#pragma once

#include "host_device.hpp"

#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

namespace fastmlp {

// A number that an entry may be given: its name, its default and the closed range of valid values. A `list` is one or
// more of them, each larger than the one before; it is then the only hyper-parameter of its entry.
struct Hyperparameter {
  const char* name;
  double default_value, low, high;
  bool list = false;
};

// Their values for one entry, in its order; `n` counts the values of a list.
struct Hyperparameters {
  const double* values;
  int n;
};

constexpr double below_one = 1 - std::numeric_limits<double>::epsilon() / 2; // the ends of half-open ranges
constexpr double above_zero = std::numeric_limits<double>::min();
constexpr double largest = std::numeric_limits<double>::max();

template <class... Entries> struct Catalog {
  static constexpr int size = sizeof...(Entries);

  // Calls f(Entry{}) for entry number `id`, which the caller has checked.
  FASTMLP_CALLS_ITS_ARGUMENT
  template <class F> FASTMLP_INLINE void visit(int id, F&& f) {
    int i = 0;
    (void)((id == i++ ? (f(Entries{}), true) : false) || ...);
  }

  template <class F> static void for_each(F&& f) { (f(Entries{}), ...); }

  static std::vector<std::string> names() { return {Entries::name...}; }

  // Number of the entry called `name`; `what` names the catalogue in the error.
  static int find(const std::string& name, const char* what) {
    int i = 0;
    for (const std::string& known : names()) {
      if (known == name) return i;
      ++i;
    }
    std::string message = std::string("unknown ") + what + " '" + name + "'; valid names:";
    for (const std::string& known : names()) message += " '" + known + "',";
    message.back() = '.';
    throw std::invalid_argument(message);
  }
};

// One list after the other.
template <class... A, class... B> Catalog<A..., B...> operator+(Catalog<A...>, Catalog<B...>);

} // namespace fastmlp
