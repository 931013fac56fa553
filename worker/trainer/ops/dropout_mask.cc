#include "worker/trainer/ops/dropout_mask.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <cmath>
#include <string>

#include "common/check.h"

namespace sbora::trainer::ops {
namespace {

/// Draws below this are dropped: P(u32 < threshold) = p to within 2^-32.
uint32_t Threshold(float probability) { return static_cast<uint32_t>(std::lround(double{probability} * 4294967295.0)); }

struct MaskSource {
  const DropoutRows& rows;
  uint32_t module;
  uint32_t threshold;
  float keep;  // 1 / (1 - p)

  core::PhiloxCounter Draw(int64_t row, uint32_t group) const {
    const auto t = static_cast<size_t>(row);
    const uint64_t sample = rows.sample_T[t];
    const core::PhiloxKey key{rows.key[0] ^ static_cast<uint32_t>(sample >> 32), rows.key[1]};
    return core::Philox4x32({group, rows.position_T[t], module, static_cast<uint32_t>(sample)}, key);
  }
  float Value(uint32_t draw) const { return draw < threshold ? 0.0f : keep; }
};

MaskSource MakeSource(const DropoutRows& rows, int64_t row_count, uint32_t module, float probability) {
  SBORA_CHECK(probability >= 0 && probability < 1, "dropout probability {} is outside [0, 1)", probability);
  SBORA_CHECK(static_cast<int64_t>(rows.sample_T.size()) == row_count && rows.position_T.size() == rows.sample_T.size(),
              "dropout rows: {} samples and {} positions for {} rows", rows.sample_T.size(), rows.position_T.size(),
              row_count);
  return {rows, module, Threshold(probability), 1.0f / (1.0f - probability)};
}

constexpr int64_t kRowsPerTask = 16;

at::Tensor ColumnMask(int64_t row_count, std::span<const int32_t> features, const MaskSource& source) {
  const auto columns = static_cast<int64_t>(features.size());
  at::Tensor mask = at::empty({row_count, columns}, at::kFloat);
  float* out = mask.mutable_data_ptr<float>();
  at::parallel_for(0, row_count, kRowsPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      for (int64_t j = 0; j < columns; ++j) {
        const auto feature = static_cast<uint32_t>(features[static_cast<size_t>(j)]);
        out[row * columns + j] = source.Value(source.Draw(row, feature >> 2)[feature & 3]);
      }
    }
  });
  return mask;
}

}  // namespace

core::PhiloxKey MakeDropoutKey(uint64_t seed, int64_t epoch) {
  return core::DeriveKey("sbora.dropout.v1", seed, std::to_string(epoch));
}

void ApplyMaskToColumns(at::Tensor& x_TR, std::span<const int32_t> features, const DropoutRows& rows, uint32_t module,
                        float probability) {
  const MaskSource source = MakeSource(rows, x_TR.size(0), module, probability);
  SBORA_CHECK(x_TR.size(1) == static_cast<int64_t>(features.size()), "{} columns, {} features", x_TR.size(1),
              features.size());
  // Drawn on the host for every device: the draws are the contract, and r columns are few.
  x_TR.mul_(ColumnMask(x_TR.size(0), features, source).to(x_TR.device(), x_TR.scalar_type()));
}

at::Tensor FullMask(const at::Tensor& x_TI, const DropoutRows& rows, uint32_t module, float probability) {
  const MaskSource source = MakeSource(rows, x_TI.size(0), module, probability);
  const int64_t columns = x_TI.size(1);
  at::Tensor mask = at::empty({x_TI.size(0), columns}, at::kFloat);
  float* out = mask.mutable_data_ptr<float>();
  at::parallel_for(0, x_TI.size(0), kRowsPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      float* target = out + row * columns;
      int64_t column = 0;
      for (uint32_t group = 0; column < columns; ++group) {
        const core::PhiloxCounter draws = source.Draw(row, group);
        for (size_t lane = 0; lane < 4 && column < columns; ++lane, ++column) target[column] = source.Value(draws[lane]);
      }
    }
  });
  return mask.to(x_TI.device(), x_TI.scalar_type());
}

}  // namespace sbora::trainer::ops
