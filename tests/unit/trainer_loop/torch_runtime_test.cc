// The border that LibTorch's exceptions and devices do not cross.
#include "worker/trainer/session/torch_runtime.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "tests/unit/trainer_nn/tiny_llama.h"
#include "worker/trainer/session/trainee.h"

namespace sbora::trainer {
namespace {

using ::testing::HasSubstr;

TEST(Guarded, AnExceptionOfTheStandardLibraryIsAnInternalErrorWithItsText) {
  const Status status = Guarded([]() -> Status {
    static_cast<void>(std::vector<int>(3).at(7));
    return OkStatus();
  });
  EXPECT_EQ(status.code(), StatusCode::kInternal);
  EXPECT_EQ(status.reason(), "TRAINER_EXCEPTION");
  EXPECT_THAT(status.message(), HasSubstr("(which is 7) >= this->size() (which is 3)"));
}

TEST(SetUpTorch, DevicesThatCannotBeAreNamed) {
  for (const char* device : {"", "tpu", "cuda", "cuda:", "cuda:x", "cuda:-1", "cuda:0x"}) {
    const Status status = SetUpTorch({.device = device}).status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << device;
    EXPECT_EQ(status.reason(), "DEVICE_UNKNOWN") << device;
    EXPECT_THAT(status.message(), HasSubstr(device));
  }
}

TEST(SetUpTorch, ADeviceThatTheMachineLacksIsNamed) {
  const Status status = SetUpTorch({.device = "cuda:1000"}).status();
  EXPECT_EQ(status.code(), StatusCode::kUnimplemented);
  EXPECT_EQ(status.reason(), "DEVICE_UNAVAILABLE");
  EXPECT_THAT(status.message(), HasSubstr("device \"cuda:1000\": this build on this machine has "));
  EXPECT_THAT(status.message(), HasSubstr("use device cpu"));
}

TEST(SetUpTorch, HalfPrecisionIsForGpus) {
  const Status status = SetUpTorch({.device = "cpu", .dtype = core::ComputeDtype::kBFloat16}).status();
  EXPECT_EQ(status.code(), StatusCode::kUnimplemented);
  EXPECT_EQ(status.reason(), "COMPUTE_DTYPE");
  EXPECT_THAT(status.message(), HasSubstr("use float32 on a CPU"));
}

}  // namespace
}  // namespace sbora::trainer
