/// Element types of tensors on disk, and exact conversions between them.
///
/// Names are those of safetensors ("F32", "BF16", "I32"). Conversions from float round to nearest, ties to even, as
/// IEEE 754 and PyTorch do; NaN stays NaN (quiet), overflow becomes infinity. All functions are thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "common/status.h"

namespace sbora::core {

enum class DType { kBool, kU8, kI8, kI16, kU16, kF16, kBF16, kI32, kU32, kF32, kF64, kI64, kU64 };

/// Bytes of one element.
int64_t DTypeSize(DType dtype);
/// "F32" and so on.
std::string_view DTypeName(DType dtype);
/// The inverse of DTypeName. Errors: INVALID_ARGUMENT DTYPE_UNKNOWN.
StatusOr<DType> ParseDType(std::string_view name);
/// True for F16, BF16 and F32: what weights of a model may be.
bool IsWeightDType(DType dtype);

float F16ToFloat(uint16_t bits);
uint16_t FloatToF16(float value);
float BF16ToFloat(uint16_t bits);
uint16_t FloatToBF16(float value);

/// Widens `source` (elements of `dtype`: F32, F16, BF16, little-endian) into `out`.
/// Errors: INVALID_ARGUMENT DTYPE_UNSUPPORTED for another dtype, SIZE_MISMATCH unless both hold the same element count.
Status ToFloat(DType dtype, std::span<const std::byte> source, std::span<float> out);
/// Rounds `source` to `dtype` (F32, F16, BF16) into `out`. Errors as ToFloat.
Status FromFloat(std::span<const float> source, DType dtype, std::span<std::byte> out);

}  // namespace sbora::core
