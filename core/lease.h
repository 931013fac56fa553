/// The right of one worker to run one attempt of one piece of work. The epoch rises with every lease of the work and
/// never repeats, so that a write of an old holder is known by its number alone.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

#include "common/clock.h"

namespace sbora::core {

struct LeaseId {
  std::string uid;
  int64_t epoch = 0;
  bool operator==(const LeaseId&) const = default;
};

/// All times are on monotonic clocks. Invariant checked by the scheduler: renew < self_fence, 2 * self_fence <= lease <=
/// redispatch. The factor is the margin for clocks that run at different rates, and for a machine that stood still.
struct LeaseTiming {
  Duration renew_every = std::chrono::seconds(5);
  /// Without a renewal for this long the agent kills the gang at once.
  Duration self_fence = std::chrono::seconds(30);
  /// Without a renewal for this long the coordinator ends the lease.
  Duration lease = std::chrono::seconds(60);
  /// After the last renewal, before the same work may be granted again.
  Duration redispatch = std::chrono::seconds(65);
  /// Without a progress tick for this long the agent calls the gang hung.
  Duration hang = std::chrono::seconds(120);
};

inline constexpr size_t kMaxGangAddressBytes = 255;
/// A host name or an address without a port, as far as its characters tell: no URL, no spaces, not too long. Empty is one too:
/// such a worker takes no part in gangs over several.
inline bool IsGangAddress(std::string_view text) {
  const auto good = [](unsigned char c) { return c > ' ' && c != 0x7f && c != '/'; };
  return text.size() <= kMaxGangAddressBytes && std::all_of(text.begin(), text.end(), good);
}

}  // namespace sbora::core
