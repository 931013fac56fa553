#include <fmt/format.h>
#include <fmt/ranges.h>

#include "client/commands/commands.h"
#include "client/evaluation_tasks.h"
#include "client/interrupt.h"
#include "client/spec_flags.h"
#include "common/grpc/status_convert.h"
#include "common/status_macros.h"

namespace sbora::client {
namespace {

struct EvaluateFlags {
  std::string task;
  std::string examples;
  std::string name;
  std::string request_id;
  bool no_wait = false;
  std::unique_ptr<SpecFlags> spec;
};

std::string TaskNames() {
  std::vector<std::string> names;
  for (const EvaluationTask& task : EvaluationTasks()) names.push_back(task.name);
  return fmt::format("{}", fmt::join(names, ", "));
}

void Declare(CLI::App& app, EvaluateFlags& flags) {
  app.add_option("--name", flags.name, "Id of the evaluation (made up when absent)");
  app.add_option("--request-id", flags.request_id, "UUID4; the same one again returns the first call's evaluation");
  app.add_option("--task", flags.task,
                 fmt::format("Settings of a published evaluation, which the flags below override: {}", TaskNames()));
  auto* examples =
      app.add_option("--examples", flags.examples, "Write every prompt, output and verdict to this JSONL file");
  app.add_flag("--no-wait", flags.no_wait, "Queue it and return")->excludes(examples);
  flags.spec = std::make_unique<SpecFlags>(app, *v1::EvaluationSpec::descriptor());
}

Status CompleteNames(const Client& client, v1::EvaluationSpec& spec) {
  if (spec.model().empty() == spec.adapter().empty()) {
    return InvalidArgument("USAGE", "give one of --model (the base) and --adapter (an adapter on its base)");
  }
  if (spec.dataset().empty()) return InvalidArgument("USAGE", "--dataset is required");
  if (spec.few_shots() > 0 && spec.few_shot_dataset().empty()) {
    return InvalidArgument("USAGE",
                           fmt::format("--few-shot-dataset is required for {} shots: upload the dev questions, or "
                                       "give --few-shots 0",
                                       spec.few_shots()));
  }
  if (!spec.few_shot_dataset().empty()) {
    spec.set_few_shot_dataset(client.ResourceName("datasets", spec.few_shot_dataset()));
  }
  if (!spec.model().empty()) spec.set_model(client.ResourceName("models", spec.model()));
  if (!spec.adapter().empty()) spec.set_adapter(AdapterName(client, spec.adapter()));
  spec.set_dataset(client.ResourceName("datasets", spec.dataset()));
  return OkStatus();
}

ExitCode EndOf(CommandContext& context, const v1::EvaluationJob& job) {
  if (job.state() == v1::EvaluationJob::STATE_SUCCEEDED) return ExitCode::kOk;
  if (job.state() == v1::EvaluationJob::STATE_CANCELLED) return ExitCode::kCancelled;
  const Status failure = FromFailure(job.failure());
  context.err() << fmt::format("error: evaluation {} failed: {} [{}]\n", ShortName(job.name()),
                               failure.ok() ? v1::TerminationReason_Name(job.termination_reason()) : failure.message(),
                               failure.ok() ? "EVALUATION_FAILED" : failure.reason());
  return ExitCode::kFailed;
}

StatusOr<v1::EvaluationJob> Wait(CommandContext& context, Client& client, const std::string& name) {
  WaitScope wait(context.globals().timeout_seconds);
  ProgressLine line(context.err(), SystemClock(), context.ProgressStyle());
  auto ended = client.WaitEvaluation(name, wait.token(), [&](const v1::EvaluationJob& job) {
    line.Update(StateName(job.state()), RenderEvaluationProgress(job));
  });
  line.Finish();
  if (ended.ok()) return ended;
  return wait.Explain(ended.status(),
                      fmt::format("the evaluation goes on as {}; look with sbora-client evaluations get", name));
}

CommandResult Evaluate(CommandContext& context, const EvaluateFlags& flags) {
  v1::CreateEvaluationJobRequest request;
  request.set_evaluation_job_id(flags.name);
  request.set_request_id(flags.request_id);
  v1::EvaluationSpec& spec = *request.mutable_evaluation_job()->mutable_spec();
  if (!flags.task.empty()) {
    SBORA_ASSIGN_OR_RETURN(const EvaluationTask task, FindEvaluationTask(flags.task));
    spec = task.spec;
  }
  SBORA_RETURN_IF_ERROR(flags.spec->Apply(spec));
  SBORA_ASSIGN_OR_RETURN(Client* const client, context.Connect());
  SBORA_RETURN_IF_ERROR(CompleteNames(*client, spec));
  SBORA_ASSIGN_OR_RETURN(const v1::EvaluationJob created, client->CreateEvaluation(std::move(request)));
  if (flags.no_wait) {
    context.Print(created);
    return ExitCode::kOk;
  }
  const auto ended = Wait(context, *client, created.name());
  if (!ended.ok()) return ended.status();
  context.Print(*ended);
  const ExitCode code = EndOf(context, *ended);
  if (code == ExitCode::kOk && !flags.examples.empty()) {
    SBORA_RETURN_IF_ERROR(WriteExamples(context, *ended, flags.examples));
  }
  return code;
}

}  // namespace

void AddEvaluate(const CommandRoot& root) {
  root.Verb<EvaluateFlags>(root.app, "evaluate", "Measure a model or an adapter on held-out data", Declare, Evaluate);
}

}  // namespace sbora::client
