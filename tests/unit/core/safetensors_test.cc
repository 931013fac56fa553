#include "core/safetensors.h"

#include <gmock/gmock.h>

#include <cstring>

#include "common/sha256.h"
#include "tests/unit/core/tiny_model.h"

namespace sbora::core {
namespace {

using testing::NewTempDirectory;

class SafetensorsTest : public ::testing::Test {
 protected:
  std::string WriteRaw(const std::string& header, const std::string& data, uint64_t claimed = 0) {
    std::string bytes(8, '\0');
    const uint64_t size = claimed != 0 ? claimed : header.size();
    std::memcpy(bytes.data(), &size, 8);
    bytes += header + data;
    const auto path = dir_.path() / "raw.safetensors";
    EXPECT_TRUE(WriteFileAtomic(path, bytes).ok());
    return path.string();
  }

  TempDirectory dir_ = NewTempDirectory();
};

TEST_F(SafetensorsTest, WritesAndReadsBack) {
  const std::vector<float> a = {1, 2, 3, 4, 5, 6};
  const std::vector<int32_t> b = {7, 8};
  const auto path = dir_.path() / "x.safetensors";
  const TensorToWrite tensors[] = {{{"z", DType::kI32, {2}}, std::as_bytes(std::span(b))},
                                   {{"a\"quoted", DType::kF32, {2, 3}}, std::as_bytes(std::span(a))},
                                   {{"empty", DType::kF32, {0, 3}}, {}}};
  const auto written = WriteSafetensors(path, tensors, {{"format", "pt"}});
  ASSERT_TRUE(written.ok()) << written.status();
  const auto digest = DigestFile(path);
  EXPECT_EQ(written->sha256, digest->sha256);
  EXPECT_EQ(written->size_bytes, digest->size_bytes);
  EXPECT_EQ(*SafetensorsFileBytes({tensors[0].spec, tensors[1].spec, tensors[2].spec}, {{"format", "pt"}}),
            written->size_bytes);

  const auto file = SafetensorsFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_THAT(file->metadata(), ::testing::ElementsAre(::testing::Pair("format", "pt")));
  ASSERT_EQ(file->tensors().size(), 3u);
  const auto view = file->Tensor("a\"quoted");
  ASSERT_TRUE(view.ok());
  EXPECT_THAT(view->shape, ::testing::ElementsAre(2, 3));
  EXPECT_EQ(std::memcmp(view->data.data(), a.data(), 24), 0);
  EXPECT_EQ(view->elements(), 6);
  EXPECT_EQ(file->Tensor("nope").status().reason(), "TENSOR_NOT_FOUND");
}

TEST_F(SafetensorsTest, UnfinishedWriterLeavesNothing) {
  const auto path = dir_.path() / "x.safetensors";
  {
    auto writer = SafetensorsWriter::Create(path, {{"a", DType::kF32, {2}}});
    ASSERT_TRUE(writer.ok());
    const std::vector<std::byte> bytes(9);
    EXPECT_EQ(writer->Append(bytes).reason(), "TENSOR_DATA_EXCESS");
    EXPECT_EQ(writer->Finish().status().reason(), "TENSOR_DATA_MISSING");
  }
  EXPECT_TRUE(std::filesystem::is_empty(dir_.path()));
}

TEST_F(SafetensorsTest, WriterRefusesDuplicatesAndOverflow) {
  const auto path = dir_.path() / "x.safetensors";
  EXPECT_EQ(SafetensorsWriter::Create(path, {{"a", DType::kF32, {1}}, {"a", DType::kF32, {1}}}).status().reason(),
            "TENSOR_DUPLICATE");
  EXPECT_EQ(SafetensorsWriter::Create(path, {{"a", DType::kF32, {int64_t{1} << 62, 4}}}).status().reason(),
            "TENSOR_TOO_LARGE");
}

struct HostileCase {
  const char* name;
  const char* header;
  size_t data_bytes;
  const char* reason;
};

class SafetensorsHostileTest : public SafetensorsTest, public ::testing::WithParamInterface<HostileCase> {};

TEST_P(SafetensorsHostileTest, IsRefused) {
  const auto path = WriteRaw(GetParam().header, std::string(GetParam().data_bytes, 'x'));
  const auto file = SafetensorsFile::Open(path);
  ASSERT_FALSE(file.ok());
  EXPECT_EQ(file.status().reason(), GetParam().reason) << file.status();
}

constexpr const char* kMalformed = "SAFETENSORS_MALFORMED";
INSTANTIATE_TEST_SUITE_P(
    Files, SafetensorsHostileTest,
    ::testing::Values(
        HostileCase{"NoJson", "hello", 0, kMalformed}, HostileCase{"Cut", R"({"a":{"dtype":"F32")", 0, kMalformed},
        HostileCase{"Array", "[]", 0, kMalformed}, HostileCase{"LeadingBlank", " {}", 0, kMalformed},
        HostileCase{"UnknownDType", R"({"a":{"dtype":"F31","shape":[1],"data_offsets":[0,4]}})", 4, kMalformed},
        HostileCase{"Hole", R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", 8, kMalformed},
        HostileCase{"Overlap",
                    R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})",
                    12, kMalformed},
        HostileCase{"SameRange",
                    R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})",
                    4, kMalformed},
        HostileCase{"DuplicateName",
                    R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
                    8, kMalformed},
        HostileCase{"DuplicateField", R"({"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 4,
                    kMalformed},
        HostileCase{"TrailingBytes", R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 5, kMalformed},
        HostileCase{"TrailingWithoutTensors", "{}", 1, kMalformed},
        HostileCase{"ShapeOverflow",
                    R"({"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}})", 0, kMalformed},
        HostileCase{"ShapeDisagrees", R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", 4, kMalformed},
        HostileCase{"NegativeShape", R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})", 4, kMalformed},
        HostileCase{"HugeNumber", R"({"a":{"dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,4]}})", 4,
                    kMalformed},
        HostileCase{"ReversedOffsets", R"({"a":{"dtype":"F32","shape":[0],"data_offsets":[4,0]}})", 4, kMalformed},
        HostileCase{"OneOffset", R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0]}})", 4, kMalformed},
        HostileCase{"ExtraField", R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":1}})", 4, kMalformed},
        HostileCase{"NestedMetadata", R"({"__metadata__":{"a":{}}})", 0, kMalformed},
        HostileCase{"NumberMetadata", R"({"__metadata__":{"a":1}})", 0, kMalformed},
        HostileCase{"DeepNesting", R"({"a":{"dtype":[[[[[[[[1]]]]]]]]}})", 0, kMalformed},
        HostileCase{"BadUtf8", "{\"a\xff\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, kMalformed},
        HostileCase{"TruncatedData", R"({"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}})", 8,
                    "SAFETENSORS_TRUNCATED"}),
    [](const auto& info) { return info.param.name; });

TEST_F(SafetensorsTest, LyingHeaderSizes) {
  EXPECT_EQ(SafetensorsFile::Open(WriteRaw("{}", "", 100'000'001)).status().reason(), "SAFETENSORS_MALFORMED");
  EXPECT_EQ(SafetensorsFile::Open(WriteRaw("{}", "", ~uint64_t{0})).status().reason(), "SAFETENSORS_MALFORMED");
  EXPECT_EQ(SafetensorsFile::Open(WriteRaw("{}", "", 3)).status().reason(), "SAFETENSORS_TRUNCATED");
  const auto path = dir_.path() / "short";
  ASSERT_TRUE(WriteFileAtomic(path, "1234567").ok());
  EXPECT_EQ(SafetensorsFile::Open(path).status().reason(), "SAFETENSORS_TRUNCATED");
  EXPECT_FALSE(SafetensorsFile::Open(dir_.path() / "absent").ok());
}

// No prefix and no single flipped byte of a good file may crash the reader; most must be refused.
TEST_F(SafetensorsTest, EveryTruncationIsRefused) {
  const std::vector<float> a = {1, 2, 3};
  const TensorToWrite tensor{{"a", DType::kF32, {3}}, std::as_bytes(std::span(a))};
  const auto path = dir_.path() / "x.safetensors";
  ASSERT_TRUE(WriteSafetensors(path, std::span(&tensor, 1)).ok());
  const std::string good = ReadFile(path, 1 << 20).value();
  for (size_t size = 0; size < good.size(); ++size) {
    ASSERT_TRUE(WriteFileAtomic(path, good.substr(0, size)).ok());
    EXPECT_FALSE(SafetensorsFile::Open(path).ok()) << size;
  }
}

}  // namespace
}  // namespace sbora::core
