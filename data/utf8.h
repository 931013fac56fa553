/// The one check of text that comes from outside.
#pragma once

#include <cstdint>
#include <string_view>

namespace sbora::data {

/// Offset of the first byte that is not UTF-8 (overlong forms, surrogates and values above U+10FFFF count), or -1.
int64_t FirstBadUtf8(std::string_view text);

}  // namespace sbora::data
