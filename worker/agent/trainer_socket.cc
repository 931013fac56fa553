#include "worker/agent/trainer_socket.h"

#include <fmt/format.h>
#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>

namespace sbora::agent {

StatusOr<bool> FrameReader::ReadAvailable(int fd) {
  std::array<char, 64 * 1024> piece;
  while (true) {
    const ssize_t got = ::recv(fd, piece.data(), piece.size(), MSG_DONTWAIT);
    if (got == 0) return false;
    if (got > 0) {
      buffer_.append(piece.data(), static_cast<size_t>(got));
      if (buffer_.size() - start_ > kMaxTrainerMessageBytes) return true;  // let the caller take messages out first
      continue;
    }
    if (errno == EINTR) continue;
    if (errno == EAGAIN || errno == EWOULDBLOCK) return true;
    if (errno == ECONNRESET) return false;
    return FromErrno(errno, "reading from the trainer");
  }
}

StatusOr<std::optional<trainer::v1::TrainerMessage>> FrameReader::Next() {
  uint64_t size = 0;
  size_t header = 0;
  while (true) {
    if (start_ + header >= buffer_.size()) return std::optional<trainer::v1::TrainerMessage>();
    const auto byte = static_cast<unsigned char>(buffer_[start_ + header]);
    size |= static_cast<uint64_t>(byte & 0x7f) << (7 * header);
    ++header;
    if ((byte & 0x80) == 0) break;
    if (header == 5) return DataLoss("BAD_FRAME", "the trainer sent a length of more than 5 bytes");
  }
  if (size > kMaxTrainerMessageBytes) {
    return DataLoss("BAD_FRAME", fmt::format("the trainer sent a message of {} bytes; at most {} are taken", size,
                                             kMaxTrainerMessageBytes));
  }
  if (buffer_.size() - start_ - header < size) return std::optional<trainer::v1::TrainerMessage>();
  trainer::v1::TrainerMessage message;
  if (!message.ParseFromArray(buffer_.data() + start_ + header, static_cast<int>(size))) {
    return DataLoss("BAD_FRAME", fmt::format("the trainer sent {} bytes that are no TrainerMessage", size));
  }
  start_ += header + size;
  if (start_ == buffer_.size() || start_ > 1024 * 1024) {
    buffer_.erase(0, start_);
    start_ = 0;
  }
  return std::optional<trainer::v1::TrainerMessage>(std::move(message));
}

void FrameWriter::Push(const trainer::v1::AgentMessage& message) {
  google::protobuf::io::StringOutputStream stream(&pending_);
  google::protobuf::io::CodedOutputStream out(&stream);
  out.WriteVarint32(static_cast<uint32_t>(message.ByteSizeLong()));
  message.SerializeToCodedStream(&out);
}

Status FrameWriter::Flush(int fd) {
  while (!pending_.empty()) {
    const ssize_t sent = ::send(fd, pending_.data(), pending_.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent > 0) {
      pending_.erase(0, static_cast<size_t>(sent));
      continue;
    }
    if (errno == EINTR) continue;
    if (errno == EAGAIN || errno == EWOULDBLOCK) return OkStatus();
    if (errno == EPIPE || errno == ECONNRESET) {
      pending_.clear();
      return OkStatus();
    }
    return FromErrno(errno, "writing to the trainer");
  }
  return OkStatus();
}

}  // namespace sbora::agent
