/// Counter-based random numbers: a value is a pure function of (key, counter), so there is no state to save, and any
/// world size and any resume see the same numbers.
///
/// Primitive: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), whose published
/// test vectors are in the tests. All functions are pure and thread-safe.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

#include "common/check.h"

namespace sbora::core {

using PhiloxCounter = std::array<uint32_t, 4>;
using PhiloxKey = std::array<uint32_t, 2>;

/// Ten rounds.
constexpr PhiloxCounter Philox4x32(PhiloxCounter counter, PhiloxKey key) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = uint64_t{0xD2511F53u} * counter[0];
    const uint64_t product1 = uint64_t{0xCD9E8D57u} * counter[2];
    counter = {static_cast<uint32_t>(product1 >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(product1),
               static_cast<uint32_t>(product0 >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(product0)};
    key = {key[0] + 0x9E3779B9u, key[1] + 0xBB67AE85u};
  }
  return counter;
}

/// A key for one purpose: the first 8 bytes of SHA-256(domain, 0x00, seed as 8 little-endian bytes, name). Different
/// domains or names give unrelated streams of one seed.
PhiloxKey DeriveKey(std::string_view domain, uint64_t seed, std::string_view name = {});

/// The numbers of one key and stream in order: counters (0, stream), (1, stream), ...
class PhiloxStream {
 public:
  explicit PhiloxStream(PhiloxKey key, uint64_t stream = 0) : key_(key), stream_(stream) {}

  uint32_t NextU32();
  /// Low word first.
  uint64_t NextU64();
  /// Uniform in [0, bound), without bias (rejection). REQUIRED: bound > 0.
  uint64_t Below(uint64_t bound);
  /// Uniform in [0, 1), 24 bits.
  float NextFloat();
  /// Standard normal (Box-Muller; cosine branch only).
  float NextNormal();

 private:
  PhiloxKey key_;
  uint64_t stream_;
  uint64_t block_ = 0;
  PhiloxCounter words_{};
  int used_ = 4;
};

/// A bijection of [0, n) with O(1) random access: an eight-round Feistel network over Philox with cycle walking.
/// Position p of an epoch's order is operator()(p). Part of the data-order contract: never change without a new domain.
class SeededPermutation {
 public:
  /// REQUIRED: n >= 0.
  SeededPermutation(uint64_t seed, uint64_t epoch, int64_t n);
  /// REQUIRED: 0 <= position < n.
  int64_t operator()(int64_t position) const;
  int64_t size() const { return n_; }

 private:
  uint64_t Encrypt(uint64_t value) const;

  PhiloxKey key_;
  uint64_t epoch_;
  int64_t n_;
  int half_bits_ = 0;
};

}  // namespace sbora::core
