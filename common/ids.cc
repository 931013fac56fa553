#include "common/ids.h"

#include <openssl/rand.h>

#include <array>
#include <chrono>
#include <cstdint>
#include <span>

namespace sbora {
namespace {

using Bytes16 = std::array<uint8_t, 16>;

void FillRandom(std::span<uint8_t> out) {
  SBORA_CHECK(RAND_bytes(out.data(), static_cast<int>(out.size())) == 1, "the system has no random bytes");
}

std::string Format(Bytes16 bytes, uint8_t version) {
  bytes[6] = static_cast<uint8_t>((bytes[6] & 0x0F) | (version << 4));
  bytes[8] = static_cast<uint8_t>((bytes[8] & 0x3F) | 0x80);
  static constexpr char kHex[] = "0123456789abcdef";
  std::string text;
  text.reserve(36);
  for (size_t i = 0; i < bytes.size(); ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text.push_back('-');
    text.push_back(kHex[bytes[i] >> 4]);
    text.push_back(kHex[bytes[i] & 0x0F]);
  }
  return text;
}

bool IsLowerAlnum(char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); }

}  // namespace

std::string NewUuid4() {
  Bytes16 bytes;
  FillRandom(bytes);
  return Format(bytes, 4);
}

std::string NewUuid7() {
  Bytes16 bytes;
  FillRandom(bytes);
  const auto millis = static_cast<uint64_t>(
      std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::system_clock::now().time_since_epoch()).count());
  for (size_t i = 0; i < 6; ++i) bytes[i] = static_cast<uint8_t>(millis >> (40 - 8 * i));
  return Format(bytes, 7);
}

bool IsUuid(std::string_view text) {
  if (text.size() != 36) return false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (i == 8 || i == 13 || i == 18 || i == 23) {
      if (c != '-') return false;
    } else if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'))) {
      return false;
    }
  }
  return true;
}

Status CheckResourceId(std::string_view id, std::string_view field) {
  bool good = !id.empty() && id.size() <= 63 && id.front() >= 'a' && id.front() <= 'z' && IsLowerAlnum(id.back());
  for (const char c : id) good = good && (IsLowerAlnum(c) || c == '-');
  if (good) return OkStatus();
  static constexpr std::string_view kRule =
      "1 to 63 characters: lower-case letters, digits and dashes, starting with a letter, not ending with a dash";
  return InvalidArgument("BAD_RESOURCE_ID", fmt::format("{}='{}' is not a resource id ({})", field, id.substr(0, 80), kRule))
      .WithMetadata("id", std::string(id.substr(0, 80)))
      .WithViolation(field, std::string(kRule));
}

std::string NewResourceId() {
  static constexpr std::array<std::string_view, 32> kFirst = {
      "amber", "brave", "brisk", "calm",  "clear", "crisp", "early", "fair",  "fresh", "gentle", "glad",
      "grand", "keen",  "kind",  "light", "lucid", "merry", "mild",  "neat",  "noble", "plain",  "prime",
      "quick", "quiet", "rapid", "ready", "sharp", "solid", "still", "sunny", "swift", "vivid"};
  static constexpr std::array<std::string_view, 32> kSecond = {
      "acorn", "aspen", "badger", "birch", "brook", "cedar", "comet", "crane", "delta", "ember", "falcon",
      "fern",  "finch", "fjord",  "grove", "heron", "ibis",  "lake",  "larch", "lynx",  "maple", "marten",
      "otter", "owl",   "pine",   "plum",  "raven", "reef",  "robin", "sedge", "stone", "wren"};
  std::array<uint8_t, 5> random;
  FillRandom(random);
  return fmt::format("{}-{}-{:02x}{:02x}{:02x}", kFirst[random[0] % kFirst.size()], kSecond[random[1] % kSecond.size()],
                     random[2], random[3], random[4]);
}

}  // namespace sbora
