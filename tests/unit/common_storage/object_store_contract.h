/// What every object store promises, as one typed list of tests: included by the unit tests (memory, directory) and by
/// the integration test (S3). The including file defines `StoreUnderTest` cases with INSTANTIATE_TEST_SUITE_P.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <thread>

#include "common/file.h"
#include "common/storage/object_store.h"

namespace sbora {

struct StoreCase {
  std::string name;
  /// Opens an empty store; `scratch` is a folder of this test.
  std::function<StatusOr<std::unique_ptr<ObjectStore>>(const std::filesystem::path& scratch)> open;
  bool presigns = false;
};

class ObjectStoreContract : public ::testing::TestWithParam<StoreCase> {
 protected:
  void SetUp() override {
    auto scratch = TempDirectory::Create(std::filesystem::temp_directory_path(), "store_test");
    ASSERT_TRUE(scratch.ok()) << scratch.status();
    scratch_.emplace(std::move(scratch).value());
    auto store = GetParam().open(scratch_->path());
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = std::move(store).value();
  }

  std::vector<std::string> Keys(std::string_view prefix, const ListOptions& options = {}) {
    auto page = store_->List(prefix, options);
    EXPECT_TRUE(page.ok()) << page.status();
    std::vector<std::string> keys;
    if (page.ok()) {
      for (const ListedObject& object : page->objects) keys.push_back(object.key);
    }
    return keys;
  }

  void MustPut(std::string_view key, std::string_view bytes) {
    const Status status = store_->Put(key, bytes, PutMode::kOverwrite);
    ASSERT_TRUE(status.ok()) << status;
  }

  std::optional<TempDirectory> scratch_;
  std::unique_ptr<ObjectStore> store_;
};

/// Bytes that differ at every offset, so that a misplaced part shows.
inline std::string Pattern(size_t size) {
  std::string bytes(size, '\0');
  uint64_t state = 0x9e3779b97f4a7c15;
  for (char& c : bytes) {
    state = state * 6364136223846793005 + 1442695040888963407;
    c = static_cast<char>(state >> 56);
  }
  return bytes;
}

TEST_P(ObjectStoreContract, PutGetHeadDelete) {
  using std::string_literals::operator""s;
  MustPut("a/b/c.bin", "one\0two"s);
  EXPECT_EQ(store_->Get("a/b/c.bin", 100).value(), "one\0two"s);
  const auto first = store_->Head("a/b/c.bin").value();
  EXPECT_EQ(first.size_bytes, 7u);
  MustPut("a/b/c.bin", "longer text");
  EXPECT_EQ(store_->Get("a/b/c.bin", 11).value(), "longer text");
  EXPECT_NE(store_->Head("a/b/c.bin").value().etag, first.etag);
  EXPECT_TRUE(store_->Delete("a/b/c.bin").ok());
  EXPECT_EQ(store_->Get("a/b/c.bin", 100).status().reason(), "OBJECT_NOT_FOUND");
  EXPECT_EQ(store_->Get("a/b/c.bin", 100).status().code(), StatusCode::kNotFound);
  EXPECT_EQ(store_->Head("a/b/c.bin").status().reason(), "OBJECT_NOT_FOUND");
  EXPECT_TRUE(store_->Delete("a/b/c.bin").ok());
}

TEST_P(ObjectStoreContract, CopiesAreObjectsOfTheirOwn) {
  MustPut("from/a", "first");
  MustPut("to/b", "older");
  ASSERT_TRUE(store_->Copy("from/a", "to/b").ok());
  MustPut("from/a", "changed");
  EXPECT_EQ(store_->Get("to/b", 100).value(), "first");
  ASSERT_TRUE(store_->Delete("from/a").ok());
  EXPECT_EQ(store_->Get("to/b", 100).value(), "first");
  EXPECT_EQ(store_->Copy("from/a", "to/c").reason(), "OBJECT_NOT_FOUND");
}

TEST_P(ObjectStoreContract, MovesAFileIn) {
  const auto file = scratch_->path() / "moved";
  ASSERT_TRUE(WriteFileAtomic(file, "bytes").ok());
  EXPECT_EQ(store_->MoveFile("deep/down/here", file).value(), 5u);
  EXPECT_FALSE(std::filesystem::exists(file));
  EXPECT_EQ(store_->Get("deep/down/here", 100).value(), "bytes");
  EXPECT_EQ(store_->MoveFile("deep/down/here", file).status().reason(), "FILE_NOT_FOUND");
  EXPECT_EQ(store_->Get("deep/down/here", 100).value(), "bytes");
}

TEST_P(ObjectStoreContract, EmptyObjects) {
  MustPut("empty", "");
  EXPECT_EQ(store_->Get("empty", 0).value(), "");
  EXPECT_EQ(store_->Head("empty").value().size_bytes, 0u);
  EXPECT_EQ(store_->GetToFile("empty", scratch_->path() / "empty").value(), 0u);
  EXPECT_EQ(store_->GetRange("empty", 0, 1).status().reason(), "RANGE_OUTSIDE_OBJECT");
}

TEST_P(ObjectStoreContract, CreateOnlyPutKeepsTheFirst) {
  ASSERT_TRUE(store_->Put("manifest", "first", PutMode::kCreate).ok());
  const Status other = store_->Put("manifest", "second", PutMode::kCreate);
  EXPECT_EQ(other.reason(), "OBJECT_EXISTS");
  EXPECT_EQ(other.code(), StatusCode::kAlreadyExists);
  EXPECT_TRUE(other.metadata().empty());
  EXPECT_EQ(store_->Get("manifest", 100).value(), "first");
  const Status same = store_->Put("manifest", "first", PutMode::kCreate);
  EXPECT_EQ(same.reason(), "OBJECT_EXISTS");
  EXPECT_THAT(same.metadata(), ::testing::Contains(::testing::Pair("identical", "true")));
}

TEST_P(ObjectStoreContract, OneOfEightRacingCreatorsWins) {
  std::atomic<int> winners{0};
  std::atomic<int> winner{-1};
  std::atomic<int> strange{0};
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < 8; ++t) {
      threads.emplace_back([&, t] {
        const Status status = store_->Put("race", std::string(1000, static_cast<char>('a' + t)), PutMode::kCreate);
        if (status.ok()) {
          ++winners;
          winner = t;
        } else if (status.reason() != "OBJECT_EXISTS") {
          ++strange;
        }
      });
    }
  }
  EXPECT_EQ(winners, 1);
  EXPECT_EQ(strange, 0);
  EXPECT_EQ(store_->Get("race", 2000).value(), std::string(1000, static_cast<char>('a' + winner)));
}

TEST_P(ObjectStoreContract, SizeLimitOfGet) {
  MustPut("k", "12345");
  const auto result = store_->Get("k", 4);
  EXPECT_EQ(result.status().reason(), "OBJECT_TOO_LARGE");
  EXPECT_THAT(result.status().message(), ::testing::HasSubstr("limit of 4"));
}

TEST_P(ObjectStoreContract, Ranges) {
  MustPut("k", "0123456789");
  EXPECT_EQ(store_->GetRange("k", 0, 3).value(), "012");
  EXPECT_EQ(store_->GetRange("k", 4, 2).value(), "45");
  EXPECT_EQ(store_->GetRange("k", 8, 100).value(), "89");
  EXPECT_EQ(store_->GetRange("k", 10, 1).status().reason(), "RANGE_OUTSIDE_OBJECT");
  EXPECT_EQ(store_->GetRange("k", 1'000'000, 1).status().code(), StatusCode::kOutOfRange);
  EXPECT_EQ(store_->GetRange("k", 0, 0).status().reason(), "RANGE_INVALID");
  EXPECT_EQ(store_->GetRange("k", 0, (1ULL << 30) + 1).status().reason(), "RANGE_INVALID");
  EXPECT_EQ(store_->GetRange("missing", 0, 1).status().reason(), "OBJECT_NOT_FOUND");
}

TEST_P(ObjectStoreContract, ListsAFolderInPages) {
  for (const char* key : {"p/b", "p/a", "p/d/e", "p/c-1", "p/c.2", "pq/x", "other"}) MustPut(key, "x");
  EXPECT_THAT(Keys("p"), ::testing::ElementsAre("p/a", "p/b", "p/c-1", "p/c.2", "p/d/e"));
  EXPECT_THAT(Keys("p/d"), ::testing::ElementsAre("p/d/e"));
  EXPECT_THAT(Keys(""), ::testing::ElementsAre("other", "p/a", "p/b", "p/c-1", "p/c.2", "p/d/e", "pq/x"));
  EXPECT_THAT(Keys("nothing"), ::testing::IsEmpty());

  std::vector<std::string> seen;
  ListOptions options{.start_after = "", .max_objects = 2};
  for (int pages = 0; pages < 3; ++pages) {
    const auto page = store_->List("p", options);
    ASSERT_TRUE(page.ok()) << page.status();
    for (const ListedObject& object : page->objects) seen.push_back(object.key);
    EXPECT_EQ(page->more, pages < 2);
    EXPECT_EQ(page->objects[0].info.size_bytes, 1u);
    options.start_after = seen.back();
  }
  EXPECT_THAT(seen, ::testing::ElementsAre("p/a", "p/b", "p/c-1", "p/c.2", "p/d/e"));
  EXPECT_EQ(store_->List("p", {.start_after = "", .max_objects = 0}).status().reason(), "LIST_LIMIT_INVALID");
}

TEST_P(ObjectStoreContract, FilesSmallAndInParts) {
  for (const size_t size : {size_t{0}, size_t{5}, size_t{8} << 20, (size_t{20} << 20) + 3}) {
    const std::string bytes = Pattern(size);
    const auto from = scratch_->path() / "from";
    const auto to = scratch_->path() / "to";
    ASSERT_TRUE(WriteFileAtomic(from, bytes).ok());
    const auto sent = store_->PutFile("files/f", from);
    ASSERT_TRUE(sent.ok()) << sent.status();
    EXPECT_EQ(*sent, size);
    const auto got = store_->GetToFile("files/f", to);
    ASSERT_TRUE(got.ok()) << got.status();
    EXPECT_EQ(*got, size);
    EXPECT_TRUE(ReadFile(to, 1 << 30).value() == bytes) << size;
  }
  EXPECT_THAT(Keys(""), ::testing::ElementsAre("files/f"));
}

TEST_P(ObjectStoreContract, FailedDownloadLeavesTheFileAlone) {
  const auto folder = scratch_->path() / "downloads";
  std::filesystem::create_directory(folder);
  ASSERT_TRUE(WriteFileAtomic(folder / "kept", "old").ok());
  EXPECT_EQ(store_->GetToFile("missing", folder / "kept").status().reason(), "OBJECT_NOT_FOUND");
  EXPECT_EQ(ReadFile(folder / "kept", 100).value(), "old");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder), {}), 1);
  EXPECT_EQ(store_->PutFile("k", folder / "no such file").status().reason(), "FILE_NOT_FOUND");
}

TEST_P(ObjectStoreContract, WriterShowsNothingBeforeComplete) {
  const std::string bytes = Pattern((size_t{9} << 20) + 1);
  auto writer = store_->StartMultipart("up/load");
  ASSERT_TRUE(writer.ok()) << writer.status();
  for (size_t at = 0; at < bytes.size(); at += 1'000'003) {
    ASSERT_TRUE((*writer)->Write(std::string_view(bytes).substr(at, 1'000'003)).ok());
  }
  EXPECT_EQ(store_->Head("up/load").status().reason(), "OBJECT_NOT_FOUND");
  EXPECT_THAT(Keys("up"), ::testing::IsEmpty());
  const Status done = (*writer)->Complete();
  ASSERT_TRUE(done.ok()) << done;
  EXPECT_TRUE(store_->Get("up/load", 1 << 30).value() == bytes);
  EXPECT_EQ((*writer)->Complete().reason(), "UPLOAD_FINISHED");
  EXPECT_EQ((*writer)->Write("x").reason(), "UPLOAD_FINISHED");
}

TEST_P(ObjectStoreContract, AbortedWriterLeavesNothing) {
  auto writer = store_->StartMultipart("up/load");
  ASSERT_TRUE(writer.ok()) << writer.status();
  ASSERT_TRUE((*writer)->Write(Pattern(size_t{9} << 20)).ok());
  EXPECT_TRUE((*writer)->Abort().ok());
  EXPECT_THAT(Keys(""), ::testing::IsEmpty());
  auto dropped = store_->StartMultipart("up/load2");
  ASSERT_TRUE(dropped.ok());
  ASSERT_TRUE((*dropped)->Write("text").ok());
  dropped->reset();
  EXPECT_THAT(Keys(""), ::testing::IsEmpty());
}

TEST_P(ObjectStoreContract, RefusesBadKeysEverywhere) {
  const auto file = scratch_->path() / "f";
  ASSERT_TRUE(WriteFileAtomic(file, "x").ok());
  for (const std::string& key : {std::string(), std::string("../x"), std::string("/abs"), std::string(1000, 'k')}) {
    EXPECT_EQ(store_->Put(key, "x", PutMode::kOverwrite).reason(), "OBJECT_KEY_INVALID") << key;
    EXPECT_EQ(store_->PutFile(key, file).status().reason(), "OBJECT_KEY_INVALID");
    EXPECT_EQ(store_->StartMultipart(key).status().reason(), "OBJECT_KEY_INVALID");
    EXPECT_EQ(store_->Get(key, 1).status().reason(), "OBJECT_KEY_INVALID");
    EXPECT_EQ(store_->GetRange(key, 0, 1).status().reason(), "OBJECT_KEY_INVALID");
    EXPECT_EQ(store_->GetToFile(key, file).status().reason(), "OBJECT_KEY_INVALID");
    EXPECT_EQ(store_->Head(key).status().reason(), "OBJECT_KEY_INVALID");
    EXPECT_EQ(store_->Delete(key).reason(), "OBJECT_KEY_INVALID");
  }
  EXPECT_EQ(store_->List("a/../b", {}).status().reason(), "OBJECT_KEY_INVALID");
}

TEST_P(ObjectStoreContract, PresigningIsThereOrSaysNo) {
  if (!GetParam().presigns) {
    EXPECT_EQ(store_->PresignGet("k", std::chrono::seconds(60)).status().reason(), "PRESIGN_UNSUPPORTED");
    EXPECT_EQ(store_->PresignPut("k", std::chrono::seconds(60)).status().code(), StatusCode::kUnimplemented);
    return;
  }
  const auto url = store_->PresignGet("k", std::chrono::seconds(60));
  ASSERT_TRUE(url.ok()) << url.status();
  EXPECT_THAT(*url, ::testing::HasSubstr("X-Amz-Expires=60"));
  EXPECT_EQ(store_->PresignGet("k", std::chrono::seconds(0)).status().reason(), "PRESIGN_TTL_INVALID");
  EXPECT_EQ(store_->PresignPut("k", std::chrono::hours(169)).status().reason(), "PRESIGN_TTL_INVALID");
}

}  // namespace sbora
