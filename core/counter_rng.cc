#include "core/counter_rng.h"

#include <bit>
#include <cmath>
#include <numbers>
#include <string>

#include "common/sha256.h"

namespace sbora::core {
namespace {

constexpr int kFeistelRounds = 8;

uint32_t HexWord(std::string_view hex) {
  uint32_t word = 0;
  for (size_t byte = 0; byte < 4; ++byte) {
    uint32_t value = 0;
    for (size_t i = 0; i < 2; ++i) {
      const char c = hex[2 * byte + i];
      value = value * 16 + static_cast<uint32_t>(c <= '9' ? c - '0' : c - 'a' + 10);
    }
    word |= value << (8 * byte);
  }
  return word;
}

}  // namespace

PhiloxKey DeriveKey(std::string_view domain, uint64_t seed, std::string_view name) {
  std::string text(domain);
  text.push_back('\0');
  for (int i = 0; i < 8; ++i) text.push_back(static_cast<char>((seed >> (8 * i)) & 0xFF));
  text.append(name);
  const std::string digest = Sha256Hex(text);
  return {HexWord(std::string_view(digest).substr(0, 8)), HexWord(std::string_view(digest).substr(8, 8))};
}

uint32_t PhiloxStream::NextU32() {
  if (used_ == 4) {
    words_ = Philox4x32({static_cast<uint32_t>(block_), static_cast<uint32_t>(block_ >> 32),
                         static_cast<uint32_t>(stream_), static_cast<uint32_t>(stream_ >> 32)}, key_);
    ++block_;
    used_ = 0;
  }
  return words_[static_cast<size_t>(used_++)];
}

uint64_t PhiloxStream::NextU64() {
  const uint64_t low = NextU32();
  return low | (uint64_t{NextU32()} << 32);
}

uint64_t PhiloxStream::Below(uint64_t bound) {
  SBORA_CHECK(bound > 0, "an empty range has no number");
  // 2^64 mod bound values at the bottom would make small results more likely: they are drawn again.
  const uint64_t threshold = (0 - bound) % bound;
  uint64_t value = NextU64();
  while (value < threshold) value = NextU64();
  return value % bound;
}

float PhiloxStream::NextFloat() { return static_cast<float>(NextU32() >> 8) * 0x1p-24f; }

float PhiloxStream::NextNormal() {
  const double u = (static_cast<double>(NextU32()) + 1.0) * 0x1p-32;  // (0, 1]: the logarithm is finite
  const double v = static_cast<double>(NextU32()) * 0x1p-32;
  return static_cast<float>(std::sqrt(-2.0 * std::log(u)) * std::cos(2.0 * std::numbers::pi * v));
}

SeededPermutation::SeededPermutation(uint64_t seed, uint64_t epoch, int64_t n)
    : key_(DeriveKey("sbora.permutation.v1", seed)), epoch_(epoch), n_(n) {
  SBORA_CHECK(n >= 0, "a permutation of {} elements", n);
  const int bits = n <= 2 ? 1 : static_cast<int>(std::bit_width(static_cast<uint64_t>(n - 1)));
  half_bits_ = (bits + 1) / 2;
}

uint64_t SeededPermutation::Encrypt(uint64_t value) const {
  const uint64_t mask = (uint64_t{1} << half_bits_) - 1;
  uint64_t left = value >> half_bits_;
  uint64_t right = value & mask;
  for (uint32_t round = 0; round < kFeistelRounds; ++round) {
    const auto words = Philox4x32({static_cast<uint32_t>(right), round, static_cast<uint32_t>(epoch_),
                                   static_cast<uint32_t>(epoch_ >> 32)}, key_);
    const uint64_t mixed = left ^ (words[0] & mask);
    left = right;
    right = mixed;
  }
  return (left << half_bits_) | right;
}

int64_t SeededPermutation::operator()(int64_t position) const {
  SBORA_CHECK(position >= 0 && position < n_, "position {} is outside [0, {})", position, n_);
  // The network permutes a power of four >= n (at most 4 n): values outside [0, n) are walked through, and the walk
  // ends because the cycle returns to `position` at the latest.
  auto value = static_cast<uint64_t>(position);
  do {
    value = Encrypt(value);
  } while (value >= static_cast<uint64_t>(n_));
  return static_cast<int64_t>(value);
}

}  // namespace sbora::core
