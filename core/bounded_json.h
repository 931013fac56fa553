/// JSON of strangers. nlohmann's parser takes any depth, but its copies and dump() call themselves once a level: half a
/// megabyte of brackets ends the process.
#pragma once

#include <nlohmann/json.hpp>
#include <string_view>

namespace sbora::core {

inline constexpr int kMaxJsonDepth = 64;

/// Discarded (as what is no JSON) beyond kMaxJsonDepth.
inline nlohmann::json ParseBoundedJson(std::string_view text) {
  bool too_deep = false;
  const auto watch = [&](int depth, nlohmann::json::parse_event_t, nlohmann::json&) {
    too_deep = too_deep || depth > kMaxJsonDepth;
    return !too_deep;
  };
  nlohmann::json json = nlohmann::json::parse(text, watch, /*allow_exceptions=*/false);
  return too_deep ? nlohmann::json(nlohmann::json::value_t::discarded) : json;
}

}  // namespace sbora::core
