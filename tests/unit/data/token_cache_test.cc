#include "data/token_cache.h"

#include <gmock/gmock.h>

#include <fstream>
#include <vector>

#include "common/sha256.h"

namespace sbora::data {
namespace {

const std::string kKey(64, 'a');

class TokenCacheTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto writer = TokenCacheWriter::Create(path_, kKey);
    ASSERT_TRUE(writer.ok()) << writer.status();
    ASSERT_TRUE(writer->Add(std::vector<int32_t>{5, 6, 7}, std::vector<uint8_t>{0, 1, 1}).ok());
    ASSERT_TRUE(writer->Add(std::vector<int32_t>{9}, std::vector<uint8_t>{1}).ok());
    EXPECT_FALSE(std::filesystem::exists(path_));
    ASSERT_TRUE(writer->Finish().ok());
  }
  std::string Bytes() { return ReadFile(path_, 1 << 20).value(); }
  void Put(const std::string& bytes) { std::ofstream(path_, std::ios::binary) << bytes; }

  TempDirectory dir_ = TempDirectory::Create(std::filesystem::temp_directory_path(), "sbora-data-test").value();
  std::filesystem::path path_ = dir_.path() / "x.tokens";
};

TEST_F(TokenCacheTest, ReadsBackWhatWasWritten) {
  const auto cache = TokenCache::Open(path_);
  ASSERT_TRUE(cache.ok()) << cache.status();
  EXPECT_EQ(cache->size(), 2);
  EXPECT_EQ(cache->tokens(), 4);
  EXPECT_EQ(cache->supervised_tokens(), 3);
  EXPECT_EQ(cache->vocab_bound(), 10);
  EXPECT_EQ(cache->max_sample_tokens(), 3);
  EXPECT_EQ(cache->key(), kKey);
  EXPECT_THAT(cache->Sample(0).ids, ::testing::ElementsAre(5, 6, 7));
  EXPECT_THAT(cache->Sample(0).supervised, ::testing::ElementsAre(0, 1, 1));
  EXPECT_THAT(cache->Sample(1).ids, ::testing::ElementsAre(9));
  size_t files = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(dir_.path())) ++files;
  EXPECT_EQ(files, 1u);  // no temporary is left
}

TEST_F(TokenCacheTest, PartsAreKept) {
  EXPECT_THAT(TokenCache::Open(path_)->part_sizes(), ::testing::ElementsAre(2));
  auto writer = TokenCacheWriter::Create(path_, kKey);
  ASSERT_TRUE(writer.ok()) << writer.status();
  ASSERT_TRUE(writer->Add(std::vector<int32_t>{5}, std::vector<uint8_t>{1}).ok());
  writer->EndPart();
  writer->EndPart();
  ASSERT_TRUE(writer->Add(std::vector<int32_t>{6}, std::vector<uint8_t>{1}).ok());
  ASSERT_TRUE(writer->Add(std::vector<int32_t>{7}, std::vector<uint8_t>{1}).ok());
  writer->EndPart();
  ASSERT_TRUE(writer->Finish().ok());
  const auto cache = TokenCache::Open(path_);
  ASSERT_TRUE(cache.ok()) << cache.status();
  EXPECT_THAT(cache->part_sizes(), ::testing::ElementsAre(1, 0, 2));
  EXPECT_THAT(cache->Sample(2).ids, ::testing::ElementsAre(7));
}

TEST_F(TokenCacheTest, EveryTruncationAndEveryFlippedByteIsSeen) {
  const std::string good = Bytes();
  for (size_t size = 0; size < good.size(); ++size) {
    Put(good.substr(0, size));
    EXPECT_FALSE(TokenCache::Open(path_).ok()) << size;
  }
  for (size_t i = 0; i < good.size(); ++i) {
    std::string bad = good;
    bad[i] = static_cast<char>(bad[i] ^ 0x10);
    Put(bad);
    EXPECT_FALSE(TokenCache::Open(path_).ok()) << i;
  }
  Put(good + "x");
  EXPECT_EQ(TokenCache::Open(path_).status().reason(), "TOKEN_CACHE_CORRUPT");
  Put("hello");
  EXPECT_EQ(TokenCache::Open(path_).status().reason(), "TOKEN_CACHE_MALFORMED");
}

TEST_F(TokenCacheTest, ForgedHashesDoNotHideBadOffsets) {
  std::string bytes = Bytes();
  const size_t offsets = 256 + 16 + 8;
  bytes.replace(offsets + 8, 1, "d");  // 100: the first sample would end behind all tokens
  const std::string body = Sha256Hex(std::string_view(bytes).substr(256));
  bytes.replace(120, 64, body);
  const std::string header = Sha256Hex(std::string_view(bytes).substr(0, 192));
  bytes.replace(192, 64, header);
  Put(bytes);
  EXPECT_EQ(TokenCache::Open(path_).status().reason(), "TOKEN_CACHE_MALFORMED");
}

TEST_F(TokenCacheTest, RefusesAnotherVersionOfTheFormat) {
  std::string bytes = Bytes();
  bytes[8] = 99;
  Put(bytes);
  const Status status = TokenCache::Open(path_).status();
  EXPECT_EQ(status.reason(), "TOKEN_CACHE_VERSION");
  EXPECT_THAT(status.message(), ::testing::HasSubstr("has version 99, this program reads"));
}

TEST_F(TokenCacheTest, RefusesAnotherKey) {
  EXPECT_EQ(TokenCache::Open(path_, {.verify = true, .expected_key = std::string(64, 'b')}).status().reason(),
            "TOKEN_CACHE_KEY");
  EXPECT_TRUE(TokenCache::Open(path_, {.verify = false, .expected_key = kKey}).ok());
}

TEST_F(TokenCacheTest, WriterRefusesBadSamplesAndCleansUp) {
  const auto other = dir_.path() / "y.tokens";
  {
    auto writer = TokenCacheWriter::Create(other, kKey);
    EXPECT_EQ(writer->Add({}, {}).reason(), "SAMPLE_EMPTY");
    EXPECT_EQ(writer->Add(std::vector<int32_t>{-1}, std::vector<uint8_t>{1}).reason(), "TOKEN_ID_NEGATIVE");
  }
  size_t files = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(dir_.path())) ++files;
  EXPECT_EQ(files, 1u);
}

TEST_F(TokenCacheTest, EmptyCacheIsAFileLikeAnyOther) {
  auto writer = TokenCacheWriter::Create(path_, kKey);
  ASSERT_TRUE(writer->Finish().ok());
  const auto cache = TokenCache::Open(path_);
  ASSERT_TRUE(cache.ok()) << cache.status();
  EXPECT_EQ(cache->size(), 0);
}

}  // namespace
}  // namespace sbora::data
