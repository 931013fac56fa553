#include "data/utf8.h"

namespace sbora::data {

int64_t FirstBadUtf8(std::string_view text) {
  const auto byte = [&](size_t i) { return i < text.size() ? static_cast<uint8_t>(text[i]) : uint8_t{0}; };
  for (size_t i = 0; i < text.size();) {
    const uint8_t lead = byte(i);
    size_t extra = 0;
    uint8_t low = 0x80;
    uint8_t high = 0xBF;
    if (lead < 0x80) {
      ++i;
      continue;
    }
    if (lead >= 0xC2 && lead <= 0xDF) {
      extra = 1;
    } else if (lead >= 0xE0 && lead <= 0xEF) {
      extra = 2;
      if (lead == 0xE0) low = 0xA0;
      if (lead == 0xED) high = 0x9F;
    } else if (lead >= 0xF0 && lead <= 0xF4) {
      extra = 3;
      if (lead == 0xF0) low = 0x90;
      if (lead == 0xF4) high = 0x8F;
    } else {
      return static_cast<int64_t>(i);
    }
    for (size_t k = 1; k <= extra; ++k) {
      const bool first = k == 1;
      if (byte(i + k) < (first ? low : 0x80) || byte(i + k) > (first ? high : 0xBF)) return static_cast<int64_t>(i);
    }
    i += extra + 1;
  }
  return -1;
}

}  // namespace sbora::data
