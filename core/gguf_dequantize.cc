// Block formats as ggml defines them: 32 weights share a scale d (half) and, in the _1 formats, a minimum m (half). The
// low nibbles of a block's 16 bytes are weights 0..15, the high nibbles 16..31.
#include <fmt/format.h>

#include <cstring>

#include "common/status_macros.h"
#include "core/dtype.h"
#include "core/gguf.h"

namespace sbora::core {
namespace {

constexpr size_t kBlock = 32;

uint8_t Byte(const std::byte* p) { return std::to_integer<uint8_t>(*p); }

float Half(const std::byte* p) {
  uint16_t bits = 0;
  std::memcpy(&bits, p, 2);
  return F16ToFloat(bits);
}

void Q4Block(const std::byte* block, bool with_min, float* out) {
  const float d = Half(block);
  const float m = with_min ? Half(block + 2) : 0.0f;
  const std::byte* nibbles = block + (with_min ? 4 : 2);
  const int offset = with_min ? 0 : 8;
  for (size_t j = 0; j < 16; ++j) {
    const int byte = Byte(nibbles + j);
    out[j] = static_cast<float>((byte & 0xF) - offset) * d + m;
    out[j + 16] = static_cast<float>((byte >> 4) - offset) * d + m;
  }
}

void Q5Block(const std::byte* block, bool with_min, float* out) {
  const float d = Half(block);
  const float m = with_min ? Half(block + 2) : 0.0f;
  const std::byte* high = block + (with_min ? 4 : 2);
  uint32_t fifth = 0;
  std::memcpy(&fifth, high, 4);
  const int offset = with_min ? 0 : 16;
  for (size_t j = 0; j < 16; ++j) {
    const int byte = Byte(high + 4 + j);
    const int low = (byte & 0xF) | static_cast<int>(((fifth >> j) & 1u) << 4);
    const int up = (byte >> 4) | static_cast<int>(((fifth >> (j + 16)) & 1u) << 4);
    out[j] = static_cast<float>(low - offset) * d + m;
    out[j + 16] = static_cast<float>(up - offset) * d + m;
  }
}

void Q8Block(const std::byte* block, float* out) {
  const float d = Half(block);
  for (size_t j = 0; j < kBlock; ++j) out[j] = static_cast<float>(static_cast<int8_t>(Byte(block + 2 + j))) * d;
}

}  // namespace

std::string GgmlTypeName(uint32_t type) {
  constexpr std::string_view kNames[] = {
      "F32",  "F16",     "Q4_0",   "Q4_1",    "Q4_2", "Q4_3",   "Q5_0",  "Q5_1",  "Q8_0",   "Q8_1", "Q2_K",
      "Q3_K", "Q4_K",    "Q5_K",   "Q6_K",    "Q8_K", "IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S", "IQ4_NL", "IQ3_S",
      "IQ2_S", "IQ4_XS", "I8",     "I16",     "I32",  "I64",    "F64",   "IQ1_M", "BF16"};
  if (type < std::size(kNames)) return std::string(kNames[type]);
  return fmt::format("type {}", type);
}

StatusOr<std::vector<float>> Dequantize(const GgufTensor& tensor) {
  std::vector<float> out;
  const std::byte* data = tensor.data.data();
  const auto resize = [&] { out.resize(static_cast<size_t>(tensor.elements())); };
  const auto blocks = static_cast<size_t>(tensor.elements()) / kBlock;
  switch (static_cast<GgmlType>(tensor.type)) {
    case GgmlType::kF32:
    case GgmlType::kF16:
    case GgmlType::kBF16: {
      resize();
      const DType dtype = tensor.type == 0 ? DType::kF32 : tensor.type == 1 ? DType::kF16 : DType::kBF16;
      SBORA_RETURN_IF_ERROR(ToFloat(dtype, tensor.data, out));
      return out;
    }
    case GgmlType::kQ4_0:
      resize();
      for (size_t i = 0; i < blocks; ++i) Q4Block(data + i * 18, false, &out[i * kBlock]);
      return out;
    case GgmlType::kQ4_1:
      resize();
      for (size_t i = 0; i < blocks; ++i) Q4Block(data + i * 20, true, &out[i * kBlock]);
      return out;
    case GgmlType::kQ5_0:
      resize();
      for (size_t i = 0; i < blocks; ++i) Q5Block(data + i * 22, false, &out[i * kBlock]);
      return out;
    case GgmlType::kQ5_1:
      resize();
      for (size_t i = 0; i < blocks; ++i) Q5Block(data + i * 24, true, &out[i * kBlock]);
      return out;
    case GgmlType::kQ8_0:
      resize();
      for (size_t i = 0; i < blocks; ++i) Q8Block(data + i * 34, &out[i * kBlock]);
      return out;
  }
  return Unimplemented("GGML_TYPE_UNSUPPORTED",
                       fmt::format("tensor \"{}\" is of ggml type {}; F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0 are "
                                   "read. Import a GGUF file in one of these, or the original safetensors",
                                   tensor.name, GgmlTypeName(tensor.type)))
      .WithMetadata("tensor", tensor.name)
      .WithMetadata("type", GgmlTypeName(tensor.type));
}

}  // namespace sbora::core
