/// Fixtures of a running service with the inputs of small_job.h: one for each test, or one for all of them.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <string>
#include <utility>

#include "common/status_macros.h"
#include "tests/integration/service/small_job.h"

namespace sbora::testing {

/// What tests of either kind ask their service for.
class RunningServiceTest : public ::testing::Test {
 protected:
  virtual Service& service() = 0;
  client::Client& client() { return service().client(); }
  std::filesystem::path Dir(const std::string& name) { return service().directory() / name; }
  std::string Job(const std::string& id) { return client().ResourceName("fineTuningJobs", id); }

  /// Waits for an operation that makes files, and puts them in Dir(name).
  template <typename Result>
  Status PullResult(StatusOr<google::longrunning::Operation> operation, const std::string& name) {
    SBORA_RETURN_IF_ERROR(operation.status());
    SBORA_ASSIGN_OR_RETURN(const auto done, client().WaitOperation(*std::move(operation), {}, {}));
    Result result;
    if (done.has_error() || !done.response().UnpackTo(&result)) return Internal("OPERATION", done.error().message());
    return client().Pull(result.files(), "", Dir(name), {});
  }
};

/// A service for each test.
class OwnServiceTest : public RunningServiceTest {
 protected:
  void SetUp() override {
    auto service = StartWithInputs();
    ASSERT_TRUE(service.ok()) << service.status();
    service_ = *std::move(service);
  }
  Service& service() override { return *service_; }

 private:
  std::unique_ptr<Service> service_;
};

/// A service for all tests of the program: starting and importing take seconds.
class SharedServiceTest : public RunningServiceTest {
 protected:
  static void SetUpTestSuite() {
    auto service = StartWithInputs();
    ASSERT_TRUE(service.ok()) << service.status();
    service_ = *std::move(service);
  }
  static void TearDownTestSuite() { service_.reset(); }
  void SetUp() override { ASSERT_NE(service_, nullptr); }
  Service& service() override { return *service_; }

 private:
  static inline std::unique_ptr<Service> service_;
};

}  // namespace sbora::testing
