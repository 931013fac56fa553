/// SBORA_CHECK(condition, "format", args...): aborts with file, line and values when an invariant of ours is broken.
/// For programming errors only; anything that input, disk or network can cause is a Status.
#pragma once

#include <fmt/format.h>

#include <string>
#include <string_view>

namespace sbora::internal {
[[noreturn]] void CheckFailed(const char* file, int line, std::string_view condition, const std::string& message);
}  // namespace sbora::internal

#define SBORA_CHECK(condition, ...)                                                                      \
  do {                                                                                                   \
    if (!(condition)) [[unlikely]] {                                                                     \
      ::sbora::internal::CheckFailed(__FILE__, __LINE__, #condition, ::fmt::format(__VA_ARGS__));        \
    }                                                                                                    \
  } while (false)
