#include "client/compare_runs.h"

#include <fmt/format.h>

#include <algorithm>

#include "client/output/format.h"
#include "client/output/resources.h"
#include "common/grpc/status_convert.h"
#include "common/status_macros.h"

namespace sbora::client {
namespace {

/// Runs whose job was deleted and made again; each needs a request id that the service has not seen.
constexpr int kMaxAttempts = 100;
constexpr size_t kProgressWidth = 100;

/// Whether a refusal is about what was asked, not about the service or something all methods need.
bool IsRefusal(const Status& status) {
  const StatusCode code = status.code();
  return code == StatusCode::kInvalidArgument || code == StatusCode::kFailedPrecondition || code == StatusCode::kUnimplemented ||
         code == StatusCode::kOutOfRange || status.reason() == "REGION_EXHAUSTED";
}

Status OtherRun(const ComparePlan& plan, const std::string& job) {
  return AlreadyExists("COMPARISON_EXISTS",
                       fmt::format("job {} does something other than this run of comparison {}; give the comparison another --name",
                                   job, plan.name));
}

}  // namespace

StatusOr<std::optional<v1::FineTuningJob>> ComparisonRuns::Find(const MethodPlan& method, size_t seed) {
  const v1::CreateFineTuningJobRequest request = RunRequest(plan_, method, seed, 0);
  auto job = client_.GetJob(client_.ResourceName("fineTuningJobs", request.fine_tuning_job_id()));
  if (!job.ok() && job.status().code() == StatusCode::kNotFound) return std::optional<v1::FineTuningJob>();
  if (!job.ok()) return job.status();
  const auto label = job->labels().find(std::string(kRunLabel));
  const bool same = label != job->labels().end() && label->second == RunDigest(request.fine_tuning_job().spec());
  if (!same) return OtherRun(plan_, request.fine_tuning_job_id());
  return std::optional(*std::move(job));
}

StatusOr<v1::FineTuningJob> ComparisonRuns::FindOrSubmit(const MethodPlan& method, size_t seed) {
  SBORA_ASSIGN_OR_RETURN(auto there, Find(method, seed));
  ++jobs_;
  if (there) {
    ++found_;
    return *std::move(there);
  }
  Status last;
  for (int attempt = 0; attempt < kMaxAttempts; ++attempt) {
    auto job = client_.Submit(RunRequest(plan_, method, seed, attempt));
    if (job.ok() || job.status().reason() != "REQUEST_RESULT_DELETED") return job;
    last = job.status();
  }
  return last;
}

Status ComparisonRuns::CheckMethod(size_t index) {
  const MethodPlan& method = plan_.methods[index];
  for (size_t seed = 0; seed < plan_.seeds.size(); ++seed) {
    SBORA_ASSIGN_OR_RETURN(const auto there, Find(method, seed));
    if (there) continue;
    v1::CreateFineTuningJobRequest request = RunRequest(plan_, method, seed, 0);
    request.clear_request_id();
    request.set_validate_only(true);
    SBORA_ASSIGN_OR_RETURN(const v1::FineTuningJob job, client_.Submit(std::move(request)));
    report_.mutable_methods(static_cast<int>(index))->set_trainable_parameters(job.trainable_parameters());
    return OkStatus();
  }
  return OkStatus();
}

Status ComparisonRuns::Check() {
  Status first;
  int refused = 0;
  for (size_t i = 0; i < plan_.methods.size(); ++i) {
    const Status status = CheckMethod(i);
    if (status.ok()) continue;
    if (!IsRefusal(status)) return status;
    if (refused++ == 0) first = status;
    report_.mutable_methods(static_cast<int>(i))->set_failure(fmt::format("{} [{}]", status.message(), status.reason()));
  }
  if (refused == static_cast<int>(plan_.methods.size())) return first;
  for (const EvaluationPlan& evaluation : evaluations_) {
    v1::EvaluationSpec spec = evaluation.spec;
    spec.set_model(model_.name());
    v1::CreateEvaluationJobRequest request = EvaluationRequest(plan_, spec, model_.uid(), 0);
    const auto there = client_.GetEvaluation(client_.ResourceName("evaluationJobs", request.evaluation_job_id()));
    if (there.ok()) continue;
    request.clear_request_id();
    request.set_validate_only(true);
    const Status status = client_.CreateEvaluation(std::move(request)).status();
    if (!status.ok()) return status.WithContext(fmt::format("--evaluate {}", evaluation.title));
  }
  return OkStatus();
}

Status ComparisonRuns::Start() {
  for (size_t seed = 0; seed < plan_.seeds.size(); ++seed) {
    for (size_t i = 0; i < plan_.methods.size(); ++i) {
      v1::ComparedMethod& method = *report_.mutable_methods(static_cast<int>(i));
      // Its runs are in the order of the seeds; none at all stands for a refusal.
      if (!method.failure().empty()) continue;
      SBORA_ASSIGN_OR_RETURN(const v1::FineTuningJob job, FindOrSubmit(plan_.methods[i], seed));
      v1::ComparedRun& run = *method.add_runs();
      run.set_seed(plan_.seeds[seed]);
      run.set_index_seed(plan_.index_seeds[seed]);
      run.set_job(job.name());
      run.set_state(job.state());
      method.set_trainable_parameters(job.trainable_parameters());
    }
  }
  AddEvaluations("", model_.uid(), *report_.mutable_base_evaluations());
  return OkStatus();
}

StatusOr<v1::EvaluationJob> ComparisonRuns::FindOrEvaluate(const v1::EvaluationSpec& spec, const std::string& subject_uid) {
  const std::string id = EvaluationRequest(plan_, spec, subject_uid, 0).evaluation_job_id();
  auto there = client_.GetEvaluation(client_.ResourceName("evaluationJobs", id));
  if (there.ok() || there.status().code() != StatusCode::kNotFound) return there;
  Status last;
  for (int attempt = 0; attempt < kMaxAttempts; ++attempt) {
    auto made = client_.CreateEvaluation(EvaluationRequest(plan_, spec, subject_uid, attempt));
    if (made.ok() || made.status().reason() != "REQUEST_RESULT_DELETED") return made;
    last = made.status();
  }
  return last;
}

void ComparisonRuns::AddEvaluations(const std::string& adapter, const std::string& subject_uid,
                                    google::protobuf::RepeatedPtrField<v1::ComparedEvaluation>& out) {
  for (const EvaluationPlan& plan : evaluations_) {
    v1::EvaluationSpec spec = plan.spec;
    if (adapter.empty()) {
      spec.set_model(model_.name());
    } else {
      spec.set_adapter(adapter);
    }
    v1::ComparedEvaluation& evaluation = *out.Add();
    evaluation.set_title(plan.title);
    const auto job = FindOrEvaluate(spec, subject_uid);
    if (job.ok()) {
      evaluation.set_evaluation(job->name());
      evaluation.set_state(job->state());
    } else {
      evaluation.set_state(v1::EvaluationJob::STATE_FAILED);
      *evaluation.mutable_failure() = ToFailure(job.status());
    }
  }
}

Status ComparisonRuns::WaitFor(v1::ComparedRun& run, const std::stop_token& stop, ProgressLine& line) {
  const std::string id = ShortName(run.job());
  v1::FineTuningJob::State state = run.state();
  const auto show = [&](const v1::WatchFineTuningJobResponse& message) {
    if (message.has_job() && message.job().state() == v1::FineTuningJob::STATE_PAUSED && state != message.job().state()) {
      line.Note(fmt::format("{} is paused; go on with: sbora-client jobs resume {}", id, id));
    }
    if (message.has_job()) state = message.job().state();
    if (message.has_progress()) {
      line.Update(id, fmt::format("{}/{} {}  {}", ended_ + 1, jobs_, id,
                                  RenderJobProgress(state, message.progress(), kProgressWidth)));
    }
    return OkStatus();
  };
  SBORA_ASSIGN_OR_RETURN(v1::FineTuningJob job, client_.GetJob(run.job()));
  if (!IsTerminal(job.state())) {
    line.Update(id, fmt::format("{}/{} {}  {}", ended_ + 1, jobs_, id, StateName(job.state())));
    WatchOptions options;
    options.stop = stop;
    SBORA_ASSIGN_OR_RETURN(job, client_.Watch(run.job(), options, show));
    SBORA_ASSIGN_OR_RETURN(job, client_.GetJob(run.job()));
  }
  ++ended_;
  run.set_state(job.state());
  if (job.has_failure()) *run.mutable_failure() = job.failure();
  if (job.state() != v1::FineTuningJob::STATE_SUCCEEDED) return OkStatus();
  *run.mutable_result() = job.result();
  const auto adapter = client_.GetAdapter(job.adapter());
  if (!adapter.ok() && adapter.status().code() == StatusCode::kNotFound) {
    line.Note(fmt::format("the adapter of {} was deleted: neither its size nor an evaluation of it is in the report", id));
    return OkStatus();
  }
  if (!adapter.ok()) return adapter.status();
  run.set_artifact_bytes(adapter->size_bytes());
  AddEvaluations(job.adapter(), job.uid(), *run.mutable_evaluations());
  return OkStatus();
}

Status ComparisonRuns::WaitFor(v1::ComparedEvaluation& evaluation, const std::string& of, const std::stop_token& stop,
                               ProgressLine& line) {
  if (evaluation.evaluation().empty()) return OkStatus();  // refused, and told so
  SBORA_ASSIGN_OR_RETURN(v1::EvaluationJob job,
                         client_.WaitEvaluation(evaluation.evaluation(), stop, [&](const v1::EvaluationJob& now) {
                           line.Update(evaluation.evaluation(), fmt::format("{} on {}  {}", evaluation.title(), of,
                                                                            RenderEvaluationProgress(now)));
                         }));
  evaluation.set_state(job.state());
  if (job.has_failure()) *evaluation.mutable_failure() = job.failure();
  if (job.state() != v1::EvaluationJob::STATE_SUCCEEDED) return OkStatus();
  *evaluation.mutable_result() = job.result();
  evaluation.mutable_result()->clear_examples();
  return OkStatus();
}

Status ComparisonRuns::Finish(const std::stop_token& stop, ProgressLine& line) {
  for (size_t seed = 0; seed < plan_.seeds.size(); ++seed) {  // the order in which they were queued
    for (v1::ComparedMethod& method : *report_.mutable_methods()) {
      if (static_cast<int>(seed) < method.runs_size()) {
        SBORA_RETURN_IF_ERROR(WaitFor(*method.mutable_runs(static_cast<int>(seed)), stop, line));
      }
    }
  }
  for (v1::ComparedEvaluation& evaluation : *report_.mutable_base_evaluations()) {
    SBORA_RETURN_IF_ERROR(WaitFor(evaluation, "the base", stop, line));
  }
  for (v1::ComparedMethod& method : *report_.mutable_methods()) {
    for (v1::ComparedRun& run : *method.mutable_runs()) {
      for (v1::ComparedEvaluation& evaluation : *run.mutable_evaluations()) {
        SBORA_RETURN_IF_ERROR(WaitFor(evaluation, ShortName(run.job()), stop, line));
      }
    }
  }
  return OkStatus();
}

}  // namespace sbora::client
