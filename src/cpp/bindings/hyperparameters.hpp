// Hyper-parameters of optimizers and losses as Python gives them: by name, checked against the catalogue's ranges.
#pragma once

#include "arrays.hpp"

#include <map>
#include <variant>

namespace fastmlp {

using GivenNumbers = std::map<std::string, std::variant<double, std::vector<double>>>;

// Throws unless the values are one number in the range, or one or more increasing ones for a list.
inline void check_values(const Hyperparameter& h, const char* entry, const std::vector<double>& values) {
  const std::string what = std::string(h.name) + " of '" + entry + "' must be ";
  for (double value : values)
    if (!(value >= h.low && value <= h.high))
      reject(what + "between " + number(h.low) + " and " + number(h.high) + ", got " + number(value));
  if (!h.list && values.size() != 1) reject(what + "one number, got a list of " + std::to_string(values.size()));
  if (values.empty()) reject(what + "one number or a list of some, got an empty list");
  for (std::size_t i = 1; i < values.size(); ++i)
    if (values[i] <= values[i - 1])
      reject(what + "in increasing order, got " + number(values[i]) + " after " + number(values[i - 1]));
}

// The values of an entry's hyper-parameters in its order, defaults where none is given.
template <class Entry> std::vector<double> read_hyperparameters(const Entry& entry, GivenNumbers given) {
  std::vector<double> all;
  std::string names;
  for (const Hyperparameter& h : entry.hyperparameters) {
    names += std::string(" '") + h.name + "'";
    std::vector<double> values{h.default_value};
    if (const auto at = given.find(h.name); at != given.end()) {
      if (const auto* one = std::get_if<double>(&at->second))
        values = {*one};
      else
        values = std::get<std::vector<double>>(at->second);
      given.erase(at);
    }
    check_values(h, entry.name, values);
    all.insert(all.end(), values.begin(), values.end());
  }
  if (!given.empty())
    reject("unknown hyper-parameter '" + given.begin()->first + "' of '" + entry.name +
           "'; valid names:" + (names.empty() ? " none" : names));
  return all;
}

inline std::vector<double> loss_values(const std::string& name, const GivenNumbers& given) {
  std::vector<double> values;
  Losses::visit(Losses::find(name, "loss"), [&](auto entry) { values = read_hyperparameters(entry, given); });
  return values;
}

// The values by name again, a list as one.
inline py::dict named_values(const LossChoice& loss) {
  py::dict d;
  Losses::visit(loss.number, [&](auto entry) {
    const double* value = loss.values.data();
    for (const Hyperparameter& h : entry.hyperparameters)
      d[h.name] = h.list ? py::object(py::cast(loss.values)) : py::object(py::float_(*value++));
  });
  return d;
}

} // namespace fastmlp
