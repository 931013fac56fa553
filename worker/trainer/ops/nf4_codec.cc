#include "worker/trainer/ops/nf4_codec.h"

#include <fmt/format.h>

#include "common/status_macros.h"
#include "kernels/nf4/nf4.h"
#include "worker/trainer/ops/quantize_weight.h"

namespace sbora::trainer {
namespace {

StatusOr<std::vector<float>> Scales(const core::Nf4Parts& parts) {
  if (!parts.scales.empty()) return parts.scales;
  std::vector<float> scales(parts.scale_codes.size());
  const auto blocks = std::ssize(scales);
  if (std::ssize(parts.group_scales) != kernels::Nf4Groups(blocks) || parts.offset.size() != 1) {
    return InvalidArgument("NF4_SHAPE", fmt::format("{} group scales and {} offsets for {} blocks", parts.group_scales.size(),
                                                    parts.offset.size(), blocks));
  }
  SBORA_RETURN_IF_ERROR(kernels::DequantizeScales(kernels::Device::kCpu, blocks, parts.scale_codes.data(),
                                                  parts.group_scales.data(), parts.offset.data(), scales.data()));
  return scales;
}

StatusOr<std::vector<float>> Dequantize(const core::Nf4Parts& parts, int64_t elements, int threads) {
  SBORA_ASSIGN_OR_RETURN(const std::vector<float> scales, Scales(parts));
  if (std::ssize(parts.codes) != kernels::Nf4CodeBytes(elements) || std::ssize(scales) != kernels::Nf4Blocks(elements)) {
    return InvalidArgument("NF4_SHAPE", fmt::format("{} bytes of codes and {} scales for {} weights", parts.codes.size(),
                                                    scales.size(), elements));
  }
  std::vector<float> values(static_cast<size_t>(elements));
  OverNf4Blocks(kernels::Nf4Blocks(elements), threads, [&](int64_t first, int64_t end) {
    const int64_t begin = first * kernels::kNf4BlockSize;
    const int64_t count = std::min(elements, end * kernels::kNf4BlockSize) - begin;
    const kernels::Nf4Matrix piece{.rows = 1, .columns = count, .stride = count, .first_element = begin,
                                   .dtype = kernels::DType::kF32};
    const Status status = kernels::DequantizeNf4(kernels::Device::kCpu, piece, parts.codes.data(), scales.data(),
                                                 values.data() + begin);
    SBORA_CHECK(status.ok(), "de-quantising: {}", status.ToString());
  });
  return values;
}

}  // namespace

core::Nf4Codec MakeNf4Codec(int threads) {
  return {.dequantize = [threads](const core::Nf4Parts& parts, int64_t elements) { return Dequantize(parts, elements, threads); },
          .quantize = [](std::span<const float> values) {
            const core::TensorView view{.name = "row", .dtype = core::DType::kF32,
                                        .shape = {static_cast<int64_t>(values.size())}, .data = std::as_bytes(values)};
            return QuantizeWeight(view, /*double_quantization=*/false, /*threads=*/1);
          }};
}

}  // namespace sbora::trainer
