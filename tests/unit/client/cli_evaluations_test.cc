#include <gmock/gmock.h>

#include "tests/unit/client/cli_fixture.h"

namespace sbora::client {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST_F(CliTest, EvaluateWaitsAndShowsTheFigures) {
  ASSERT_EQ(Run({"evaluate", "--adapter", kJob, "--dataset", "held", "--max-new-tokens", "40"}), 0) << err_;
  const v1::EvaluationSpec& spec = server_.evaluations[0].evaluation_job().spec();
  EXPECT_EQ(spec.adapter(), "projects/default/adapters/tickets-1");
  EXPECT_EQ(spec.dataset(), "projects/default/datasets/held");
  EXPECT_EQ(spec.generation().max_new_tokens(), 40);
  EXPECT_THAT(out_, HasSubstr("exact match  90.0 % (9 of 10)"));
  EXPECT_EQ(spec.scoring(), v1::SCORING_UNSPECIFIED);  // the server's default
  ASSERT_EQ(Run({"evaluate", "--model", "m", "--base-quantization", "nf4", "--dataset", "held", "--no-wait"}), 0) << err_;
  EXPECT_EQ(server_.evaluations.back().evaluation_job().spec().base_quantization(), v1::QUANTIZATION_NF4);
  EXPECT_EQ(Run({"evaluate", "--dataset", "held"}), 2);
  EXPECT_EQ(Run({"evaluate", "--model", "m", "--adapter", "a", "--dataset", "held"}), 2);
}

TEST_F(CliTest, EvaluateTakesATasksSettingsAndFlagsOverrideThem) {
  ASSERT_EQ(Run({"evaluate", "--task", "BoolQ", "--model", "m", "--dataset", "d", "--num-beams", "1", "--no-wait"}), 0)
      << err_;
  const v1::EvaluationSpec& boolq = server_.evaluations.back().evaluation_job().spec();
  EXPECT_EQ(boolq.scoring(), v1::SCORING_ANSWER_WORD);
  EXPECT_THAT(boolq.answer_words(), ElementsAre("true", "false"));
  EXPECT_EQ(boolq.prompt_template(), v1::PROMPT_TEMPLATE_LLM_ADAPTERS);
  EXPECT_EQ(boolq.generation().max_new_tokens(), 32);
  EXPECT_EQ(boolq.generation().num_beams(), 1);
  ASSERT_EQ(Run({"evaluate", "--task", "AQuA", "--scoring", "option_letter_strict", "--model", "m", "--dataset", "d",
                 "--no-wait"}),
            0);
  EXPECT_EQ(server_.evaluations.back().evaluation_job().spec().scoring(), v1::SCORING_OPTION_LETTER_STRICT);
  EXPECT_EQ(server_.evaluations.back().evaluation_job().spec().generation().num_beams(), 4);
  EXPECT_EQ(server_.evaluations.back().evaluation_job().spec().generation().max_new_tokens(), 256);

  EXPECT_EQ(Run({"evaluate", "--task", "gsm8", "--model", "m", "--dataset", "d"}), 2);
  EXPECT_THAT(err_, HasSubstr("did you mean gsm8k?"));
  EXPECT_EQ(Run({"evaluate", "--task", "mmlu", "--model", "m", "--dataset", "d"}), 2);
  EXPECT_THAT(err_, HasSubstr("--few-shot-dataset is required for 5 shots"));
  ASSERT_EQ(
      Run({"evaluate", "--task", "mmlu", "--model", "m", "--dataset", "d", "--few-shot-dataset", "dev", "--no-wait"}),
      0)
      << err_;
  EXPECT_EQ(server_.evaluations.back().evaluation_job().spec().few_shot_dataset(), "projects/default/datasets/dev");
}

class EvaluationsTest : public CliTest {
 protected:
  /// An evaluation whose examples match as `matches` says.
  void Add(const std::string& id, const std::string& adapter, const std::vector<bool>& matches) {
    v1::EvaluationJob& job = server_.evaluation_jobs["projects/default/evaluationJobs/" + id];
    job.set_name("projects/default/evaluationJobs/" + id);
    job.set_state(v1::EvaluationJob::STATE_SUCCEEDED);
    job.mutable_spec()->set_model("projects/default/models/m");
    job.mutable_spec()->set_adapter(adapter);
    job.mutable_spec()->set_dataset("projects/default/datasets/d");
    job.mutable_spec()->set_scoring(v1::SCORING_LAST_NUMBER);
    std::string lines;
    int64_t correct = 0;
    for (size_t i = 0; i < matches.size(); ++i) {
      correct += matches[i] ? 1 : 0;
      lines += "{\"index\":" + std::to_string(i) + ",\"expected\":\"7\",\"match\":" + (matches[i] ? "true" : "false") +
               "}\n";
    }
    v1::EvaluationResult& result = *job.mutable_result();
    result.set_samples(static_cast<int64_t>(matches.size()));
    result.set_correct(correct);
    result.set_accuracy(static_cast<double>(correct) / static_cast<double>(matches.size()));
    result.add_examples()->set_prompt("long");
    *result.mutable_examples_file() = server_.AddFile(id + ".jsonl", lines);
  }
};

TEST_F(EvaluationsTest, CompareSetsThemSideBySideAgainstTheFirst) {
  Add("base", "", {true, false, false, false});
  Add("fa", "projects/default/adapters/fa", {false, true, true, true});
  ASSERT_EQ(Run({"evaluations", "compare", "base", "fa"}), 0) << err_;
  EXPECT_EQ(out_,
            "                base    fa\n"
            "model           m       m\n"
            "adapter                 fa\n"
            "accuracy        25.0 %  75.0 %\n"
            "standard error  21.7 %  21.7 %\n"
            "right           1 of 4  3 of 4\n"
            "unanswered      0       0\n"
            "gained                  3\n"
            "lost                    1\n"
            "p (McNemar)             0.625\n");
  ASSERT_EQ(Run({"evaluations", "compare", "base", "fa", "--output", "json"}), 0) << err_;
  EXPECT_THAT(out_, HasSubstr("\"gained\": \"3\""));
  EXPECT_THAT(out_, HasSubstr("\"pValue\": 0.625"));
  EXPECT_THAT(out_, Not(HasSubstr("long")));
}

TEST_F(EvaluationsTest, CompareRefusesWhatIsNotTheSameMeasurement) {
  Add("base", "", {true, false});
  Add("fewer", "", {true});
  Add("beams", "", {true, false});
  server_.evaluation_jobs["projects/default/evaluationJobs/beams"].mutable_spec()->mutable_generation()->set_num_beams(
      4);
  Add("failed", "", {true, false});
  server_.evaluation_jobs["projects/default/evaluationJobs/failed"].set_state(v1::EvaluationJob::STATE_FAILED);
  EXPECT_EQ(Run({"evaluations", "compare", "base"}), 2);
  EXPECT_EQ(Run({"evaluations", "compare", "base", "fewer"}), 4);
  EXPECT_THAT(err_, HasSubstr("they have 2 and 1 examples [NOT_COMPARABLE]"));
  EXPECT_EQ(Run({"evaluations", "compare", "base", "beams"}), 4);
  EXPECT_THAT(err_, HasSubstr("generation.num_beams"));
  EXPECT_EQ(Run({"evaluations", "compare", "base", "failed"}), 4);
  EXPECT_THAT(err_, HasSubstr("NOT_SUCCEEDED"));
}

TEST_F(EvaluationsTest, ExamplesAreWrittenWholeAndReplaceAFile) {
  Add("base", "", {true});
  const std::string file = (folder_.path() / "examples.jsonl").string();
  ASSERT_TRUE(WriteFileAtomic(file, "old").ok());
  ASSERT_EQ(Run({"evaluations", "examples", "base", "-o", file}), 0) << err_;
  EXPECT_EQ(ReadFile(file, 1000).value(), "{\"index\":0,\"expected\":\"7\",\"match\":true}\n");
  ASSERT_EQ(Run({"evaluations", "list"}), 0) << err_;
  EXPECT_THAT(out_, HasSubstr("last_number  100.0 %"));
  server_.evaluation_jobs.begin()->second.mutable_result()->clear_examples_file();
  for (const auto& [state, why] :
       {std::pair(v1::EvaluationJob::STATE_RUNNING, "RUNNING and has them once it has SUCCEEDED"),
        std::pair(v1::EvaluationJob::STATE_FAILED, "FAILED and left none; see sbora-client evaluations get base")}) {
    server_.evaluation_jobs.begin()->second.set_state(state);
    EXPECT_EQ(Run({"evaluations", "examples", "base", "-o", file}), 4);
    EXPECT_THAT(err_, HasSubstr(std::string("evaluationJobs/base has no examples: it is ") + why + " [NO_EXAMPLES]"));
  }
}

TEST_F(EvaluationsTest, CompareNamesTheEvaluationAndTheLineOfExamplesItCannotRead) {
  Add("base", "", {true});
  Add("odd", "", {true});
  v1::EvaluationJob& odd = server_.evaluation_jobs["projects/default/evaluationJobs/odd"];
  const std::string good = "{\"index\":0,\"expected\":\"7\",\"match\":true}\n";
  for (const char* bad : {"{\"index\":1,\"expected\":\"7\",\"ma", "[]", "{\"index\":1,\"expected\":\"7\"}",
                          "{\"index\":\"1\",\"expected\":\"7\",\"match\":true}"}) {
    *odd.mutable_result()->mutable_examples_file() = server_.AddFile("odd.jsonl", good + bad);
    EXPECT_EQ(Run({"evaluations", "compare", "base", "odd"}), 7) << bad;
    EXPECT_THAT(err_, HasSubstr("evaluationJobs/odd: line 2 of the examples has no index, expected and match")) << bad;
    EXPECT_THAT(err_, HasSubstr("evaluate again [BAD_EXAMPLES]")) << bad;
  }
}

}  // namespace
}  // namespace sbora::client
