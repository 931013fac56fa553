#include "worker/agent/trainer_socket.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/file.h"

namespace sbora::agent {
namespace {

std::string Frame(const trainer::v1::TrainerMessage& message) {
  const std::string bytes = message.SerializeAsString();
  std::string frame;
  size_t size = bytes.size();
  for (; size > 0x7f; size >>= 7) frame += static_cast<char>(size | 0x80);
  return frame + static_cast<char>(size) + bytes;
}

TEST(FrameReaderTest, MessagesComeOutWhereverTheBytesAreCut) {
  trainer::v1::TrainerMessage small, large;
  small.mutable_progress()->set_ticks(1);
  large.mutable_event()->set_message(std::string(1000, 'x'));
  const std::string bytes = Frame(small) + Frame(large) + Frame(small);
  for (size_t cut = 0; cut <= bytes.size(); ++cut) {
    FrameReader reader;
    int messages = 0;
    for (const std::string& piece : {bytes.substr(0, cut), bytes.substr(cut)}) {
      reader.Append(piece);
      while (true) {
        auto message = reader.Next();
        ASSERT_TRUE(message.ok());
        if (!message->has_value()) break;
        ++messages;
      }
    }
    ASSERT_EQ(messages, 3) << "cut at " << cut;
  }
}

TEST(FrameReaderTest, BadBytesAreRefused) {
  for (const std::string& bytes : {std::string("\xff\xff\xff\xff\xff\x01"), std::string("\xff\xff\xff\xff\x0f"),
                                   std::string("\x02\xff\xff")}) {
    FrameReader reader;
    reader.Append(bytes);
    EXPECT_EQ(reader.Next().status().reason(), "BAD_FRAME");
  }
}

TEST(FrameWriterTest, NeverBlocksOnAReaderThatSleeps) {
  int fds[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
  const UniqueFd ours(fds[0]);
  UniqueFd theirs(fds[1]);
  trainer::v1::AgentMessage message;
  message.mutable_task()->set_job(std::string(8'000'000, 'x'));
  FrameWriter writer;
  writer.Push(message);
  ASSERT_TRUE(writer.Flush(ours.get()).ok());
  EXPECT_FALSE(writer.empty());
  theirs.Reset();
  EXPECT_TRUE(writer.Flush(ours.get()).ok());  // a closed peer is no error
  EXPECT_TRUE(writer.empty());
}

}  // namespace
}  // namespace sbora::agent
