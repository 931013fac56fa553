// Every verb of sbora-client against the real server, in each output format.
#include <yaml-cpp/yaml.h>

#include <iterator>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "client/cli.h"
#include "tests/contract/server/contract_fixture.h"

namespace sbora::server {
namespace {

using Arguments = std::vector<std::string>;

struct Outcome {
  int code = -1;
  std::string out;
  std::string err;
};

/// What differs between two resources that the same command makes.
const std::set<std::string> kOfOneResource = {"name", "uid", "etag", "createTime", "object"};

/// The same content, whatever the spelling of scalars: YAML holds them as text.
void ExpectSame(const nlohmann::json& json, const YAML::Node& yaml, const std::string& place) {
  if (json.is_object()) {
    ASSERT_TRUE(yaml.IsMap()) << place;
    EXPECT_EQ(json.size(), yaml.size()) << place;
    for (const auto& [key, value] : json.items()) {
      if (!kOfOneResource.contains(key)) ExpectSame(value, yaml[key], place + "." + key);
    }
  } else if (json.is_array()) {
    ASSERT_TRUE(yaml.IsSequence()) << place;
    ASSERT_EQ(json.size(), yaml.size()) << place;
    for (size_t i = 0; i < json.size(); ++i) ExpectSame(json[i], yaml[i], place + "[]");
  } else if (json.is_null()) {
    EXPECT_TRUE(yaml.IsNull()) << place;
  } else {
    EXPECT_EQ(yaml.as<std::string>(), json.is_string() ? json.get<std::string>() : json.dump()) << place;
  }
}

class VerbsTest : public ContractTest {
 protected:
  Outcome Run(Arguments arguments, const std::string& format) {
    arguments.insert(arguments.end(), {"--output", format});
    std::ostringstream out;
    std::ostringstream err;
    const client::ExitCode code = client::RunCli(arguments, {.out = out, .err = err, .terminal = false, .channel = channel_});
    return {static_cast<int>(code), out.str(), err.str()};
  }

  /// The verb in all three formats; JSON and YAML say the same, the table says something to people. Answers the JSON.
  nlohmann::json Check(const std::string& verb, const Arguments& more = {}) {
    SCOPED_TRACE(verb);
    const auto arguments = [&] {
      std::istringstream words(verb);
      Arguments all{std::istream_iterator<std::string>(words), {}};
      all.insert(all.end(), more.begin(), more.end());
      return all;
    }();
    checked_.insert(verb);
    const Outcome table = Run(arguments, "table");
    EXPECT_EQ(table.code, 0) << table.err;
    EXPECT_FALSE(table.out.empty() && table.err.empty());
    const Outcome json = Run(arguments, "json");
    EXPECT_EQ(json.code, 0) << json.err;
    auto parsed = nlohmann::json::parse(json.out, nullptr, false);
    EXPECT_FALSE(parsed.is_discarded()) << json.out;
    const Outcome yaml = Run(arguments, "yaml");
    EXPECT_EQ(yaml.code, 0) << yaml.err;
    ExpectSame(parsed, YAML::Load(yaml.out), verb);
    return parsed;
  }

  /// A verb that ends its resource: one resource for each format.
  void CheckOnEach(const std::string& verb, const Arguments& names) {
    SCOPED_TRACE(verb);
    checked_.insert(verb);
    const char* const formats[] = {"table", "json", "yaml"};
    for (size_t i = 0; i < 3; ++i) {
      std::istringstream words(verb);
      Arguments arguments{std::istream_iterator<std::string>(words), {}};
      arguments.push_back(names.at(i));
      const Outcome outcome = Run(arguments, formats[i]);
      EXPECT_EQ(outcome.code, 0) << formats[i] << ": " << outcome.err;
      if (i == 1) {
        EXPECT_FALSE(nlohmann::json::parse(outcome.out, nullptr, false).is_discarded()) << outcome.out;
      }
      if (i == 2) {
        EXPECT_TRUE(YAML::Load(outcome.out).IsMap()) << outcome.out;
      }
    }
  }

  std::string Folder(const std::string& name) const { return (directory_.path() / name).string(); }

  /// "jobs submit", ...: all verbs that the program has, as its own completion lists them.
  std::set<std::string> AllVerbs() {
    const std::string script = Run({"completion", "bash"}, "table").out;
    const size_t begin = script.find("case '|") + 7;
    std::istringstream paths(script.substr(begin, script.find("'", begin) - begin));
    std::set<std::string> all;
    for (std::string path; std::getline(paths, path, '|');) {
      if (!path.empty()) all.insert(path);
    }
    std::set<std::string> verbs;
    for (const std::string& path : all) {
      const auto next = all.upper_bound(path);
      if (next == all.end() || !next->starts_with(path + " ")) verbs.insert(path);
    }
    return verbs;
  }

  std::set<std::string> checked_;
};

TEST_F(VerbsTest, EachPrintsTheSameInJsonAndYamlAndATableForPeople) {
  for (const char* id : {"base", "m1", "m2", "m3"}) MakeModel(id);
  for (const char* id : {"data", "d1", "d2", "d3"}) MakeDataset(id);
  for (const char* id : {"done", "spare", "last"}) {
    const Outcome made = Run({"submit", "--model", "base", "--dataset", "data", "--rank", "4", "--max-steps", "2", "--name", id}, "json");
    ASSERT_EQ(made.code, 0) << made.err;
    FinishJob(id);
  }
  const Arguments spec = {"--model", "base", "--dataset", "data", "--rank", "4"};
  const auto with = [&](Arguments more) {
    more.insert(more.end(), spec.begin(), spec.end());
    return more;
  };

  EXPECT_EQ(Check("jobs get", {"done"})["state"], "STATE_SUCCEEDED");
  EXPECT_EQ(Check("jobs list", {"--all"})["fineTuningJobs"].size(), 3u);
  EXPECT_GT(Check("jobs logs", {"done"})["events"].size(), 2u);
  Check("jobs metrics", {"done"});
  Check("jobs checkpoints", {"done"});
  Check("jobs submit", with({"--validate-only"}));
  Check("submit", with({"--validate-only"}));
  EXPECT_EQ(Check("models get", {"base"})["architecture"], "LlamaForCausalLM");
  EXPECT_EQ(Check("models list")["models"].size(), 4u);
  Check("models export", {"base", "-o", Folder("model"), "--force"});
  EXPECT_TRUE(std::filesystem::exists(Folder("model") + "/config.json"));
  EXPECT_EQ(Check("datasets get", {"data"})["validationReport"]["samples"], "2");
  EXPECT_EQ(Check("datasets list")["datasets"].size(), 4u);
  ASSERT_TRUE(WriteFileAtomic(directory_.path() / "new.jsonl", kGoodData).ok());
  Check("datasets validate", {Folder("new.jsonl")});
  Check("datasets upload", {Folder("new.jsonl")});
  EXPECT_EQ(Check("adapters get", {"done"})["method"], "sbora_fa");
  EXPECT_EQ(Check("adapters list")["adapters"].size(), 3u);
  EXPECT_EQ(Check("adapters diff", {"done", "spare"})["pairs"].size(), 1u);
  Check("pull", {"done", "-o", Folder("adapter"), "--force"});
  Check("adapters pull", {"done", "-o", Folder("adapter"), "--force"});
  Check("estimate", {"--model", "base", "--rank", "4"});
  Check("evaluate", {"--model", "base", "--dataset", "data", "--no-wait"});
  EXPECT_EQ(Check("evaluations list")["evaluationJobs"].size(), 3u);
  for (const char* id : {"e1", "e2", "e3"}) {
    EXPECT_EQ(Run({"evaluate", "--model", "base", "--dataset", "data", "--no-wait", "--name", id}, "json").code, 0);
  }
  Check("evaluations get", {"e1"});
  CheckOnEach("evaluations cancel", {"e1", "e2", "e3"});
  CheckOnEach("evaluations delete", {"e1", "e2", "e3"});
  EXPECT_EQ(Check("workers list")["workers"].size(), 1u);
  Check("workers drain", {"agent"});
  EXPECT_EQ(Check("server info")["store"], "sqlite");

  for (const char* id : {"p1", "p2", "p3"}) {
    ASSERT_EQ(Run({"submit", "--model", "base", "--dataset", "data", "--rank", "4", "--name", id}, "json").code, 0);
    WaitForState(id, v1::FineTuningJob::STATE_QUEUED);
  }
  CheckOnEach("jobs pause", {"p1", "p2", "p3"});
  CheckOnEach("jobs resume", {"p1", "p2", "p3"});
  CheckOnEach("jobs cancel", {"p1", "p2", "p3"});
  CheckOnEach("jobs delete", {"done", "spare", "last"});
  CheckOnEach("adapters delete", {"done", "spare", "last"});
  CheckOnEach("datasets delete", {"d1", "d2", "d3"});
  CheckOnEach("models delete", {"m1", "m2", "m3"});

  // These wait for a worker, read local folders or print no resource; cli_test and the integration tests run them.
  const std::set<std::string> elsewhere = {"watch", "jobs watch", "models import", "adapters export", "adapters merge",
                                           "adapters apply-patch", "adapters reverse-patch", "evaluations examples",
                                           "evaluations compare", "generate", "completion", "compare"};
  for (const std::string& verb : AllVerbs()) {
    EXPECT_TRUE(checked_.contains(verb) || elsewhere.contains(verb)) << verb << " is not looked at here";
  }
}

TEST_F(VerbsTest, EachKindOfFailureHasItsExitCode) {
  MakeModel("base");
  EXPECT_EQ(Run({"jobs", "get", "nobody"}, "json").code, 3);
  EXPECT_EQ(Run({"jobs", "get", "Not A Name"}, "json").code, 2);
  EXPECT_EQ(Run({"jobs", "get"}, "json").code, 2);
  EXPECT_EQ(Run({"submit", "--model", "base", "--dataset", "nobody"}, "json").code, 3);
  MakeDataset("data");
  EXPECT_EQ(Run({"submit", "--model", "base", "--dataset", "data", "--rank", "4000"}, "json").code, 2);
  ASSERT_EQ(Run({"submit", "--model", "base", "--dataset", "data", "--rank", "4", "--name", "one"}, "json").code, 0);
  EXPECT_EQ(Run({"submit", "--model", "base", "--dataset", "data", "--rank", "4", "--name", "one"}, "json").code, 4);
  EXPECT_EQ(Run({"models", "delete", "base"}, "json").code, 4);
  const Outcome waited = Run({"--timeout", "0.2", "watch", "one"}, "json");
  EXPECT_EQ(waited.code, 5) << waited.err;
}

}  // namespace
}  // namespace sbora::server
