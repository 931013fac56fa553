/// Command-line flags of sbora-trainer: `--name value` pairs after a command word.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"

namespace sbora::trainer {

class Flags {
 public:
  /// Takes `--name value` and `--name=value` for the names in `known`.
  /// Errors: INVALID_ARGUMENT FLAG_UNKNOWN (listing the known ones), FLAG_VALUE_MISSING, FLAG_REPEATED.
  static StatusOr<Flags> Parse(const std::vector<std::string>& arguments, const std::vector<std::string_view>& known);

  bool Has(std::string_view name) const { return values_.contains(std::string(name)); }
  /// Errors: INVALID_ARGUMENT FLAG_MISSING.
  StatusOr<std::string> Text(std::string_view name) const;
  std::string Text(std::string_view name, std::string fallback) const;
  /// Errors: INVALID_ARGUMENT FLAG_NOT_A_NUMBER outside [low, high].
  StatusOr<int64_t> Int(std::string_view name, int64_t fallback, int64_t low, int64_t high) const;
  /// Finite, in decimal notation. Errors: INVALID_ARGUMENT FLAG_NOT_A_NUMBER outside [low, high].
  StatusOr<double> Number(std::string_view name, double fallback, double low, double high) const;

 private:
  std::map<std::string, std::string> values_;
};

}  // namespace sbora::trainer
