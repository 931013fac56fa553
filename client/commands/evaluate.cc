#include <fmt/format.h>

#include "client/commands/commands.h"
#include "client/interrupt.h"
#include "client/spec_flags.h"
#include "common/grpc/status_convert.h"
#include "common/status_macros.h"

namespace sbora::client {
namespace {

struct EvaluateFlags {
  std::string name;
  std::string request_id;
  bool no_wait = false;
  std::unique_ptr<SpecFlags> spec;
};

void Declare(CLI::App& app, EvaluateFlags& flags) {
  app.add_option("--name", flags.name, "Id of the evaluation (made up when absent)");
  app.add_option("--request-id", flags.request_id, "UUID4; the same one again returns the first call's evaluation");
  app.add_flag("--no-wait", flags.no_wait, "Queue it and return");
  flags.spec = std::make_unique<SpecFlags>(app, *v1::EvaluationSpec::descriptor());
}

Status CompleteNames(const Client& client, v1::EvaluationSpec& spec) {
  if (spec.model().empty() == spec.adapter().empty()) {
    return InvalidArgument("USAGE", "give one of --model (the base) and --adapter (an adapter on its base)");
  }
  if (spec.dataset().empty()) return InvalidArgument("USAGE", "--dataset is required");
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

CommandResult Evaluate(CommandContext& context, const EvaluateFlags& flags) {
  v1::CreateEvaluationJobRequest request;
  request.set_evaluation_job_id(flags.name);
  request.set_request_id(flags.request_id);
  v1::EvaluationSpec& spec = *request.mutable_evaluation_job()->mutable_spec();
  SBORA_RETURN_IF_ERROR(flags.spec->Apply(spec));
  SBORA_ASSIGN_OR_RETURN(Client* const client, context.Connect());
  SBORA_RETURN_IF_ERROR(CompleteNames(*client, spec));
  SBORA_ASSIGN_OR_RETURN(const v1::EvaluationJob created, client->CreateEvaluation(std::move(request)));
  if (flags.no_wait) {
    context.Print(created);
    return ExitCode::kOk;
  }
  WaitScope wait(context.globals().timeout_seconds);
  ProgressLine line(context.err(), SystemClock(), context.ProgressStyle());
  const auto ended = client->WaitEvaluation(created.name(), wait.token(), [&](const v1::EvaluationJob& job) {
    line.Update(StateName(job.state()), RenderEvaluationProgress(job));
  });
  line.Finish();
  if (!ended.ok()) return wait.Explain(ended.status(), fmt::format("the evaluation goes on without you. Look at it: sbora-client evaluations get {0}; end it: sbora-client "
                                         "evaluations cancel {0}", ShortName(created.name())));
  context.Print(*ended);
  return EndOf(context, *ended);
}

}  // namespace

void AddEvaluate(const CommandRoot& root) {
  root.Verb<EvaluateFlags>(root.app, "evaluate", "Measure a model or an adapter on held-out data", Declare, Evaluate);
}

}  // namespace sbora::client
