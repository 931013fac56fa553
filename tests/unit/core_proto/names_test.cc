#include "core/names.h"

#include <gtest/gtest.h>

namespace sbora::core {
namespace {

TEST(NamesTest, FullNamesRoundTrip) {
  for (const auto collection : {Collection::kModels, Collection::kDatasets, Collection::kFineTuningJobs,
                                Collection::kEvaluationJobs, Collection::kAdapters}) {
    const ResourceName name{"default", collection, "a-b1"};
    const auto parsed = ParseName(name.ToString(), collection, "name");
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_EQ(*parsed, name);
  }
}

TEST(NamesTest, BareIdsTakeTheGivenProject) {
  const auto parsed = ParseNameOrId("tiny", Collection::kModels, "team", "spec.model");
  ASSERT_TRUE(parsed.ok());
  EXPECT_EQ(parsed->ToString(), "projects/team/models/tiny");
}

TEST(NamesTest, HostileNamesAreRefusedWithTheField) {
  for (const char* name : {"", "projects/", "projects/p/models/", "projects/p/models/../x", "projects/p/datasets/a",
                           "projects/P/models/a", "projects/p/models/a/b", "/projects/p/models/a",
                           "projects/../models/a", "projects/p/models/a\n"}) {
    const auto parsed = ParseName(name, Collection::kModels, "name");
    ASSERT_FALSE(parsed.ok()) << name;
    EXPECT_EQ(parsed.status().code(), StatusCode::kInvalidArgument);
    ASSERT_EQ(parsed.status().violations().size(), 1u) << name;
    EXPECT_EQ(parsed.status().violations()[0].field, "name");
  }
}

TEST(NamesTest, UploadsAreUuids) {
  EXPECT_FALSE(ParseName("projects/p/uploads/abc", Collection::kUploads, "upload").ok());
  EXPECT_TRUE(ParseName("projects/p/uploads/0190b5a0-1234-7abc-8def-0123456789ab", Collection::kUploads, "upload").ok());
}

}  // namespace
}  // namespace sbora::core
