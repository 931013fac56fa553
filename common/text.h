/// Text that goes into messages.
#pragma once

#include <string>
#include <string_view>

namespace sbora {

/// At most `max_bytes` of UTF-8 `text`, never ending inside a character: protobuf refuses half ones when they are read.
inline std::string CutText(std::string_view text, size_t max_bytes) {
  if (text.size() <= max_bytes) return std::string(text);
  size_t end = max_bytes;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
  return std::string(text.substr(0, end));
}

}  // namespace sbora
