#include "worker/trainer/link/frame.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>

#include "common/status_macros.h"

namespace sbora::trainer {
namespace {

constexpr int kMaxVarintBytes = 10;

/// Reads exactly `size` bytes; false at an end of file before the first.
StatusOr<bool> ReadExactly(int fd, char* out, size_t size) {
  size_t done = 0;
  while (done < size) {
    const ssize_t got = ::read(fd, out + done, size - done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return FromErrno(errno, "reading from the agent");
    if (got == 0) {
      if (done == 0) return false;
      return DataLoss("FRAME_TRUNCATED", fmt::format("the stream ended after {} of {} bytes", done, size));
    }
    done += static_cast<size_t>(got);
  }
  return true;
}

}  // namespace

std::string EncodeFrame(std::string_view message) {
  std::string frame;
  frame.reserve(message.size() + kMaxVarintBytes);
  uint64_t length = message.size();
  while (length >= 0x80) {
    frame.push_back(static_cast<char>((length & 0x7F) | 0x80));
    length >>= 7;
  }
  frame.push_back(static_cast<char>(length));
  frame.append(message);
  return frame;
}

StatusOr<std::optional<std::string>> ReadFrame(int fd) {
  uint64_t length = 0;
  for (int i = 0;; ++i) {
    if (i == kMaxVarintBytes) return DataLoss("FRAME_MALFORMED", "a message length has more than 10 bytes");
    char byte = 0;
    SBORA_ASSIGN_OR_RETURN(const bool there, ReadExactly(fd, &byte, 1));
    if (!there) {
      if (i == 0) return std::optional<std::string>();
      return DataLoss("FRAME_TRUNCATED", "the stream ended inside a message length");
    }
    length |= static_cast<uint64_t>(static_cast<unsigned char>(byte) & 0x7F) << (7 * i);
    if ((static_cast<unsigned char>(byte) & 0x80) == 0) break;
  }
  if (length > static_cast<uint64_t>(kMaxFrameBytes)) {
    return DataLoss("FRAME_TOO_LARGE", fmt::format("a message of {} bytes is larger than {}", length, kMaxFrameBytes));
  }
  std::string message(length, '\0');
  if (length > 0) {
    SBORA_ASSIGN_OR_RETURN(const bool there, ReadExactly(fd, message.data(), message.size()));
    if (!there) return DataLoss("FRAME_TRUNCATED", fmt::format("the stream ended before {} bytes of a message", length));
  }
  return std::optional<std::string>(std::move(message));
}

}  // namespace sbora::trainer
