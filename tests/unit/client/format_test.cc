#include "client/output/format.h"

#include <gtest/gtest.h>

#include "client/output/resources.h"

namespace sbora::client {
namespace {

v1::Worker SampleWorker() {
  v1::Worker worker;
  worker.set_name("workers/w1");
  worker.set_state(v1::Worker::STATE_READY);
  worker.set_slots_total(2);
  worker.mutable_last_seen_time()->set_seconds(1795471200);
  worker.add_leases("projects/default/fineTuningJobs/j");
  return worker;
}

TEST(ToJson, PrintsEveryFieldInProtobufForm) {
  v1::EstimateFineTuningJobResponse estimate;
  estimate.set_trainable_parameters(4423680);
  EXPECT_EQ(ToJson(estimate, true), "{\"trainableParameters\":\"4423680\",\"modules\":[],\"artifactBytes\":\"0\",\"notes\":[]}\n");
  EXPECT_EQ(ToJson(estimate),
            "{\n \"trainableParameters\": \"4423680\",\n \"modules\": [],\n \"artifactBytes\": \"0\",\n \"notes\": []\n}\n");
}

TEST(ToYaml, IsTheSameContent) {
  EXPECT_EQ(ToYaml(SampleWorker()),
            "name: \"workers/w1\"\n"
            "state: \"STATE_READY\"\n"
            "version: \"\"\n"
            "host: \"\"\n"
            "slotsTotal: 2\n"
            "slotsUsed: 0\n"
            "gpus: []\n"
            "leases:\n"
            "  - \"projects/default/fineTuningJobs/j\"\n"
            "instanceUuid: \"\"\n"
            "lastSeenTime: \"2026-11-23T22:00:00Z\"\n");
}

TEST(ToTable, AlignsColumnsByCharacters) {
  EXPECT_EQ(FormatTable({"NAME", "N"}, {{"größe", "1"}, {"x", ""}}), "NAME   N\ngröße  1\nx\n");
  EXPECT_EQ(ToTable(SampleWorker()),
            "NAME  STATE  HOST  SLOTS  GPUS  VERSION  LAST SEEN\n"
            "w1    READY        0/2    0              2026-11-23 22:00:00\n");
}

TEST(ToTable, JobLeavesOutWhatIsNotKnownYet) {
  v1::FineTuningJob job;
  job.set_name("projects/default/fineTuningJobs/calm-otter");
  job.set_state(v1::FineTuningJob::STATE_QUEUED);
  job.mutable_spec()->set_model("projects/default/models/m");
  job.mutable_spec()->set_quantization(v1::QUANTIZATION_NF4);
  job.mutable_spec()->mutable_adapter()->set_method(v1::METHOD_SBORA_FA);
  job.mutable_spec()->mutable_adapter()->set_rank(32);
  EXPECT_EQ(ToTable(job),
            "name    projects/default/fineTuningJobs/calm-otter\n"
            "state   QUEUED\n"
            "model   projects/default/models/m\n"
            "method  sbora_fa+nf4, rank 32\n");
}

TEST(ToTable, EvaluationShowsFiguresAndThreeExamples) {
  v1::EvaluationJob job;
  job.set_state(v1::EvaluationJob::STATE_SUCCEEDED);
  v1::EvaluationResult& result = *job.mutable_result();
  result.set_samples(60);
  result.set_correct(51);
  result.set_accuracy(0.85);
  result.set_loss(0.125);
  result.set_perplexity(1.133);
  for (int i = 0; i < 5; ++i) {
    auto* example = result.add_examples();
    example->set_index(i);
    example->set_prompt("line\nfeed");
    example->set_match(i == 0);
  }
  const std::string text = ToTable(job);
  EXPECT_NE(text.find("exact match  85.0 % (51 of 60)\n"), std::string::npos) << text;
  EXPECT_NE(text.find("example 0 (match)\n  prompt     line feed\n"), std::string::npos) << text;
  EXPECT_NE(text.find("example 2 (no match)"), std::string::npos);
  EXPECT_EQ(text.find("example 3"), std::string::npos);
}

TEST(Format, SmallPieces) {
  EXPECT_EQ(FormatBytes(0), "0 B");
  EXPECT_EQ(FormatBytes(1536), "1.5 KiB");
  EXPECT_EQ(FormatBytes(int64_t{3} << 40), "3.0 TiB");
  EXPECT_EQ(FormatCount(999), "999");
  EXPECT_EQ(FormatCount(134515008), "134,515,008");
  EXPECT_EQ(FormatCount(-1234567), "-1,234,567");
  EXPECT_EQ(FormatSeconds(59.4), "59 s");
  EXPECT_EQ(FormatSeconds(200), "3 min 20 s");
  EXPECT_EQ(FormatSeconds(7500), "2 h 5 min");
  EXPECT_EQ(ShortName("projects/p/models/m"), "m");
  EXPECT_EQ(OneLine("a\nb", 10), "a b");
  EXPECT_EQ(OneLine("abcdefgh", 6), "abc...");
  EXPECT_EQ(OneLine("abüdefgh", 6), "ab...");  // the cut would have split the character
}

}  // namespace
}  // namespace sbora::client
