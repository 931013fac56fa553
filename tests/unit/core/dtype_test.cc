#include "core/dtype.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/counter_rng.h"

namespace sbora::core {
namespace {

TEST(DType, NamesRoundTrip) {
  for (const char* name : {"BOOL", "U8", "I8", "I16", "U16", "F16", "BF16", "I32", "U32", "F32", "F64", "I64", "U64"}) {
    const auto dtype = ParseDType(name);
    ASSERT_TRUE(dtype.ok()) << name;
    EXPECT_EQ(DTypeName(*dtype), name);
  }
  EXPECT_EQ(ParseDType("f32").status().reason(), "DTYPE_UNKNOWN");
  EXPECT_EQ(DTypeSize(DType::kBF16), 2);
}

TEST(F16, EveryBitPatternSurvivesTheRoundTrip) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const float value = F16ToFloat(static_cast<uint16_t>(bits));
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(F16ToFloat(FloatToF16(value))));
    } else {
      ASSERT_EQ(FloatToF16(value), bits);
    }
  }
}

// The compiler's own half type is the reference.
TEST(F16, RoundsAsTheCompilerDoes) {
  PhiloxStream stream(DeriveKey("test", 3));
  for (int i = 0; i < 2'000'000; ++i) {
    uint32_t bits = stream.NextU32();
    if (i % 2 == 0) bits = (bits & 0x80FFFFFFu) | ((0x66u + bits % 0x12u) << 23);  // exponents around half's range
    const auto value = std::bit_cast<float>(bits);
    if (std::isnan(value)) continue;
    const auto reference = static_cast<_Float16>(value);
    ASSERT_EQ(FloatToF16(value), std::bit_cast<uint16_t>(reference)) << value;
  }
}

TEST(F16, TiesGoToEvenAndOverflowToInfinity) {
  EXPECT_EQ(FloatToF16(1.0f + 0x1p-11f), 0x3C00);
  EXPECT_EQ(FloatToF16(1.0f + 3 * 0x1p-11f), 0x3C02);
  EXPECT_EQ(FloatToF16(65519.0f), 0x7BFF);
  EXPECT_EQ(FloatToF16(65520.0f), 0x7C00);
  EXPECT_EQ(FloatToF16(0x1p-25f), 0x0000);
  EXPECT_EQ(FloatToF16(std::nextafter(0x1p-25f, 1.0f)), 0x0001);
}

TEST(BF16, TiesGoToEvenAndNanStaysNan) {
  EXPECT_EQ(FloatToBF16(1.0f), 0x3F80);
  EXPECT_EQ(FloatToBF16(1.0f + 0x1p-8f), 0x3F80);
  EXPECT_EQ(FloatToBF16(1.0f + 3 * 0x1p-8f), 0x3F82);
  EXPECT_EQ(FloatToBF16(std::numeric_limits<float>::max()), 0x7F80);
  EXPECT_TRUE(std::isnan(BF16ToFloat(FloatToBF16(std::bit_cast<float>(0x7F800001u)))));
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const float value = BF16ToFloat(static_cast<uint16_t>(bits));
    if (std::isnan(value)) continue;
    ASSERT_EQ(FloatToBF16(value), bits);
  }
}

TEST(BulkConversion, ChecksSizesAndDTypes) {
  std::vector<std::byte> bytes(6);
  std::vector<float> floats(3, 1.5f);
  EXPECT_TRUE(FromFloat(floats, DType::kBF16, bytes).ok());
  std::vector<float> back(3);
  EXPECT_TRUE(ToFloat(DType::kBF16, bytes, back).ok());
  EXPECT_EQ(back, floats);
  EXPECT_EQ(ToFloat(DType::kF32, bytes, back).reason(), "SIZE_MISMATCH");
  EXPECT_EQ(ToFloat(DType::kI32, bytes, back).reason(), "DTYPE_UNSUPPORTED");
}

}  // namespace
}  // namespace sbora::core
