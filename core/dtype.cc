#include "core/dtype.h"

#include <fmt/format.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <iterator>

#include "common/check.h"
#include "common/status_macros.h"

namespace sbora::core {
namespace {

struct DTypeInfo {
  DType dtype;
  std::string_view name;
  int64_t size;
};
constexpr DTypeInfo kDTypes[] = {
    {DType::kBool, "BOOL", 1}, {DType::kU8, "U8", 1},   {DType::kI8, "I8", 1},   {DType::kI16, "I16", 2},
    {DType::kU16, "U16", 2},   {DType::kF16, "F16", 2}, {DType::kBF16, "BF16", 2}, {DType::kI32, "I32", 4},
    {DType::kU32, "U32", 4},   {DType::kF32, "F32", 4}, {DType::kF64, "F64", 8}, {DType::kI64, "I64", 8},
    {DType::kU64, "U64", 8},
};

const DTypeInfo& Info(DType dtype) {
  const auto index = static_cast<size_t>(dtype);
  SBORA_CHECK(index < std::size(kDTypes), "dtype {} is outside the enum", index);
  return kDTypes[index];
}

Status CheckConversion(DType dtype, size_t byte_count, size_t float_count) {
  if (!IsWeightDType(dtype)) {
    return InvalidArgument("DTYPE_UNSUPPORTED",
                           fmt::format("cannot convert {} to or from float; F32, F16 and BF16 can", DTypeName(dtype)));
  }
  const auto size = static_cast<size_t>(DTypeSize(dtype));
  if (byte_count % size != 0 || byte_count / size != float_count) {
    return InvalidArgument("SIZE_MISMATCH", fmt::format("{} bytes of {} are not {} elements", byte_count,
                                                        DTypeName(dtype), float_count));
  }
  return OkStatus();
}

}  // namespace

int64_t DTypeSize(DType dtype) { return Info(dtype).size; }

std::string_view DTypeName(DType dtype) { return Info(dtype).name; }

StatusOr<DType> ParseDType(std::string_view name) {
  for (const DTypeInfo& info : kDTypes) {
    if (info.name == name) return info.dtype;
  }
  return InvalidArgument("DTYPE_UNKNOWN", fmt::format("dtype \"{}\" is not one of safetensors' names we know", name.substr(0, 40)));
}

bool IsWeightDType(DType dtype) { return dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16; }

float F16ToFloat(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
  const uint32_t exponent = (bits >> 10) & 0x1Fu;
  const uint32_t mantissa = bits & 0x3FFu;
  if (exponent == 0) {  // zero or subnormal: mantissa * 2^-24 is exact in float
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return std::bit_cast<float>(std::bit_cast<uint32_t>(magnitude) | sign);
  }
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7F800000u | (mantissa << 13));
  return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
}

uint16_t FloatToF16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  const uint32_t magnitude = bits & 0x7FFFFFFFu;
  if (magnitude > 0x7F800000u) return static_cast<uint16_t>(sign | 0x7E00u);   // NaN
  if (magnitude >= 0x477FF000u) return static_cast<uint16_t>(sign | 0x7C00u);  // rounds to infinity: >= 65520
  if (magnitude < 0x38800000u) {                                               // subnormal in half: below 2^-14
    // Adding 0.5 leaves the value, rounded to a multiple of 2^-24 by the FPU, in the low mantissa bits.
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(shifted) - 0x3F000000u));
  }
  const uint32_t odd = (magnitude >> 13) & 1u;
  const uint32_t rounded = magnitude + 0xFFFu + odd - (112u << 23);
  return static_cast<uint16_t>(sign | (rounded >> 13));
}

float BF16ToFloat(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }

uint16_t FloatToBF16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);  // keeps NaN quiet
  return static_cast<uint16_t>((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16);
}

Status ToFloat(DType dtype, std::span<const std::byte> source, std::span<float> out) {
  SBORA_RETURN_IF_ERROR(CheckConversion(dtype, source.size(), out.size()));
  if (out.empty()) return OkStatus();
  if (dtype == DType::kF32) {
    std::memcpy(out.data(), source.data(), source.size());
    return OkStatus();
  }
  const bool half = dtype == DType::kF16;
  for (size_t i = 0; i < out.size(); ++i) {
    uint16_t bits = 0;
    std::memcpy(&bits, source.data() + 2 * i, 2);  // the source may be unaligned
    out[i] = half ? F16ToFloat(bits) : BF16ToFloat(bits);
  }
  return OkStatus();
}

Status FromFloat(std::span<const float> source, DType dtype, std::span<std::byte> out) {
  SBORA_RETURN_IF_ERROR(CheckConversion(dtype, out.size(), source.size()));
  if (source.empty()) return OkStatus();
  if (dtype == DType::kF32) {
    std::memcpy(out.data(), source.data(), out.size());
    return OkStatus();
  }
  const bool half = dtype == DType::kF16;
  for (size_t i = 0; i < source.size(); ++i) {
    const uint16_t bits = half ? FloatToF16(source[i]) : FloatToBF16(source[i]);
    std::memcpy(out.data() + 2 * i, &bits, 2);
  }
  return OkStatus();
}

}  // namespace sbora::core
