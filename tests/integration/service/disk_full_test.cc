/// A real full disk. Under the worker: the job is held at its checkpoint, tells why, and goes on when there is room. Under the
/// server: what is asked is refused, saying why, nothing accepted is lost, and the server comes back by itself.
#include <gtest/gtest.h>
#include <sys/mount.h>

#include <cerrno>
#include <cstring>
#include <fstream>

#include "tests/integration/service/small_job.h"

namespace sbora::testing {
namespace {

using std::chrono::seconds;

constexpr int64_t kSteps = 300;

/// A small file system of its own.
class SmallDisk {
 public:
  SmallDisk(std::filesystem::path folder, int megabytes) : folder_(std::move(folder)) {
    std::filesystem::create_directories(folder_);
    mounted_ = ::mount("sbora-test", folder_.c_str(), "tmpfs", 0, fmt::format("size={}m", megabytes).c_str()) == 0;
    error_ = mounted_ ? 0 : errno;
  }
  ~SmallDisk() {
    if (mounted_) ::umount2(folder_.c_str(), MNT_DETACH);
  }
  SmallDisk(const SmallDisk&) = delete;
  SmallDisk& operator=(const SmallDisk&) = delete;

  bool mounted() const { return mounted_; }
  std::string error() const { return std::strerror(error_); }

  /// Until nothing more fits.
  void Fill() {
    std::ofstream out(folder_ / "filler", std::ios::binary);
    const std::string block(4096, 'x');
    while (out.write(block.data(), static_cast<std::streamsize>(block.size())).flush()) {
    }
  }
  void MakeRoom() { std::filesystem::remove(folder_ / "filler"); }

 private:
  std::filesystem::path folder_;
  bool mounted_ = false;
  int error_ = 0;
};

/// Starts `service` and runs the job "undisturbed" to its end.
void RunUndisturbed(Service& service) {
  ASSERT_TRUE(service.StartBoth().ok()) << service.Logs();
  ASSERT_TRUE(AddInputs(service).ok()) << service.Logs();
  ASSERT_TRUE(service.Submit("undisturbed", SmallSpec(kSteps)).ok());
  const auto reference = service.WaitForState("undisturbed", v1::FineTuningJob::STATE_SUCCEEDED, seconds(120));
  ASSERT_TRUE(reference.ok()) << reference.status() << service.Logs();
}

/// Fills `disk` under a new job at its step 30.
void FillDuring(const std::string& job, Service& service, SmallDisk& disk) {
  ASSERT_TRUE(service.Submit(job, SmallSpec(kSteps)).ok());
  ASSERT_TRUE(service.WaitForStep(job, 30, seconds(120)).ok()) << service.Logs();
  disk.Fill();
}

TEST(DiskFullTest, AJobIsHeldAtItsCheckpointAndGoesOnWhenThereIsRoom) {
  auto created = Service::Create();
  ASSERT_TRUE(created.ok()) << created.status();
  Service& service = **created;
  SmallDisk disk(service.directory() / "worker", 64);
  if (!disk.mounted()) GTEST_SKIP() << "needs the right to mount a tmpfs: " << disk.error();
  ASSERT_NO_FATAL_FAILURE(RunUndisturbed(service));
  StatusOr<v1::FineTuningJob> held = Unavailable("NOT_ASKED", "no disk was filled");
  const auto squeezed = HitARunningJob("squeezed", [&](const std::string& id) {
    FillDuring(id, service, disk);
    if (HasFailure()) return true;
    held = service.WaitForState(id, v1::FineTuningJob::STATE_PAUSED, seconds(120));
    if (held.ok()) return true;
    EXPECT_EQ(service.Get(id)->state(), v1::FineTuningJob::STATE_SUCCEEDED) << held.status() << service.Logs();
    disk.MakeRoom();
    return HasFailure();
  });
  ASSERT_TRUE(squeezed.ok()) << squeezed.status() << service.Logs();
  ASSERT_TRUE(held.ok()) << held.status() << service.Logs();
  EXPECT_EQ(held->termination_reason(), v1::TERMINATION_REASON_NO_SPACE);
  EXPECT_EQ(held->failure().reason(), "NO_SPACE");
  EXPECT_FALSE(held->failure().message().empty());

  disk.MakeRoom();
  ASSERT_TRUE(service.client().ResumeJob(held->name()).ok());
  const auto done = service.WaitForState(*squeezed, v1::FineTuningJob::STATE_SUCCEEDED, seconds(120));
  ASSERT_TRUE(done.ok()) << done.status() << service.Logs();
  EXPECT_EQ(*service.AdapterHash(*squeezed), *service.AdapterHash("undisturbed"));
}

TEST(DiskFullTest, AFullServerRefusesWithTheReasonAndLosesNothing) {
  auto created = Service::Create();
  ASSERT_TRUE(created.ok()) << created.status();
  Service& service = **created;
  SmallDisk disk(service.directory() / "server", 64);
  if (!disk.mounted()) GTEST_SKIP() << "needs the right to mount a tmpfs: " << disk.error();
  ASSERT_NO_FATAL_FAILURE(RunUndisturbed(service));
  ASSERT_NO_FATAL_FAILURE(FillDuring("running", service, disk));
  // The store still has room in the blocks that its files hold already: jobs are accepted until that is used up.
  constexpr int kMostAccepted = 1000;
  StatusOr<v1::FineTuningJob> last = Unavailable("NOT_ASKED", "nothing was submitted");
  int accepted = 0;
  while (accepted < kMostAccepted) {
    last = service.Submit(fmt::format("late-{}", accepted), SmallSpec(5));
    if (!last.ok()) break;
    ++accepted;
  }
  EXPECT_EQ(last.status().code(), StatusCode::kUnavailable) << last.status();
  EXPECT_NE(last.status().message().find("full"), std::string::npos) << last.status();
  const auto missing = service.Get(fmt::format("late-{}", accepted));
  EXPECT_EQ(missing.status().code(), StatusCode::kNotFound) << "what was refused is there";

  disk.MakeRoom();
  // Accepted may also be a call whose answer came too late.
  const auto accepted_again = [&] { return service.Submit("with-room", SmallSpec(5)).ok() || service.Get("with-room").ok(); };
  ASSERT_TRUE(WaitUntil(accepted_again, seconds(120))) << service.Logs();
  for (int i = 0; i < accepted; ++i) {
    const std::string id = fmt::format("late-{}", i);
    EXPECT_TRUE(service.Get(id).ok()) << id << " was accepted and is lost";
    service.client().CancelJob(service.client().ResourceName("fineTuningJobs", id)).status().IgnoreError("it may have run already");
  }
  // A job that came to its result before there was room is held at its checkpoint; one that had steps left went on.
  const auto held = service.WaitForState("running", v1::FineTuningJob::STATE_PAUSED, seconds(120));
  if (held.ok()) {
    EXPECT_EQ(held->failure().reason(), "NO_SPACE") << held->failure().message();
    ASSERT_TRUE(service.client().ResumeJob(held->name()).ok());
  }
  const auto done = service.WaitForState("running", v1::FineTuningJob::STATE_SUCCEEDED, seconds(120));
  ASSERT_TRUE(done.ok()) << done.status() << service.Logs();
  EXPECT_EQ(*service.AdapterHash("running"), *service.AdapterHash("undisturbed"));
  EXPECT_TRUE(service.WaitForState("with-room", v1::FineTuningJob::STATE_SUCCEEDED, seconds(120)).ok()) << service.Logs();
}

}  // namespace
}  // namespace sbora::testing
