/// The mean of the scales in one fixed order of additions, which is PyTorch's on one thread (so that the offset equals
/// bitsandbytes' in every bit): 32 interleaved lanes, each summed in chunks of chunks, then added up. C++17, for nvcc too.
#pragma once

#include <cstdint>

namespace sbora::kernels::internal {

constexpr int kMeanLevels = 4;
constexpr int64_t kMeanVector = 8;  ///< lanes of a vector
constexpr int64_t kMeanRows = 4;    ///< vectors side by side

/// max(4, ceil(log2(count)) / 4): a chunk has 2 to this many elements.
constexpr int ChunkPower(int64_t count) {
  int bits = 1;
  while ((int64_t{1} << bits) < count) ++bits;
  return bits / kMeanLevels < 4 ? 4 : bits / kMeanLevels;
}

/// Sum of `count` values `stride` apart. Level 0 adds up a chunk; a full chunk moves up a level, as digits carry.
constexpr float LaneSum(const float* values, int64_t count, int64_t stride) {
  const int power = ChunkPower(count);
  const int64_t chunk = int64_t{1} << power;
  float level[kMeanLevels] = {};
  int64_t done = 0;
  while (done + chunk <= count) {
    for (int64_t i = 0; i < chunk; ++i) level[0] += values[done++ * stride];
    for (int upper = 1; upper < kMeanLevels; ++upper) {
      level[upper] += level[upper - 1];
      level[upper - 1] = 0;
      if ((done & ((chunk - 1) << (upper * power))) != 0) break;
    }
  }
  for (; done < count; ++done) level[0] += values[done * stride];
  return ((level[0] + level[1]) + level[2]) + level[3];
}

/// From the sums of the lanes to the mean. lanes[k * width + v] is lane v of row k.
constexpr float MeanOfLanes(const float* values, int64_t count, const float* lanes) {
  const int64_t width = count >= kMeanVector ? kMeanVector : 1;
  const int64_t vectors = count / width;
  float sum = 0;
  for (int64_t i = vectors * width; i < count; ++i) sum += values[i];
  for (int64_t v = 0; v < width; ++v) {
    float lane = lanes[v];
    for (int64_t i = vectors / kMeanRows * kMeanRows; i < vectors; ++i) lane += values[i * width + v];
    for (int64_t k = 1; k < kMeanRows; ++k) lane += lanes[k * width + v];
    sum += lane;
  }
  return sum / static_cast<float>(count);
}

/// REQUIRED: count > 0.
constexpr float Mean(const float* values, int64_t count) {
  const int64_t width = count >= kMeanVector ? kMeanVector : 1;
  float lanes[kMeanVector * kMeanRows] = {};
  for (int64_t i = 0; i < width * kMeanRows; ++i) {
    lanes[i] = LaneSum(values + i, count / width / kMeanRows, width * kMeanRows);
  }
  return MeanOfLanes(values, count, lanes);
}

}  // namespace sbora::kernels::internal
