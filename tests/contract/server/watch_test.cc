// WatchFineTuningJob through the RPC: taken up again by sequence, and ended when the reader is too slow.
#include <map>

#include "tests/contract/server/contract_fixture.h"

namespace sbora::server {
namespace {

using Stub = v1::FineTuningService::Stub;

class WatchTest : public ContractTest {
 protected:
  void SetUp() override {
    ContractTest::SetUp();
    MakeModel("base");
    MakeDataset("data");
    ASSERT_TRUE(Call(*jobs_, &Stub::CreateFineTuningJob, GoodJob("first"), &job_).ok());
  }

  struct Watch {
    grpc::ClientContext context;
    std::unique_ptr<grpc::ClientReader<v1::WatchFineTuningJobResponse>> reader;
  };
  std::unique_ptr<Watch> Start(int64_t after_sequence) {
    auto watch = std::make_unique<Watch>();
    Prepare(watch->context);
    v1::WatchFineTuningJobRequest request;
    request.set_name(job_.name());
    request.set_after_sequence(after_sequence);
    watch->reader = jobs_->WatchFineTuningJob(&watch->context, request);
    return watch;
  }
  /// Reads to the end: what was said, by sequence, live progress left out.
  grpc::Status ReadAll(Watch& watch, std::map<int64_t, std::string>* messages) {
    v1::WatchFineTuningJobResponse response;
    while (watch.reader->Read(&response)) {
      if (response.has_progress()) continue;
      const std::string kind = response.has_job() ? "job" : response.has_event() ? response.event().message() : "metric";
      EXPECT_TRUE(messages->emplace(response.sequence(), kind).second) << "sequence " << response.sequence() << " came twice";
    }
    return watch.reader->Finish();
  }
  /// The agent's log lines `first` to `last`, in one report.
  void Report(const worker::v1::Lease& lease, int first, int last) {
    worker::v1::AttemptReport& report = attempts_[lease.id().uid()];
    report.mutable_running()->set_device("cpu");
    report.clear_items();
    for (int i = first; i <= last; ++i) {
      worker::v1::ReportItem& item = *report.add_items();
      item.set_sequence(i);
      item.mutable_event()->set_type("LOG");
      item.mutable_event()->set_message("line " + std::to_string(i));
    }
    Sync([&](const worker::v1::SynchronizeResponse& answer) {
      return answer.renewed_size() > 0 && answer.renewed(0).acknowledged_item() == last;
    });
  }

  v1::FineTuningJob job_;
};

TEST_F(WatchTest, EachSequenceIsAPlaceToGoOnFrom) {
  FinishJob("first");
  std::map<int64_t, std::string> whole;
  ASSERT_TRUE(ReadAll(*Start(0), &whole).ok());
  ASSERT_GE(whole.size(), 4U);
  for (const auto& [sequence, kind] : whole) {
    std::map<int64_t, std::string> rest;
    ASSERT_TRUE(ReadAll(*Start(sequence), &rest).ok());
    EXPECT_TRUE((rest == std::map<int64_t, std::string>(whole.upper_bound(sequence), whole.end()))) << "after " << sequence;
  }
  v1::WatchFineTuningJobResponse response;
  const auto bad = Start(-1);
  EXPECT_FALSE(bad->reader->Read(&response));
  EXPECT_TRUE(Fails(bad->reader->Finish(), grpc::INVALID_ARGUMENT, "BAD_SEQUENCE"));
}

TEST_F(WatchTest, AWatcherThatLeavesEndsItsStream) {
  const std::string method = "sbora.v1.FineTuningService/WatchFineTuningJob";
  const int before = EndedCalls(method, "CANCELLED");
  const auto watch = Start(0);
  v1::WatchFineTuningJobResponse response;
  do {
    ASSERT_TRUE(watch->reader->Read(&response));
  } while (response.job().state() != v1::FineTuningJob::STATE_QUEUED);  // from here on nothing happens
  watch->context.TryCancel();
  WaitForEndedCall(method, "CANCELLED", before);
}

TEST_F(WatchTest, ASlowReaderIsToldAndMissesNothingWhenItGoesOn) {
  WaitForState("first", v1::FineTuningJob::STATE_QUEUED);
  const worker::v1::Lease lease = NextLease();
  ReportRunning(lease);
  const auto slow = Start(0);
  Report(lease, 1, 1);
  v1::WatchFineTuningJobResponse response;
  do {
    ASSERT_TRUE(slow->reader->Read(&response));
  } while (response.event().message() != "line 1");
  constexpr int kLines = 1000;  // at once; a watcher's queue has room for 256
  Report(lease, 2, kLines);
  std::map<int64_t, std::string> first_part;
  EXPECT_TRUE(Fails(ReadAll(*slow, &first_part), grpc::RESOURCE_EXHAUSTED, "WATCH_TOO_SLOW"));
  EXPECT_LT(first_part.size(), 300U);
  first_part.emplace(response.sequence(), "line 1");

  worker::v1::TaskResult result;
  result.mutable_train()->set_steps(2);
  attempts_[lease.id().uid()].clear_items();
  ASSERT_TRUE(Commit(lease, result, {{"adapter_config.json", "{}"}, {"adapter_model.safetensors", "factors"}}).ok());
  std::map<int64_t, std::string> rest;
  ASSERT_TRUE(ReadAll(*Start(first_part.rbegin()->first), &rest).ok());
  int lines = 0;
  for (const auto* part : {&first_part, &rest}) {
    for (const auto& [sequence, message] : *part) lines += message.starts_with("line ") ? 1 : 0;
  }
  EXPECT_EQ(lines, kLines);
}

}  // namespace
}  // namespace sbora::server
