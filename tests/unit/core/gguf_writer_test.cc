#include "core/gguf_writer.h"

#include <gmock/gmock.h>

#include <cmath>
#include <limits>

#include "tests/unit/core/tiny_model.h"

namespace sbora::core {
namespace {

namespace fs = std::filesystem;
using testing::NewTempDirectory;
using testing::SeededFloats;

std::string Hex(const std::vector<std::byte>& bytes) {
  std::string out;
  for (const std::byte byte : bytes) out += fmt::format("{:02x}", std::to_integer<int>(byte));
  return out;
}

std::string Q8Hex(const std::vector<float>& values) {
  std::vector<std::byte> out;
  const Status status = EncodeGgml(GgmlType::kQ8_0, values, out);
  return status.ok() ? Hex(out) : status.reason();
}

// The expected bytes were made by gguf.quants.quantize of the Python package gguf 0.19.0.
TEST(EncodeGgml, Q8BlocksAreThoseOfTheGgufPackage) {
  std::vector<float> mixed;
  for (int i = 0; i < 32; ++i) mixed.push_back(static_cast<float>(((i * 37) % 64 - 31) * 0.0173));
  EXPECT_EQ(Q8Hex(mixed), "771c8518ad3fd467fc9124b94be073089d30c457ec7f14a93cd063f88d20b547dc6f");
  std::vector<float> halves = {127, 0.5f, -0.5f, 1.5f, -1.5f, 2.5f, 126.5f, -126.5f};
  halves.resize(32);
  EXPECT_EQ(Q8Hex(halves), "003c7f01ff02fe037f81" + std::string(48, '0'));  // away from zero
  EXPECT_EQ(Q8Hex(std::vector<float>(32, 0.0f)), std::string(68, '0'));
  EXPECT_EQ(Q8Hex(std::vector<float>(32, 1e-40f)), std::string(68, '0'));  // 1 / d overflows
}

TEST(EncodeGgml, RefusesWhatATypeCannotHold) {
  std::vector<std::byte> out;
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_TRUE(EncodeGgml(GgmlType::kF16, std::vector<float>{65519.0f}, out).ok());
  EXPECT_EQ(Hex(out), "ff7b");  // the largest half
  for (const float value : {65520.0f, -1e30f, nan, std::numeric_limits<float>::infinity()}) {
    EXPECT_EQ(EncodeGgml(GgmlType::kF16, std::vector<float>{value}, out).reason(), "GGUF_VALUE_RANGE") << value;
  }
  EXPECT_EQ(Q8Hex(std::vector<float>(32, nan)), "GGUF_VALUE_RANGE");
  EXPECT_EQ(Q8Hex(std::vector<float>(32, 1e30f)), "GGUF_VALUE_RANGE");
  EXPECT_EQ(Q8Hex(std::vector<float>(31, 1.0f)), "GGUF_ROW_LENGTH");
  EXPECT_EQ(EncodeGgml(GgmlType::kF32, std::vector<float>{nan}, out).reason(), "GGUF_VALUE_RANGE");
  EXPECT_EQ(EncodeGgml(GgmlType::kQ4_0, std::vector<float>(32), out).reason(), "GGML_TYPE_UNSUPPORTED");
}

class GgufWriterTest : public ::testing::Test {
 protected:
  TempDirectory dir_ = NewTempDirectory();
  fs::path path_ = dir_.path() / "x.gguf";
};

TEST_F(GgufWriterTest, TheReaderFindsWhatWasWritten) {
  GgufMetadata metadata;
  metadata.String("s", "text");
  metadata.Uint32("u", 7);
  metadata.Float32("f", 0.5f);
  metadata.Bool("b", true);
  metadata.Strings("ss", {"x", ""});
  metadata.Strings("none", {});
  metadata.Int32s("is", {-1, 3});
  auto writer = GgufWriter::Create(path_, metadata, {{"wide", GgmlType::kF32, {3}},
                                                     {"half", GgmlType::kF16, {2, 3}},
                                                     {"codes", GgmlType::kQ8_0, {2, 64}}});
  ASSERT_TRUE(writer.ok()) << writer.status();
  const auto codes = SeededFloats("codes", 128);
  EXPECT_TRUE((*writer)->Append(std::vector<float>{1, 2, 3}).ok());
  EXPECT_TRUE((*writer)->Append(std::vector<float>{1, 2, 3}).ok());
  EXPECT_TRUE((*writer)->Append(std::vector<float>{4, 5, 6}).ok());
  EXPECT_TRUE((*writer)->Append(std::span(codes).first(64)).ok());
  EXPECT_TRUE((*writer)->Append(std::span(codes).subspan(64)).ok());
  const auto written = (*writer)->Finish();
  ASSERT_TRUE(written.ok()) << written.status();
  EXPECT_EQ(written->size_bytes, static_cast<int64_t>(fs::file_size(path_)));

  const auto file = GgufFile::Open(path_);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(*file->String("s"), "text");
  EXPECT_EQ(*file->Int("u"), 7);
  EXPECT_EQ(*file->Float("f"), 0.5);
  EXPECT_EQ(*file->Bool("b"), true);
  EXPECT_THAT(**file->Strings("ss"), ::testing::ElementsAre("x", ""));
  EXPECT_TRUE((*file->Strings("none"))->empty());
  EXPECT_THAT(**file->Ints("is"), ::testing::ElementsAre(-1, 3));
  EXPECT_THAT(*Dequantize(*file->Find("wide")), ::testing::ElementsAre(1, 2, 3));
  EXPECT_EQ(file->Find("half")->shape, (std::vector<int64_t>{2, 3}));
  EXPECT_THAT(*Dequantize(*file->Find("half")), ::testing::ElementsAre(1, 2, 3, 4, 5, 6));
  const auto back = Dequantize(*file->Find("codes"));
  ASSERT_TRUE(back.ok());
  for (size_t i = 0; i < codes.size(); ++i) {
    const auto block = std::span(codes).subspan(i / 32 * 32, 32);
    float largest = 0;
    for (const float value : block) largest = std::max(largest, std::abs(value));
    // Half a step of the code, and the half-precision scale's own rounding (2^-11 of the value).
    EXPECT_LE(std::abs((*back)[i] - codes[i]), largest / 127 * 0.5f + std::abs(codes[i]) / 2048 * 1.01f) << i;
  }
}

TEST_F(GgufWriterTest, RefusesWhatDoesNotFitAndLeavesNothing) {
  const auto reason = [&](std::vector<GgufTensorSpec> tensors) {
    const auto writer = GgufWriter::Create(path_, {}, std::move(tensors));
    return writer.ok() ? "ok" : writer.status().reason();
  };
  EXPECT_EQ(reason({{"t", GgmlType::kQ8_0, {2, 24}}}), "GGUF_ROW_LENGTH");
  EXPECT_EQ(reason({{"t", GgmlType::kF32, {1}}, {"t", GgmlType::kF32, {1}}}), "TENSOR_DUPLICATE");
  EXPECT_EQ(reason({{"t", GgmlType::kF32, {-1}}}), "TENSOR_TOO_LARGE");
  EXPECT_EQ(reason({{"t", GgmlType::kF32, {int64_t{1} << 40, int64_t{1} << 40}}}), "TENSOR_TOO_LARGE");
  EXPECT_EQ(reason({{"t", GgmlType::kBF16, {1}}}), "GGML_TYPE_UNSUPPORTED");
  {
    auto writer = GgufWriter::Create(path_, {}, {{"t", GgmlType::kF32, {2}}});
    ASSERT_TRUE(writer.ok());
    EXPECT_TRUE((*writer)->Append(std::vector<float>{1}).ok());
    EXPECT_EQ((*writer)->Finish().status().reason(), "TENSOR_DATA_MISSING");
    EXPECT_EQ((*writer)->Append(std::vector<float>{1, 2}).reason(), "TENSOR_DATA_EXCESS");
  }
  EXPECT_TRUE(fs::is_empty(dir_.path()));
}

}  // namespace
}  // namespace sbora::core
