/// Messages between agent and trainer: each is a varint length and then its bytes, on a local socket.
/// Neither class blocks, so a trainer that is stuck never holds up its supervisor. Not thread-safe.
#pragma once

#include <optional>
#include <string>

#include "common/status.h"
#include "sbora/trainer/v1/trainer.pb.h"

namespace sbora::agent {

/// Largest message taken; more is a protocol error.
inline constexpr size_t kMaxTrainerMessageBytes = 64 * 1024 * 1024;

/// Bytes in, messages out.
class FrameReader {
 public:
  /// Takes what the descriptor has now. False at end of file. Errors: DataLoss BAD_FRAME and those of read(2).
  StatusOr<bool> ReadAvailable(int fd);
  /// The next whole message; nullopt when more bytes are needed. DataLoss BAD_FRAME for bytes that are no message.
  StatusOr<std::optional<trainer::v1::TrainerMessage>> Next();
  void Append(std::string_view bytes) { buffer_.append(bytes); }

 private:
  std::string buffer_;
  size_t start_ = 0;  // consumed bytes at the front of buffer_
};

/// Messages in, bytes out as the socket takes them.
class FrameWriter {
 public:
  void Push(const trainer::v1::AgentMessage& message);
  /// Writes as much as the socket takes now. A closed peer is no error: its exit tells the story.
  Status Flush(int fd);
  bool empty() const { return pending_.empty(); }
  size_t pending_bytes() const { return pending_.size(); }

 private:
  std::string pending_;
};

}  // namespace sbora::agent
