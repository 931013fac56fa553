#include "worker/trainer/link/flags.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>

#include "common/status_macros.h"

namespace sbora::trainer {

StatusOr<Flags> Flags::Parse(const std::vector<std::string>& arguments, const std::vector<std::string_view>& known) {
  Flags flags;
  for (size_t i = 0; i < arguments.size(); ++i) {
    std::string name = arguments[i];
    std::string value;
    const size_t equals = name.find('=');
    const bool joined = equals != std::string::npos;
    if (joined) {
      value = name.substr(equals + 1);
      name.resize(equals);
    }
    if (!name.starts_with("--") || std::find(known.begin(), known.end(), std::string_view(name).substr(2)) == known.end()) {
      return InvalidArgument("FLAG_UNKNOWN", fmt::format("unknown flag \"{}\"; known: --{}", name, fmt::join(known, ", --")));
    }
    if (!joined) {
      if (i + 1 == arguments.size()) {
        return InvalidArgument("FLAG_VALUE_MISSING",
                               fmt::format("{} needs a value: {} VALUE or {}=VALUE", name, name, name));
      }
      value = arguments[++i];
    }
    if (!flags.values_.emplace(name.substr(2), value).second) {
      return InvalidArgument("FLAG_REPEATED", fmt::format("{} is given twice, as \"{}\" and \"{}\"; give it once", name,
                                                          flags.values_.at(name.substr(2)), value));
    }
  }
  return flags;
}

StatusOr<std::string> Flags::Text(std::string_view name) const {
  const auto found = values_.find(std::string(name));
  if (found != values_.end()) return found->second;
  return InvalidArgument("FLAG_MISSING", fmt::format("--{} is required: give --{}=VALUE", name, name));
}

std::string Flags::Text(std::string_view name, std::string fallback) const {
  const auto found = values_.find(std::string(name));
  return found == values_.end() ? std::move(fallback) : found->second;
}

StatusOr<int64_t> Flags::Int(std::string_view name, int64_t fallback, int64_t low, int64_t high) const {
  const auto found = values_.find(std::string(name));
  if (found == values_.end()) return fallback;
  const std::string& text = found->second;
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < low || value > high) {
    return InvalidArgument("FLAG_NOT_A_NUMBER", fmt::format("--{}={} is no whole number from {} to {}", name, text, low, high));
  }
  return value;
}

StatusOr<double> Flags::Number(std::string_view name, double fallback, double low, double high) const {
  const auto found = values_.find(std::string(name));
  if (found == values_.end()) return fallback;
  const std::string& text = found->second;
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !(value >= low && value <= high)) {
    return InvalidArgument("FLAG_NOT_A_NUMBER", fmt::format("--{}={} is no number from {} to {}", name, text, low, high));
  }
  return value;
}

}  // namespace sbora::trainer
