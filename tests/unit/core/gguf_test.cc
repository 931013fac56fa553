#include "core/gguf.h"

#include <gmock/gmock.h>

#include <fstream>

#include "core/dtype.h"
#include "tests/unit/core/gguf_builder.h"
#include "tests/unit/core/tiny_model.h"

namespace sbora::core {
namespace {

using testing::GgufBuilder;
using testing::NewTempDirectory;

class GgufTest : public ::testing::Test {
 protected:
  StatusOr<GgufFile> OpenBytes(const std::string& bytes) {
    const auto path = dir_.path() / "x.gguf";
    std::ofstream(path, std::ios::binary) << bytes;  // no fsync: thousands of files are written
    return GgufFile::Open(path);
  }
  /// Dequantised values of a one-row tensor of `type` with these block bytes.
  StatusOr<std::vector<float>> Values(uint32_t type, const std::string& block, int64_t elements) {
    GgufBuilder builder;
    builder.Tensor("t", type, {elements}, block);
    auto file = OpenBytes(builder.Build());
    if (!file.ok()) return file.status();
    return Dequantize(*file->Find("t"));
  }
  static std::string Half(float value) {
    const uint16_t bits = FloatToF16(value);
    return std::string(reinterpret_cast<const char*>(&bits), 2);
  }
  /// Byte j holds nibbles low = j, high = 15 - j.
  static std::string Nibbles() {
    std::string bytes;
    for (int j = 0; j < 16; ++j) bytes.push_back(static_cast<char>(j | ((15 - j) << 4)));
    return bytes;
  }

  TempDirectory dir_ = NewTempDirectory();
};

TEST_F(GgufTest, ReadsMetadataOfEachKind) {
  GgufBuilder builder;
  builder.Int("i", 7).Float("f", 0.5f).Bool("b", true).String("s", "text").Strings("ss", {"x", "y"}).Ints("is", {1, 3});
  const auto file = OpenBytes(builder.Build());
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(*file->Int("i"), 7);
  EXPECT_EQ(*file->Float("f"), 0.5);
  EXPECT_EQ(*file->Float("i"), 7.0);
  EXPECT_EQ(*file->Bool("b"), true);
  EXPECT_EQ(*file->String("s"), "text");
  EXPECT_THAT(**file->Strings("ss"), ::testing::ElementsAre("x", "y"));
  EXPECT_THAT(**file->Ints("is"), ::testing::ElementsAre(1, 3));
  EXPECT_EQ(file->Int("absent").status().reason(), "GGUF_KEY_MISSING");
  EXPECT_EQ(file->Int("s").status().reason(), "GGUF_KEY_TYPE");
}

TEST_F(GgufTest, DequantisesEachBlockFormat) {
  const auto q4_0 = Values(2, Half(0.5f) + Nibbles(), 32);
  const auto q4_1 = Values(3, Half(0.5f) + Half(-1.0f) + Nibbles(), 32);
  // Fifth bits: weights 0 and 31 have theirs set.
  const std::string fifth("\x01\x00\x00\x80", 4);
  const auto q5_0 = Values(6, Half(0.5f) + fifth + Nibbles(), 32);
  const auto q5_1 = Values(7, Half(0.5f) + Half(2.0f) + fifth + Nibbles(), 32);
  std::string eights;
  for (int j = 0; j < 32; ++j) eights.push_back(static_cast<char>(j * 8 - 128));
  const auto q8_0 = Values(8, Half(0.25f) + eights, 32);
  ASSERT_TRUE(q4_0.ok() && q4_1.ok() && q5_0.ok() && q5_1.ok() && q8_0.ok());
  for (size_t j = 0; j < 32; ++j) {
    const auto q = static_cast<float>(j < 16 ? j : 31 - j);
    const float q5 = q + (j == 0 || j == 31 ? 16.0f : 0.0f);
    EXPECT_EQ((*q4_0)[j], (q - 8) * 0.5f) << j;
    EXPECT_EQ((*q4_1)[j], q * 0.5f - 1.0f) << j;
    EXPECT_EQ((*q5_0)[j], (q5 - 16) * 0.5f) << j;
    EXPECT_EQ((*q5_1)[j], q5 * 0.5f + 2.0f) << j;
    EXPECT_EQ((*q8_0)[j], (static_cast<float>(j) * 8 - 128) * 0.25f) << j;
  }
  EXPECT_THAT(*Values(1, Half(1.5f) + Half(-2.0f), 2), ::testing::ElementsAre(1.5f, -2.0f));
}

TEST_F(GgufTest, NamesTypesItCannotRead) {
  GgufBuilder builder;
  builder.Tensor("w", 12, {256}, std::string(144, 'x'));
  const auto file = OpenBytes(builder.Build());
  ASSERT_TRUE(file.ok()) << file.status();
  const auto values = Dequantize(*file->Find("w"));
  EXPECT_EQ(values.status().code(), StatusCode::kUnimplemented);
  EXPECT_THAT(values.status().message(), ::testing::HasSubstr("Q4_K"));
}

TEST_F(GgufTest, ShapeIsRowMajor) {
  GgufBuilder builder;
  builder.Tensor("w", 0, {3, 2}, std::string(24, '\0'));  // 3 fastest
  const auto file = OpenBytes(builder.Build());
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_THAT(file->Find("w")->shape, ::testing::ElementsAre(2, 3));
}

TEST_F(GgufTest, RefusesOtherVersionsAndMagic) {
  std::string bytes = GgufBuilder().Build();
  bytes[4] = 1;
  EXPECT_EQ(OpenBytes(bytes).status().reason(), "GGUF_VERSION");
  bytes[4] = 0;
  bytes[7] = 3;  // big-endian version 3
  EXPECT_EQ(OpenBytes(bytes).status().reason(), "GGUF_VERSION");
  bytes[0] = 'X';
  EXPECT_EQ(OpenBytes(bytes).status().reason(), "GGUF_MALFORMED");
  EXPECT_EQ(OpenBytes("").status().reason(), "GGUF_TRUNCATED");
}

TEST_F(GgufTest, RefusesLyingCountsAndOffsets) {
  EXPECT_EQ(OpenBytes(GgufBuilder().Counts(1ull << 60, 0).Build()).status().reason(), "GGUF_MALFORMED");
  EXPECT_EQ(OpenBytes(GgufBuilder().Counts(0, 1ull << 60).Build()).status().reason(), "GGUF_MALFORMED");
  EXPECT_EQ(OpenBytes(GgufBuilder().Counts(5, 0).Build()).status().reason(), "GGUF_TRUNCATED");
  GgufBuilder array;
  array.RawKey("a", 9, std::string("\x04\0\0\0\xff\xff\xff\xff\xff\xff\xff\x0f", 12));
  EXPECT_EQ(OpenBytes(array.Build()).status().reason(), "GGUF_MALFORMED");
  GgufBuilder text;
  text.RawKey("a", 8, std::string("\xff\xff\xff\xff\xff\xff\xff\x7f", 8));
  EXPECT_EQ(OpenBytes(text.Build()).status().reason(), "GGUF_MALFORMED");
  EXPECT_EQ(OpenBytes(GgufBuilder().Int("a", 1).Int("a", 2).Build()).status().reason(), "GGUF_MALFORMED");
  EXPECT_EQ(OpenBytes(GgufBuilder().Int("general.alignment", 3).Build()).status().reason(), "GGUF_MALFORMED");
  EXPECT_EQ(OpenBytes(GgufBuilder().Tensor("t", 0, {1ll << 40, 1ll << 40}, "").Build()).status().reason(),
            "GGUF_MALFORMED");
  EXPECT_EQ(OpenBytes(GgufBuilder().Tensor("t", 0, {1 << 20}, "1234").Build()).status().reason(), "GGUF_TRUNCATED");
  EXPECT_EQ(OpenBytes(GgufBuilder().Tensor("t", 2, {33}, std::string(64, 'x')).Build()).status().reason(),
            "GGUF_MALFORMED");
}

TEST_F(GgufTest, SurvivesEveryTruncationAndRandomDamage) {
  GgufBuilder builder;
  builder.Int("i", 7).String("s", "text").Strings("ss", {"x", "y"}).Tensor("t", 3, {64}, std::string(40, 'q'));
  const std::string good = builder.Build();
  ASSERT_TRUE(OpenBytes(good).ok());
  for (size_t size = 0; size < good.size(); ++size) EXPECT_FALSE(OpenBytes(good.substr(0, size)).ok()) << size;
  PhiloxStream random(DeriveKey("test", 11));
  for (int i = 0; i < 2000; ++i) {
    std::string bad = good;
    bad[random.Below(bad.size())] = static_cast<char>(random.NextU32());
    const auto file = OpenBytes(bad);  // must neither crash nor read outside: run under ASan
    if (file.ok() && file->Find("t") != nullptr) Dequantize(*file->Find("t")).status().IgnoreError("damage may pass");
  }
}

}  // namespace
}  // namespace sbora::core
