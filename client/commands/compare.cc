// compare: the same job by several methods and seeds, and one report.
#include <fmt/format.h>

#include <algorithm>

#include "client/commands/commands.h"
#include "client/commands/job_spec_flags.h"
#include "client/compare_plan.h"
#include "client/compare_report.h"
#include "client/compare_runs.h"
#include "client/interrupt.h"
#include "client/output/comparison_picture.h"
#include "common/file.h"
#include "common/status_macros.h"
#include "core/nf4_config.h"

namespace sbora::client {
namespace {

struct CompareFlags : JobSpecFlags {
  std::vector<std::string> methods;
  int seeds = 3;
  bool match_parameters = false;
  std::string name;
  std::vector<std::string> evaluate;
  int32_t evaluation_samples = 0;
  std::string few_shot_dataset;
  std::string picture;
  bool validate_only = false;
};

void Declare(CLI::App& app, CompareFlags& flags) {
  app.add_option("--methods", flags.methods, "Methods, each with or without its quantization: sbora_fa,lora,sbora_fa+nf4")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->required();
  app.add_option("--seeds", flags.seeds, "Runs of each method, with data seeds from --seed on (default 3)");
  app.add_flag("--match-parameters", flags.match_parameters,
               "Choose the ranks so that each method trains as many parameters as the first one at --rank, as nearly as possible");
  app.add_option("--name", flags.name, "Starts the names of all jobs (made from the spec when absent)");
  app.add_option("--evaluate", flags.evaluate,
                 "Evaluate base and adapters on a data set, by a task of `evaluate --task` or by exact match and perplexity; "
                 "may be given several times")
      ->allow_extra_args(false)
      ->option_text("[TASK=]DATASET");
  app.add_option("--evaluation-samples", flags.evaluation_samples, "Evaluate on so many samples at most")
      ->check(CLI::PositiveNumber);
  app.add_option("--few-shot-dataset", flags.few_shot_dataset, "Answered questions for tasks that show some");
  app.add_option("--picture", flags.picture, "Write the report as a picture to this file, .svg or .html");
  app.add_flag("--validate-only", flags.validate_only, "Check every method and show ranks and parameter counts, run nothing");
  flags.JobSpecFlags::Declare(app, "FILE,-f,--file", {"adapter.method"});
  app.footer("The same command again finds the jobs that are there, and goes on. Delete a failed job to have it run again.");
}

Status CheckPicture(const std::string& file) {
  if (file.empty() || file.ends_with(".svg") || file.ends_with(".html")) return OkStatus();
  return InvalidArgument("USAGE", fmt::format("--picture {}: must end in .svg or .html", file));
}

StatusOr<std::vector<EvaluationPlan>> PlanEvaluations(const CompareFlags& flags, const Client& client,
                                                      const v1::FineTuningSpec& job) {
  std::vector<EvaluationPlan> plans;
  for (const std::string& text : flags.evaluate) {
    SBORA_ASSIGN_OR_RETURN(EvaluationPlan plan, PlanEvaluation(text, job));
    const auto same = [&](const EvaluationPlan& other) { return other.title == plan.title; };
    if (std::any_of(plans.begin(), plans.end(), same)) {
      return InvalidArgument("USAGE", fmt::format("--evaluate {} is given twice", plan.title));
    }
    plan.spec.set_dataset(client.ResourceName("datasets", plan.spec.dataset()));
    if (flags.evaluation_samples > 0) plan.spec.set_max_samples(flags.evaluation_samples);
    if (plan.spec.few_shots() > 0) {
      if (flags.few_shot_dataset.empty()) {
        return InvalidArgument("USAGE", fmt::format("--few-shot-dataset is required for --evaluate {}, which shows {} answered "
                                                    "questions", plan.title, plan.spec.few_shots()));
      }
      plan.spec.set_few_shot_dataset(client.ResourceName("datasets", flags.few_shot_dataset));
    }
    plans.push_back(std::move(plan));
  }
  return plans;
}

v1::MethodComparison ReportOf(const ComparePlan& plan, const CompareFlags& flags, const v1::FineTuningSpec& spec) {
  v1::MethodComparison report;
  report.set_name(plan.name);
  *report.mutable_spec() = spec;
  report.mutable_spec()->mutable_adapter()->clear_method();
  report.set_match_parameters(flags.match_parameters);
  report.mutable_seeds()->Assign(plan.seeds.begin(), plan.seeds.end());
  report.mutable_index_seeds()->Assign(plan.index_seeds.begin(), plan.index_seeds.end());
  for (const MethodPlan& planned : plan.methods) {
    v1::ComparedMethod& method = *report.add_methods();
    method.set_method(planned.method);
    method.set_rank(static_cast<int32_t>(planned.rank));
    method.set_alpha(planned.alpha);
    method.set_trainable_parameters(planned.trainable_parameters);
  }
  for (const std::string& note : plan.notes) report.add_notes(note);
  if (spec.data().validation_samples() > 0) {
    report.add_notes("held-out samples are drawn by the seed: the methods share them at each seed, the seeds do not");
  } else if (spec.validation_dataset().empty()) {
    report.add_notes("no validation loss: set validation_dataset or data.validation_samples");
  }
  return report;
}

Status WritePicture(CommandContext& context, const v1::MethodComparison& report, const std::string& file) {
  if (file.empty()) return OkStatus();
  SBORA_RETURN_IF_ERROR(WriteFileAtomic(file, file.ends_with(".svg") ? RenderSvg(report) : RenderHtml(report)));
  context.Note("picture in " + file);
  return OkStatus();
}

CommandResult Compare(CommandContext& context, const CompareFlags& flags) {
  SBORA_RETURN_IF_ERROR(CheckPicture(flags.picture));
  SBORA_ASSIGN_OR_RETURN(Client* const client, context.Connect());
  SBORA_ASSIGN_OR_RETURN(const v1::FineTuningSpec spec, flags.Build(*client));
  SBORA_ASSIGN_OR_RETURN(const std::vector<EvaluationPlan> evaluations, PlanEvaluations(flags, *client, spec));
  SBORA_ASSIGN_OR_RETURN(const v1::Model model, client->GetModel(spec.model()));
  SBORA_ASSIGN_OR_RETURN(const core::ModelForm base, core::ParseModelForm(model.config_json()));
  SBORA_ASSIGN_OR_RETURN(const ComparePlan plan,
                         PlanComparison({.spec = spec, .methods = flags.methods, .seeds = flags.seeds,
                                         .match_parameters = flags.match_parameters, .name = flags.name}, base.config));
  v1::MethodComparison report = ReportOf(plan, flags, spec);
  ComparisonRuns runs(*client, plan, evaluations, model, report);
  SBORA_RETURN_IF_ERROR(runs.Check());
  for (const v1::ComparedMethod& method : report.methods()) {
    if (!method.failure().empty()) context.Note(fmt::format("{} will not run: {}", method.method(), method.failure()));
  }
  if (flags.validate_only) {
    Summarize(report);
    context.Print(report);
    return AllSucceeded(report) ? ExitCode::kOk : ExitCode::kFailed;
  }
  SBORA_RETURN_IF_ERROR(runs.Start());
  context.Note(fmt::format("comparison {}: {} jobs, {} of them were there", plan.name, runs.jobs(), runs.found()));
  WaitScope wait(context.globals().timeout_seconds);
  {
    ProgressLine line(context.err(), SystemClock(), context.ProgressStyle());
    const Status ended = runs.Finish(wait.token(), line);
    line.Finish();
    if (!ended.ok()) return wait.Explain(ended, "the jobs go on; the same command again finds them and goes on too");
  }
  Summarize(report);
  context.Print(report);
  SBORA_RETURN_IF_ERROR(WritePicture(context, report, flags.picture));
  return AllSucceeded(report) ? ExitCode::kOk : ExitCode::kFailed;
}

}  // namespace

void AddCompare(const CommandRoot& root) {
  root.Verb<CompareFlags>(root.app, "compare", "Train by several methods and seeds on the same data, and report side by side",
                          Declare, Compare);
}

}  // namespace sbora::client
