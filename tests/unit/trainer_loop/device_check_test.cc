#include "worker/trainer/session/device_check.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace sbora::trainer {
namespace {

TEST(DeviceCheck, TheCpuAgreesWithItself) {
  const DeviceDifference same = CompareDevices({}, {});
  EXPECT_EQ(same.loss, 0);
  EXPECT_EQ(same.gradient, 0);
  EXPECT_EQ(same.update, 0);  // paged ones too
  EXPECT_TRUE(CheckDevice({}).ok());
}

// bfloat16 against float32 is a harder test than bfloat16 against bfloat16 on another device: the tolerance leaves room
// for the second and must hold the first.
TEST(DeviceCheck, BFloat16StaysWithinItsToleranceOfFloat32) {
  const DeviceDifference found = CompareDevices({}, {.device = at::kCPU, .dtype = at::kBFloat16});
  const DeviceDifference limit = DeviceTolerance(at::kBFloat16);
  EXPECT_GT(found.gradient, 0);
  EXPECT_LE(found.loss, limit.loss);
  EXPECT_LE(found.gradient, limit.gradient);
}

TEST(DeviceCheck, TheToleranceOfFloat32IsTighterThanBFloat16sError) {
  const DeviceDifference found = CompareDevices({}, {.device = at::kCPU, .dtype = at::kBFloat16});
  EXPECT_GT(found.gradient, DeviceTolerance(at::kFloat).gradient);
}

// Another type on the same device is a device that computes something else.
TEST(DeviceCheck, ADeviceThatComputesSomethingElseIsRefusedWithFigures) {
  const DeviceAndDtype other{.device = at::kCPU, .dtype = at::kBFloat16};
  const Status refused = CheckDevice(other, {.device = at::kCPU, .dtype = at::kFloat});
  EXPECT_EQ(refused.code(), StatusCode::kInternal);
  EXPECT_EQ(refused.reason(), "DEVICE_CHECK_FAILED");
  EXPECT_THAT(refused.message(), ::testing::StartsWith("cpu in Float does not compute what the CPU computes"));
  EXPECT_THAT(refused.message(), ::testing::ContainsRegex("gradients by [0-9.]+ \\(limit 0.001\\)"));
  EXPECT_THAT(refused.message(), ::testing::HasSubstr("use device cpu"));
}

}  // namespace
}  // namespace sbora::trainer
