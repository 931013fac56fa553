#include "worker/trainer/ops/quantize_weight.h"

#include <fmt/format.h>
#include <pthread.h>

#include <algorithm>
#include <cstring>
#include <thread>
#include <vector>

#include "common/check.h"
#include "common/status_macros.h"
#include "kernels/nf4/nf4.h"

namespace sbora::trainer {
namespace {

static_assert(core::kNf4BlockElements == kernels::kNf4BlockSize && core::kNf4GroupBlocks == kernels::kNf4GroupSize);

// Below this a second thread costs more than it saves.
constexpr int64_t kMinBlocksPerThread = 1024;

StatusOr<kernels::DType> KernelDType(core::DType dtype) {
  switch (dtype) {
    case core::DType::kF32: return kernels::DType::kF32;
    case core::DType::kF16: return kernels::DType::kF16;
    case core::DType::kBF16: return kernels::DType::kBF16;
    case core::DType::kBool: case core::DType::kU8: case core::DType::kI8: case core::DType::kI16:
    case core::DType::kU16: case core::DType::kI32: case core::DType::kU32: case core::DType::kF64:
    case core::DType::kI64: case core::DType::kU64: break;
  }
  return InvalidArgument("DTYPE_UNSUPPORTED", fmt::format("{} is no weight dtype", core::DTypeName(dtype)));
}

}  // namespace

void OverNf4Blocks(int64_t blocks, int threads, const std::function<void(int64_t first_block, int64_t end_block)>& work) {
  const int64_t pieces = std::clamp<int64_t>(blocks / kMinBlocksPerThread, 1, std::max(1, threads));
  std::vector<std::jthread> others;
  for (int64_t piece = 1; piece < pieces; ++piece) {
    others.emplace_back([&work, piece, pieces, blocks] {
      pthread_setname_np(pthread_self(), "quantise");
      work(blocks * piece / pieces, blocks * (piece + 1) / pieces);
    });
  }
  work(0, blocks / pieces);
}

StatusOr<core::Nf4Parts> QuantizeWeight(const core::TensorView& weight, bool double_quantization, int threads) {
  SBORA_ASSIGN_OR_RETURN(const kernels::DType dtype, KernelDType(weight.dtype));
  const int64_t elements = weight.elements();
  const int64_t blocks = kernels::Nf4Blocks(elements);
  // The mapping may be unaligned for the dtype.
  std::vector<float> aligned((weight.data.size() + sizeof(float) - 1) / sizeof(float));
  if (!weight.data.empty()) std::memcpy(aligned.data(), weight.data.data(), weight.data.size());
  const auto* source = reinterpret_cast<const std::byte*>(aligned.data());
  core::Nf4Parts parts;
  parts.codes.resize(static_cast<size_t>(kernels::Nf4CodeBytes(elements)));
  parts.scales.resize(static_cast<size_t>(blocks));
  OverNf4Blocks(blocks, threads, [&](int64_t first, int64_t end) {
    const int64_t begin = first * kernels::kNf4BlockSize;
    const int64_t count = std::min(elements, end * kernels::kNf4BlockSize) - begin;
    const Status status = kernels::QuantizeNf4(
        kernels::Device::kCpu, count, dtype, source + static_cast<size_t>(begin) * kernels::SizeOf(dtype),
        parts.codes.data() + begin / 2, parts.scales.data() + first);
    SBORA_CHECK(status.ok(), "quantising: {}", status.ToString());
  });
  SBORA_RETURN_IF_ERROR(kernels::CheckScales(parts.scales));
  if (!double_quantization) return parts;
  parts.scale_codes.resize(static_cast<size_t>(blocks));
  parts.group_scales.resize(static_cast<size_t>(kernels::Nf4Groups(blocks)));
  parts.offset.resize(1);
  SBORA_RETURN_IF_ERROR(kernels::QuantizeScales(kernels::Device::kCpu, blocks, parts.scales.data(),
                                                parts.scale_codes.data(), parts.group_scales.data(),
                                                parts.offset.data()));
  parts.scales.clear();
  return parts;
}

}  // namespace sbora::trainer
