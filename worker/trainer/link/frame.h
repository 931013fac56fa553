/// Messages on a byte stream: each is a varint length and then its bytes, as protobuf's delimited streams.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "common/status.h"

namespace sbora::trainer {

/// Longer frames are refused: nothing legal is near it (a task with all its indices stays below 32 MiB).
inline constexpr int64_t kMaxFrameBytes = int64_t{256} << 20;

/// Length and bytes, ready to write.
std::string EncodeFrame(std::string_view message);

/// Blocks for the next message; nothing at end of file between messages. Restarts after signals.
/// Errors: DATA_LOSS FRAME_TRUNCATED, FRAME_TOO_LARGE, FRAME_MALFORMED; file system errors by errno.
/// Threading: one reader per descriptor.
StatusOr<std::optional<std::string>> ReadFrame(int fd);

}  // namespace sbora::trainer
