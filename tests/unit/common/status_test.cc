#include "common/status.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <memory>
#include <optional>
#include <string>
#include <utility>

namespace sbora {
namespace {

StatusOr<std::optional<int>> Nothing() { return std::nullopt; }
StatusOr<std::optional<int>> Seven() { return 7; }
StatusOr<std::optional<int>> EmptyVariable() {
  const std::optional<int> none;
  return none;
}

TEST(StatusOr, AnEmptyOptionalIsAValue) {
  for (const auto& found : {Nothing(), EmptyVariable()}) {
    ASSERT_TRUE(found.ok());
    EXPECT_TRUE(found.status().ok());
    EXPECT_EQ(*found, std::nullopt);
  }
  EXPECT_EQ(*Seven(), 7);
}

TEST(StatusOr, HoldsAValueOrItsError) {
  const StatusOr<std::string> good = "text";
  ASSERT_TRUE(good.ok());
  EXPECT_EQ(good->size(), 4u);

  const StatusOr<std::string> bad = NotFound("MODEL_NOT_FOUND", "no model base");
  ASSERT_FALSE(bad.ok());
  EXPECT_EQ(bad.status().code(), StatusCode::kNotFound);
  EXPECT_EQ(bad.status().reason(), "MODEL_NOT_FOUND");
  EXPECT_DEATH((void)bad.value(), "MODEL_NOT_FOUND");
  EXPECT_DEATH((void)(StatusOr<int>{OkStatus()}), "without a value");
}

TEST(StatusOr, MovesWhatCannotBeCopied) {
  StatusOr<std::unique_ptr<int>> held = std::make_unique<int>(3);
  const std::unique_ptr<int> taken = std::move(held).value();
  EXPECT_EQ(*taken, 3);
}

TEST(FromErrno, NamesWhatFailedAndWhy) {
  const Status missing = FromErrno(ENOENT, "open job.yaml");
  EXPECT_EQ(missing.code(), StatusCode::kNotFound);
  EXPECT_NE(missing.message().find("open job.yaml"), std::string::npos);
  EXPECT_EQ(FromErrno(ENOSPC, "write").code(), StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace sbora
