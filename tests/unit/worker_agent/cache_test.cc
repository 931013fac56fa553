#include "worker/agent/cache.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <atomic>
#include <fstream>
#include <thread>

#include "common/file.h"
#include "common/sha256.h"

namespace sbora::agent {
namespace {

namespace fs = std::filesystem;

v1::File FileOf(const std::string& name, const std::string& bytes) {
  v1::File file;
  file.set_path(name);
  file.set_size_bytes(static_cast<int64_t>(bytes.size()));
  file.set_sha256(Sha256Hex(bytes));
  return file;
}

class CacheTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto folder = TempDirectory::Create(fs::temp_directory_path(), "sbora-cache-test");
    ASSERT_TRUE(folder.ok());
    folder_ = std::make_unique<TempDirectory>(*std::move(folder));
    Open(1000);
  }
  void Open(int64_t limit) {
    auto cache = Cache::Open(folder_->path() / "cache", limit, [this] { ++damaged_; });
    ASSERT_TRUE(cache.ok()) << cache.status();
    cache_ = *std::move(cache);
  }
  StatusOr<CachePin> Get(const std::string& bytes) {
    return cache_->Get(FileOf("f", bytes), [&](const fs::path& path) {
      ++fetches_;
      return WriteFileAtomic(path, bytes);
    }, {});
  }

  std::unique_ptr<TempDirectory> folder_;
  std::unique_ptr<Cache> cache_;
  int fetches_ = 0;
  int damaged_ = 0;
};

/// Other bytes of the same number in the same place, as a disk that rots: nothing but the bytes changes.
void Rot(const fs::path& path) {
  const auto modified = fs::last_write_time(path);
  fs::permissions(path, fs::perms::owner_write, fs::perm_options::add);
  std::fstream(path, std::ios::in | std::ios::out | std::ios::binary).put('?');
  fs::last_write_time(path, modified);
}

TEST_F(CacheTest, FetchesOnceAndAgainAfterARestartNot) {
  ASSERT_TRUE(Get("abc").ok());
  ASSERT_TRUE(Get("abc").ok());
  Open(1000);
  auto pin = Get("abc");
  ASSERT_TRUE(pin.ok());
  EXPECT_EQ(fetches_, 1);
  EXPECT_EQ(*ReadFile(pin->path(), 10), "abc");
}

TEST_F(CacheTest, RemovesTheLeastRecentlyUsedButNothingInUse) {
  auto in_use = Get(std::string(400, 'a'));
  ASSERT_TRUE(in_use.ok());
  ASSERT_TRUE(Get(std::string(400, 'b')).ok());
  ASSERT_TRUE(Get(std::string(400, 'c')).ok());
  EXPECT_LE(cache_->used_bytes(), 1000);
  EXPECT_TRUE(fs::exists(in_use->path()));
  EXPECT_EQ(fetches_, 3);
  ASSERT_TRUE(Get(std::string(400, 'c')).ok());
  EXPECT_EQ(fetches_, 3);
  ASSERT_TRUE(Get(std::string(400, 'b')).ok());
  EXPECT_EQ(fetches_, 4);
}

TEST_F(CacheTest, LimitGivesWayToFilesInUse) {
  auto a = Get(std::string(800, 'a'));
  auto b = Get(std::string(800, 'b'));
  ASSERT_TRUE(a.ok() && b.ok());
  EXPECT_EQ(cache_->used_bytes(), 1600);
  a = CachePin();
  EXPECT_EQ(cache_->used_bytes(), 800);
}

TEST_F(CacheTest, ShortenedFileIsFetchedAgain) {
  fs::path path;
  {
    auto pin = Get("abcdef");
    ASSERT_TRUE(pin.ok());
    path = pin->path();
  }
  fs::remove(path);
  ASSERT_TRUE(WriteFileAtomic(path, "abc").ok());
  auto pin = Get("abcdef");
  ASSERT_TRUE(pin.ok());
  EXPECT_EQ(*ReadFile(pin->path(), 10), "abcdef");
  EXPECT_EQ(fetches_, 2);
}

TEST_F(CacheTest, RotOfTheSameSizeIsFoundAtTheFirstUseAfterARestart) {
  fs::path path;
  {
    auto pin = Get("abcdef");
    ASSERT_TRUE(pin.ok());
    path = pin->path();
  }
  Rot(path);
  ASSERT_EQ(*ReadFile(path, 10), "?bcdef");
  Open(1000);
  auto pin = Get("abcdef");
  ASSERT_TRUE(pin.ok()) << pin.status();
  EXPECT_EQ(*ReadFile(pin->path(), 10), "abcdef");
  EXPECT_EQ(fetches_, 2);
  EXPECT_EQ(damaged_, 1);
}

TEST_F(CacheTest, AFileThatWasTouchedIsCheckedAgain) {
  auto pin = Get("abcdef");
  ASSERT_TRUE(pin.ok());
  const fs::path path = pin->path();
  ASSERT_TRUE(Get("abcdef").ok());
  EXPECT_EQ(damaged_, 0);
  Rot(path);
  fs::last_write_time(path, fs::last_write_time(path) + std::chrono::seconds(1));
  auto again = Get("abcdef");
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(*ReadFile(again->path(), 10), "abcdef");
  EXPECT_EQ(*ReadFile(path, 10), "?bcdef");  // still there for the one who has it
  EXPECT_EQ(fetches_, 2);
  pin = CachePin();
  EXPECT_FALSE(fs::exists(path));
}

TEST_F(CacheTest, RecheckLooksAtTheBytesWhateverWasCheckedBefore) {
  auto pin = Get("abcdef");
  ASSERT_TRUE(pin.ok());
  EXPECT_TRUE(cache_->Recheck(*pin, {}).ok());
  EXPECT_EQ(cache_->used_bytes(), 6);
  std::stop_source stopped;
  stopped.request_stop();
  EXPECT_EQ(cache_->Recheck(*pin, stopped.get_token()).reason(), "STOPPED");
  Rot(pin->path());
  const Status status = cache_->Recheck(*pin, {});
  EXPECT_EQ(status.reason(), "CACHE_DAMAGED");
  EXPECT_EQ(status.code(), StatusCode::kDataLoss);
  EXPECT_EQ(cache_->used_bytes(), 0);
  EXPECT_EQ(damaged_, 1);
}

TEST_F(CacheTest, TheOrderOfUseSurvivesARestart) {
  ASSERT_TRUE(Get(std::string(400, 'a')).ok());
  ASSERT_TRUE(Get(std::string(400, 'b')).ok());
  ASSERT_TRUE(Get(std::string(400, 'a')).ok());
  Open(1000);
  ASSERT_TRUE(Get(std::string(400, 'c')).ok());  // "b" makes room
  EXPECT_EQ(fetches_, 3);
  ASSERT_TRUE(Get(std::string(400, 'a')).ok());
  EXPECT_EQ(fetches_, 3);
}

TEST_F(CacheTest, TwoCallersFetchOnce) {
  std::atomic<int> fetches = 0;
  const v1::File file = FileOf("f", "shared");
  const auto get = [&] {
    auto pin = cache_->Get(file, [&](const fs::path& path) {
      ++fetches;
      return WriteFileAtomic(path, "shared");
    }, {});
    EXPECT_TRUE(pin.ok());
  };
  {
    const std::jthread one(get), two(get), three(get);
  }
  EXPECT_EQ(fetches, 1);
}

TEST_F(CacheTest, FailedFetchLeavesNothing) {
  const v1::File file = FileOf("f", "abc");
  const auto failed = cache_->Get(file, [](const fs::path&) { return Unavailable("AWAY", "away"); }, {});
  EXPECT_EQ(failed.status().reason(), "AWAY");
  EXPECT_TRUE(Get("abc").ok());
}

TEST_F(CacheTest, FileWithoutHashIsRefused) {
  v1::File file = FileOf("f", "abc");
  file.set_sha256("../../x");
  EXPECT_EQ(cache_->Get(file, [](const fs::path&) { return OkStatus(); }, {}).status().reason(), "BAD_FILE");
}

TEST_F(CacheTest, KeepsFoldersByKey) {
  const std::string key = Sha256Hex("key");
  EXPECT_FALSE(cache_->FindFolder(key).has_value());
  const fs::path made = folder_->path() / "made";
  fs::create_directories(made / "token_cache");
  ASSERT_TRUE(WriteFileAtomic(made / "token_cache" / "x", "12345").ok());
  ASSERT_TRUE(cache_->AddFolder(key, made).ok());
  EXPECT_FALSE(fs::exists(made));
  Open(1000);
  const auto found = cache_->FindFolder(key);
  ASSERT_TRUE(found.has_value());
  EXPECT_TRUE(fs::exists(found->path() / "token_cache" / "x"));
  EXPECT_EQ(cache_->used_bytes(), 5);
}

TEST_F(CacheTest, MaterialisesByCheckedNames) {
  google::protobuf::RepeatedPtrField<v1::File> files;
  *files.Add() = FileOf("config.json", "abc");
  std::vector<CachePin> pins;
  pins.push_back(*Get("abc"));
  ASSERT_TRUE(Materialise(folder_->path() / "group", files, pins).ok());
  EXPECT_EQ(*ReadFile(folder_->path() / "group" / "config.json", 10), "abc");
  EXPECT_EQ(Materialise(folder_->path() / "group", files, pins).reason(), "DUPLICATE_FILE");
  files[0].set_path("../escape");
  EXPECT_EQ(Materialise(folder_->path() / "other", files, pins).reason(), "BAD_FILE_NAME");
}

TEST(FileNameTest, OnlyPlainNames) {
  for (const char* name : {"config.json", "model-00001-of-00002.safetensors", "A_b-c.1"}) {
    EXPECT_TRUE(CheckFileName(name).ok()) << name;
  }
  for (const char* name : {"", ".", "..", "a/b", "/a", "a b", "a\nb", "\xc3\xa9"}) {
    EXPECT_FALSE(CheckFileName(name).ok()) << name;
  }
  EXPECT_FALSE(CheckFileName(std::string(201, 'a')).ok());
  EXPECT_FALSE(CheckFileName(std::string_view("a\0b", 3)).ok());
}

TEST_F(CacheTest, AFullDiskTakesWhatNobodyUsesAndTriesAgain) {
  ASSERT_TRUE(Get("unused").ok());
  auto used = Get("used");
  ASSERT_TRUE(used.ok());
  int calls = 0;
  auto pin = cache_->Get(FileOf("f", "new"), [&](const fs::path& path) -> Status {
    if (++calls == 1) return ResourceExhausted("NO_SPACE", "no space left on device");
    return WriteFileAtomic(path, "new");
  }, {});
  ASSERT_TRUE(pin.ok()) << pin.status();
  EXPECT_EQ(calls, 2);
  EXPECT_TRUE(fs::exists(used->path()));
  EXPECT_EQ(cache_->used_bytes(), 7);  // "used" and "new"
}

TEST_F(CacheTest, ADroppedFileIsFetchedAgain) {
  auto damaged = Get("abc");
  ASSERT_TRUE(damaged.ok());
  cache_->Drop(*damaged);
  EXPECT_EQ(cache_->used_bytes(), 0);
  auto fresh = Get("abc");
  ASSERT_TRUE(fresh.ok());
  EXPECT_EQ(fetches_, 2);
  damaged = CachePin();
  EXPECT_TRUE(fs::exists(fresh->path()));
  fresh = CachePin();
  ASSERT_TRUE(Get("abc").ok());
  EXPECT_EQ(fetches_, 2);
}

TEST_F(CacheTest, ADroppedFolderStaysForThoseWhoUseItAndGoesWithTheLast) {
  const std::string key = Sha256Hex("key");
  const auto make = [&](const std::string& text) {
    fs::create_directories(folder_->path() / "made");
    EXPECT_TRUE(WriteFileAtomic(folder_->path() / "made" / "file", text).ok());
    return cache_->AddFolder(key, folder_->path() / "made");
  };
  auto first = make("old");
  ASSERT_TRUE(first.ok());
  std::optional<CachePin> second = cache_->FindFolder(key);
  ASSERT_TRUE(second);
  const fs::path old_path = first->path();
  cache_->Drop(*first);
  cache_->Drop(*second);  // the second attempt finds the damage too
  first = CachePin();
  EXPECT_EQ(*ReadFile(second->path() / "file", 10), "old");
  EXPECT_FALSE(cache_->FindFolder(key));

  auto fresh = make("new");
  ASSERT_TRUE(fresh.ok()) << fresh.status();
  cache_->Drop(*second);  // says nothing about the new one
  second.reset();
  EXPECT_FALSE(fs::exists(old_path));
  const auto found = cache_->FindFolder(key);
  ASSERT_TRUE(found);
  EXPECT_EQ(*ReadFile(found->path() / "file", 10), "new");
}

TEST_F(CacheTest, OfTwoWithOneKeyARestartKeepsTheYounger) {
  const fs::path files = folder_->path() / "cache" / "files";
  const std::string key = Sha256Hex("young");
  ASSERT_TRUE(WriteFileAtomic(files / (key + ".2"), "young").ok());
  ASSERT_TRUE(WriteFileAtomic(files / key, "o l d").ok());
  ASSERT_TRUE(WriteFileAtomic(files / (key + ".x"), "junk").ok());
  Open(1000);
  EXPECT_EQ(cache_->used_bytes(), 5);
  EXPECT_EQ(std::distance(fs::directory_iterator(files), {}), 1);
  const auto pin = Get("young");
  ASSERT_TRUE(pin.ok());
  EXPECT_EQ(fetches_, 0);
  EXPECT_EQ(*ReadFile(pin->path(), 10), "young");
}

TEST_F(CacheTest, ADroppedOrMissingFolderIsMadeAgain) {
  const std::string key = Sha256Hex("key");
  const auto make = [&](const std::string& text) {
    fs::create_directories(folder_->path() / "made");
    EXPECT_TRUE(WriteFileAtomic(folder_->path() / "made" / "file", text).ok());
    return cache_->AddFolder(key, folder_->path() / "made");
  };
  auto damaged = make("damaged");
  ASSERT_TRUE(damaged.ok());
  cache_->Drop(*damaged);
  EXPECT_FALSE(cache_->FindFolder(key));
  auto again = make("good");
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(*ReadFile(again->path() / "file", 10), "good");
  fs::remove_all(again->path());
  EXPECT_FALSE(cache_->FindFolder(key));
  auto third = make("third");
  ASSERT_TRUE(third.ok()) << third.status();
  EXPECT_EQ(*ReadFile(third->path() / "file", 10), "third");
}

}  // namespace
}  // namespace sbora::agent
