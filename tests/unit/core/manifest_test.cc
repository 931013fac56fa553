#include "core/manifest.h"

#include <gmock/gmock.h>

#include "tests/unit/core/tiny_model.h"

namespace sbora::core {
namespace {

using testing::NewTempDirectory;

TEST(Manifest, BuildsWritesReadsAndVerifies) {
  const auto dir = NewTempDirectory();
  ASSERT_TRUE(WriteFileAtomic(dir.path() / "b.txt", "hello").ok());
  ASSERT_TRUE(WriteFileAtomic(dir.path() / "a.txt", "").ok());
  const auto built = BuildManifest(dir.path(), {{"steps", 3}});
  ASSERT_TRUE(built.ok()) << built.status();
  ASSERT_EQ(built->files.size(), 2u);
  EXPECT_EQ(built->files[1].sha256, "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824");
  EXPECT_EQ(built->total_bytes(), 5);
  ASSERT_TRUE(WriteManifest(dir.path(), *built).ok());
  const auto read = ReadManifest(dir.path());
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->files, built->files);
  EXPECT_EQ(read->summary["steps"], 3);
  EXPECT_TRUE(VerifyManifest(*read, dir.path()).ok());

  ASSERT_TRUE(WriteFileAtomic(dir.path() / "b.txt", "hellO").ok());
  EXPECT_EQ(VerifyManifest(*read, dir.path()).reason(), "MANIFEST_HASH_MISMATCH");
  ASSERT_TRUE(WriteFileAtomic(dir.path() / "b.txt", "hell").ok());
  EXPECT_EQ(VerifyManifest(*read, dir.path()).reason(), "MANIFEST_SIZE_MISMATCH");
  std::filesystem::remove(dir.path() / "b.txt");
  EXPECT_EQ(VerifyManifest(*read, dir.path()).reason(), "MANIFEST_FILE_MISSING");
}

TEST(ParseManifest, RefusesUnsafeOrBrokenText) {
  const auto entry = [](const std::string& name, const std::string& size = "1", std::string sha = std::string(64, '0')) {
    return R"({"name":")" + name + R"(","sizeBytes":)" + size + R"(,"sha256":")" + sha + "\"}";
  };
  const auto reason = [](const std::string& files) {
    return ParseManifest(R"({"manifestVersion":1,"files":[)" + files + "]}").status().reason();
  };
  EXPECT_TRUE(ParseManifest(R"({"manifestVersion":1,"files":[)" + entry("a.b") + "]}").ok());
  for (const char* name : {"../x", "/etc/passwd", "a/b", ".", "..", "", ".hidden", "manifest.json", "a b", "a\\u0000b"}) {
    EXPECT_EQ(reason(entry(name)), "MANIFEST_MALFORMED") << name;
  }
  EXPECT_EQ(reason(entry("a") + "," + entry("a")), "MANIFEST_MALFORMED");
  EXPECT_EQ(reason(entry("a", "-1")), "MANIFEST_MALFORMED");
  EXPECT_EQ(reason(entry("a", "18446744073709551615")), "MANIFEST_MALFORMED");
  EXPECT_EQ(reason(entry("a", "1", "abc")), "MANIFEST_MALFORMED");
  EXPECT_EQ(ParseManifest("").status().reason(), "MANIFEST_MALFORMED");
  EXPECT_EQ(ParseManifest(R"({"files":[]})").status().reason(), "MANIFEST_MALFORMED");
  EXPECT_EQ(ParseManifest(R"({"manifestVersion":2,"files":[]})").status().reason(), "MANIFEST_VERSION");
}

}  // namespace
}  // namespace sbora::core
