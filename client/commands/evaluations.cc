// Evaluations that exist: list, get, examples, compare, cancel, delete.
#include <fmt/format.h>

#include "client/commands/commands.h"
#include "client/compare_evaluations.h"
#include "client/interrupt.h"
#include "common/file.h"
#include "common/status_macros.h"

namespace sbora::client {
namespace {

constexpr int64_t kMaxExamplesBytes = int64_t{4} << 30;

struct ExamplesFlags : NameFlag {
  std::string file;
};

struct CompareFlags {
  std::vector<std::string> names;
};

StatusOr<v1::EvaluationJob> FindEvaluation(Client& client, const std::string& name) {
  return client.GetEvaluation(client.ResourceName("evaluationJobs", name));
}

Status NoExamples(const v1::EvaluationJob& job) {
  const std::string why = IsTerminal(job.state()) ? fmt::format("and left none; see sbora-client evaluations get {}",
                                                                ShortName(job.name()))
                                                  : "and has them once it has SUCCEEDED";
  return FailedPrecondition("NO_EXAMPLES",
                            fmt::format("{} has no examples: it is {} {}", job.name(), StateName(job.state()), why));
}

StatusOr<std::string> ReadExamples(CommandContext& context, const v1::EvaluationJob& job) {
  SBORA_ASSIGN_OR_RETURN(const TempDirectory temp,
                         TempDirectory::Create(std::filesystem::temp_directory_path(), "sbora-examples"));
  const std::filesystem::path file = temp.path() / "examples.jsonl";
  SBORA_RETURN_IF_ERROR(WriteExamples(context, job, file.string()));
  return ReadFile(file, kMaxExamplesBytes);
}

CommandResult Examples(CommandContext& context, const ExamplesFlags& flags) {
  SBORA_ASSIGN_OR_RETURN(Client* const client, context.Connect());
  SBORA_ASSIGN_OR_RETURN(const v1::EvaluationJob job, FindEvaluation(*client, flags.name));
  SBORA_RETURN_IF_ERROR(WriteExamples(context, job, flags.file));
  context.Note(fmt::format("{} examples in {}", job.result().samples(), flags.file));
  return ExitCode::kOk;
}

CommandResult Compare(CommandContext& context, const CompareFlags& flags) {
  SBORA_ASSIGN_OR_RETURN(Client* const client, context.Connect());
  std::vector<v1::EvaluationJob> jobs;
  std::vector<ScoredExamples> examples;
  for (const std::string& name : flags.names) {
    SBORA_ASSIGN_OR_RETURN(v1::EvaluationJob job, FindEvaluation(*client, name));
    examples.emplace_back();
    if (job.result().has_examples_file()) {
      SBORA_ASSIGN_OR_RETURN(const std::string lines, ReadExamples(context, job));
      auto parsed = ParseExamples(lines);
      if (!parsed.ok()) return parsed.status().WithContext(job.name());
      examples.back() = *std::move(parsed);
    }
    jobs.push_back(std::move(job));
  }
  SBORA_ASSIGN_OR_RETURN(const v1::EvaluationComparison comparison, CompareEvaluations(jobs, examples));
  context.Print(comparison);
  return ExitCode::kOk;
}

}  // namespace

Status WriteExamples(CommandContext& context, const v1::EvaluationJob& job, const std::string& file) {
  if (!job.result().has_examples_file()) return NoExamples(job);
  SBORA_ASSIGN_OR_RETURN(Client* const client, context.Connect());
  const std::filesystem::path target = std::filesystem::absolute(file);
  SBORA_ASSIGN_OR_RETURN(const TempDirectory temp, TempDirectory::Create(target.parent_path(), ".sbora-examples"));
  google::protobuf::RepeatedPtrField<v1::File> files;
  *files.Add() = job.result().examples_file();
  WaitScope wait(context.globals().timeout_seconds);
  const std::filesystem::path folder = temp.path() / "pulled";
  const Status pulled = client->Pull(files, "", folder, {.force = false, .stop = wait.token(), .progress = {}});
  if (!pulled.ok()) return wait.Explain(pulled, "nothing was written; run the command again");
  std::error_code error;
  std::filesystem::rename(folder / files[0].path(), target, error);
  return error ? FromErrno(error.value(), fmt::format("writing {}", file)) : OkStatus();
}

void AddEvaluations(const CommandRoot& root) {
  CLI::App& group = root.Group("evaluations", "Results of `evaluate`");
  root.Verb<ListFlags>(group, "list", "List evaluations", DeclareList,
                       [](CommandContext& context, const ListFlags& flags) -> CommandResult {
                         SBORA_ASSIGN_OR_RETURN(Client* const client, context.Connect());
                         return PrintList(context, client->ListEvaluations(flags.Options()));
                       });
  const auto declare_name = [](CLI::App& app, NameFlag& flags) { DeclareName(app, flags, "Evaluation"); };
  root.Verb<NameFlag>(group, "get", "Show an evaluation and its first examples", declare_name,
                      [](CommandContext& context, const NameFlag& flags) -> CommandResult {
                        SBORA_ASSIGN_OR_RETURN(Client* const client, context.Connect());
                        SBORA_ASSIGN_OR_RETURN(const v1::EvaluationJob job, FindEvaluation(*client, flags.name));
                        context.Print(job);
                        return ExitCode::kOk;
                      });
  root.Verb<ExamplesFlags>(
      group, "examples", "Write every prompt, output and verdict as JSONL",
      [](CLI::App& app, ExamplesFlags& flags) {
        DeclareName(app, flags, "Evaluation");
        app.add_option("-o,--file", flags.file, "The file to write; one that exists is replaced")->required();
      },
      Examples);
  root.Verb<CompareFlags>(
      group, "compare", "Put evaluations of the same data side by side, each against the first",
      [](CLI::App& app, CompareFlags& flags) {
        app.add_option("NAMES", flags.names, "Two or more evaluations that differ in model or adapter only")
            ->required();
      },
      Compare);
  root.Verb<NameFlag>(group, "cancel", "Stop an evaluation", declare_name,
                      [](CommandContext& context, const NameFlag& flags) -> CommandResult {
                        SBORA_ASSIGN_OR_RETURN(Client* const client, context.Connect());
                        SBORA_ASSIGN_OR_RETURN(
                            const v1::EvaluationJob job,
                            client->CancelEvaluation(client->ResourceName("evaluationJobs", flags.name)));
                        context.Print(job);
                        return ExitCode::kOk;
                      });
  root.Verb<NameFlag>(group, "delete", "Delete an evaluation that has ended", declare_name,
                      [](CommandContext& context, const NameFlag& flags) -> CommandResult {
                        SBORA_ASSIGN_OR_RETURN(Client* const client, context.Connect());
                        const std::string name = client->ResourceName("evaluationJobs", flags.name);
                        SBORA_RETURN_IF_ERROR(client->DeleteEvaluation(name));
                        context.PrintNothing();
                        context.Note("deleted " + name);
                        return ExitCode::kOk;
                      });
}

}  // namespace sbora::client
