/// Which samples of several data sets an epoch trains on. A pure function of (options, epoch, position): any resume and
/// any world size see the same samples.
///
/// An epoch has a fixed number of samples of each data set, its count, in an order of the epoch's own. A data set's
/// samples come in passes, each a permutation of its own; a pass goes on in the next epoch where the last one left it.
/// So no sample comes again before all of its data set have come, and after any number of epochs two samples of a data
/// set have come equally often, or one of them once more. With counts equal to the sizes an epoch draws each sample
/// once.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace sbora::data {

/// Samples of each data set in an epoch of `epoch_samples` (0: the sum of `sizes`), by largest remainders, ties to the
/// earlier one; a small weight in a short epoch can give 0. `weights` empty: by `sizes`.
/// REQUIRED: sizes and weights above 0, weights empty or as many as sizes.
std::vector<int64_t> MixtureCounts(std::span<const int64_t> sizes, std::span<const double> weights,
                                   int64_t epoch_samples);

/// A sample as it is drawn: `sample` in [0, sum of sizes), data sets one after the other; `repeat` tells draws of the
/// same sample in one epoch apart, from 0.
struct MixtureDraw {
  int64_t sample = 0;
  int64_t repeat = 0;

  bool operator==(const MixtureDraw&) const = default;
};

/// Copyable, immutable, thread-safe.
class MixtureOrder {
 public:
  /// REQUIRED: as many counts as sizes, at least one, all above 0.
  MixtureOrder(std::vector<int64_t> sizes, std::vector<int64_t> counts, uint64_t seed);

  int64_t epoch_samples() const { return epoch_samples_; }
  /// REQUIRED: epoch >= 0, 0 <= position < epoch_samples().
  MixtureDraw Draw(int64_t epoch, int64_t position) const;

 private:
  struct Part {
    int64_t first_sample = 0;
    int64_t size = 0;
    int64_t first_slot = 0;  ///< of the epoch's slots, before they are permuted
    int64_t count = 0;
    uint64_t seed = 0;
  };

  std::vector<Part> parts_;
  int64_t epoch_samples_ = 0;
  uint64_t seed_ = 0;
};

}  // namespace sbora::data
