#include "server/services/convert.h"

#include <algorithm>

#include "common/grpc/status_convert.h"
#include "common/status_macros.h"
#include "core/names.h"
#include "sbora/worker/v1/task.pb.h"
#include "server/services/requests.h"

namespace sbora::server {
namespace {

v1::JobProgress ProgressOf(const Work& work, const std::string& progress) {
  v1::JobProgress message;
  // Progress lives in the scheduler's memory; after a restart or the end the row knows less.
  if (!message.ParseFromString(progress)) message.Clear();
  if (message.step() == 0 && work.row.checkpoint_step > 0) message.set_step(work.row.checkpoint_step);
  return message;
}

/// What the commit stored with the work.
StatusOr<worker::v1::TaskResult> ResultOf(const Work& work) {
  worker::v1::TaskResult result;
  SBORA_RETURN_IF_ERROR(ParseStored(work.row.result, "task result", result));
  return result;
}

int PercentOf(const Work& work, const std::string& progress) {
  if (work.row.state == core::JobState::kSucceeded) return 100;
  const v1::JobProgress message = ProgressOf(work, progress);
  if (message.total_steps() <= 0) return 0;
  return static_cast<int>(std::clamp<int64_t>(message.step() * 100 / message.total_steps(), 0, 99));
}

Status EndError(const Work& work) {
  if (work.row.state == core::JobState::kCancelled) return Cancelled("OPERATION_CANCELLED", fmt::format("{} was cancelled", work.row.name));
  const Failure& failure = work.row.failure;
  const int code = failure.code > 0 && failure.code <= 16 ? failure.code : static_cast<int>(StatusCode::kInternal);
  return Status(static_cast<StatusCode>(code), failure.reason.empty() ? "OPERATION_FAILED" : failure.reason,
                failure.message.empty() ? std::string(core::TerminationReasonName(work.row.reason)) : failure.message);
}

Status SetMetadata(const Work& work, const std::string& progress, google::longrunning::Operation& operation) {
  if (work.row.kind == WorkKind::kImport) {
    v1::ImportModelMetadata metadata;
    SBORA_RETURN_IF_ERROR(ParseStored(work.payload->spec, "import", metadata));
    metadata.set_progress_percent(PercentOf(work, progress));
    operation.mutable_metadata()->PackFrom(metadata);
    return OkStatus();
  }
  v1::AdapterOperationMetadata metadata;
  SBORA_RETURN_IF_ERROR(ParseStored(work.payload->spec, "adapter operation", metadata));
  metadata.set_progress_percent(PercentOf(work, progress));
  operation.mutable_metadata()->PackFrom(metadata);
  return OkStatus();
}

}  // namespace

google::protobuf::Timestamp ToTimestamp(int64_t unix_millis) {
  google::protobuf::Timestamp time;
  time.set_seconds(unix_millis / 1000);
  time.set_nanos(static_cast<int>(unix_millis % 1000) * 1'000'000);
  return time;
}

v1::Failure ToProto(const Failure& failure) {
  v1::Failure message;
  message.set_code(failure.code);
  message.set_reason(failure.reason);
  message.set_message(failure.message);
  return message;
}

Failure FromStatus(const Status& status) {
  std::string text = status.message();
  for (const FieldViolation& violation : status.violations()) {
    if (text.size() > 2000) break;
    text += "; " + violation.field + ": " + violation.description;
  }
  return {static_cast<int>(status.code()), status.reason(), text};
}

v1::FineTuningResult ResultProto(const worker::v1::TrainResult& train) {
  v1::FineTuningResult result;
  result.set_steps(train.steps());
  result.set_kept_step(train.kept_step());
  result.set_trained_tokens(train.trained_tokens());
  result.set_final_loss(train.final_loss());
  if (train.has_validation_loss()) result.set_validation_loss(train.validation_loss());
  result.set_seconds(train.seconds());
  if (train.seconds() > 0) result.set_tokens_per_second(static_cast<double>(train.trained_tokens()) / train.seconds());
  result.set_peak_memory_bytes(train.peak_memory_bytes());
  return result;
}

StatusOr<v1::FineTuningJob> JobOf(const Work& work, const std::string& progress) {
  const WorkRow& row = work.row;
  v1::FineTuningJob job;
  SBORA_RETURN_IF_ERROR(ParseStored(work.payload->spec, "fine-tuning job", job).WithContext(row.name));
  job.set_name(row.name);
  job.set_uid(row.uid);
  job.set_etag(EtagOf(row.ChangeTag()));
  job.set_state(static_cast<v1::FineTuningJob::State>(row.state));
  job.set_termination_reason(static_cast<v1::TerminationReason>(row.reason));
  if (!row.failure.reason.empty() && row.state != core::JobState::kSucceeded) *job.mutable_failure() = ToProto(row.failure);
  job.set_attempt(row.attempt);
  job.set_recovery_count(row.recovery_count);
  if (row.create_ms != 0) *job.mutable_create_time() = ToTimestamp(row.create_ms);
  if (row.start_ms != 0) *job.mutable_start_time() = ToTimestamp(row.start_ms);
  if (row.end_ms != 0) *job.mutable_end_time() = ToTimestamp(row.end_ms);
  *job.mutable_progress() = ProgressOf(work, progress);
  if (job.progress().total_steps() == 0) job.mutable_progress()->set_total_steps(job.spec().training().max_steps());
  job.set_worker(row.worker);
  job.set_resolved_device(row.resolved_device);
  if (row.state != core::JobState::kSucceeded) return job;

  job.set_adapter(FullName(row.project, core::Collection::kAdapters, row.id));
  SBORA_ASSIGN_OR_RETURN(const worker::v1::TaskResult result, ResultOf(work));
  v1::JobProgress& done = *job.mutable_progress();
  done.set_step(result.train().steps());
  done.set_total_steps(result.train().steps());
  done.set_loss(result.train().final_loss());
  done.set_validation_loss(result.train().validation_loss());
  done.set_trained_tokens(result.train().trained_tokens());
  done.set_remaining_seconds(0);
  *job.mutable_result() = ResultProto(result.train());
  return job;
}

StatusOr<v1::EvaluationJob> EvaluationOf(const Work& work, const std::string& progress) {
  const WorkRow& row = work.row;
  v1::EvaluationJob job;
  SBORA_RETURN_IF_ERROR(ParseStored(work.payload->spec, "evaluation job", job).WithContext(row.name));
  job.set_name(row.name);
  job.set_uid(row.uid);
  job.set_etag(EtagOf(row.ChangeTag()));
  const bool queued = row.state == core::JobState::kValidating;
  job.set_state(queued ? v1::EvaluationJob::STATE_QUEUED : static_cast<v1::EvaluationJob::State>(row.state));
  job.set_termination_reason(static_cast<v1::TerminationReason>(row.reason));
  if (!row.failure.reason.empty() && row.state != core::JobState::kSucceeded) *job.mutable_failure() = ToProto(row.failure);
  if (row.create_ms != 0) *job.mutable_create_time() = ToTimestamp(row.create_ms);
  if (row.end_ms != 0) *job.mutable_end_time() = ToTimestamp(row.end_ms);
  const v1::JobProgress at = ProgressOf(work, progress);
  job.set_samples_done(at.step());
  job.set_samples_total(at.total_steps());
  if (row.state != core::JobState::kSucceeded) return job;

  SBORA_ASSIGN_OR_RETURN(const worker::v1::TaskResult result, ResultOf(work));
  *job.mutable_result() = result.evaluate();
  job.set_samples_done(result.evaluate().samples());
  job.set_samples_total(result.evaluate().samples());
  return job;
}

StatusOr<google::longrunning::Operation> OperationOf(const Work& work, const std::string& progress) {
  google::longrunning::Operation operation;
  operation.set_name(work.row.name);
  SBORA_RETURN_IF_ERROR(SetMetadata(work, progress, operation));
  operation.set_done(core::IsTerminal(work.row.state));
  if (!operation.done()) return operation;
  if (work.row.state == core::JobState::kSucceeded) {
    SBORA_RETURN_IF_ERROR(ParseStored(work.row.result, "operation response", *operation.mutable_response()));
    return operation;
  }
  const grpc::Status error = ToGrpc(EndError(work));
  if (!operation.mutable_error()->ParseFromString(error.error_details())) {
    operation.mutable_error()->set_code(error.error_code());
    operation.mutable_error()->set_message(error.error_message());
  }
  return operation;
}

StatusOr<v1::Model> ModelOf(const ResourceRow& row) {
  v1::Model model;
  SBORA_RETURN_IF_ERROR(ParseStored(row.payload, "model", model).WithContext(row.name));
  model.set_name(row.name);
  model.set_uid(row.uid);
  model.set_etag(EtagOf(row.ChangeTag()));
  *model.mutable_create_time() = ToTimestamp(row.create_ms);
  return model;
}

StatusOr<v1::Dataset> DatasetOf(const ResourceRow& row) {
  v1::Dataset dataset;
  SBORA_RETURN_IF_ERROR(ParseStored(row.payload, "data set", dataset).WithContext(row.name));
  dataset.set_name(row.name);
  dataset.set_uid(row.uid);
  dataset.set_etag(EtagOf(row.ChangeTag()));
  *dataset.mutable_create_time() = ToTimestamp(row.create_ms);
  return dataset;
}

StatusOr<v1::Adapter> AdapterOf(const ResourceRow& row) {
  v1::Adapter adapter;
  SBORA_RETURN_IF_ERROR(ParseStored(row.payload, "adapter", adapter).WithContext(row.name));
  adapter.set_name(row.name);
  adapter.set_uid(row.uid);
  adapter.set_etag(EtagOf(row.ChangeTag()));
  *adapter.mutable_create_time() = ToTimestamp(row.create_ms);
  return adapter;
}

v1::FineTuningEvent EventOf(const EventRow& row) {
  v1::FineTuningEvent event;
  event.set_sequence(row.sequence);
  *event.mutable_time() = ToTimestamp(row.time_ms);
  event.set_level(static_cast<v1::FineTuningEvent::Level>(row.level));
  event.set_type(row.type);
  event.set_message(row.message);
  event.set_attempt(row.attempt);
  return event;
}

StatusOr<v1::MetricPoint> MetricOf(const MetricRow& row) {
  v1::MetricPoint point;
  SBORA_RETURN_IF_ERROR(ParseStored(row.payload, "metric point", point));
  point.set_step(row.step);
  point.set_attempt(row.attempt);
  return point;
}

StatusOr<v1::FineTuningCheckpoint> CheckpointOf(const CheckpointRow& row, const std::string& job_name) {
  worker::v1::InputGroup group;
  SBORA_RETURN_IF_ERROR(ParseStored(row.files, "checkpoint", group));
  v1::FineTuningCheckpoint checkpoint;
  checkpoint.set_name(job_name + "/checkpoints/" + std::to_string(row.step));
  checkpoint.set_step(row.step);
  checkpoint.set_attempt(row.attempt);
  *checkpoint.mutable_create_time() = ToTimestamp(row.create_ms);
  *checkpoint.mutable_files() = group.files();
  if (row.validation_loss) checkpoint.set_validation_loss(*row.validation_loss);
  return checkpoint;
}

v1::Worker WorkerOf(const WorkerView& view) {
  v1::Worker worker;
  worker.set_name("workers/" + view.row.name);
  worker.set_state(static_cast<v1::Worker::State>(view.row.state));
  worker.set_version(view.row.version);
  worker.set_host(view.row.host);
  worker.set_slots_total(view.row.slots_total);
  worker.set_slots_used(view.slots_used);
  for (const std::string& gpu : view.row.gpus) worker.add_gpus(gpu);
  if (view.row.last_seen_ms != 0) *worker.mutable_last_seen_time() = ToTimestamp(view.row.last_seen_ms);
  for (const std::string& lease : view.leases) worker.add_leases(lease);
  worker.set_instance_uuid(view.row.instance_uuid);
  return worker;
}

v1::Upload UploadOf(const UploadRow& row, int64_t received_bytes) {
  v1::Upload upload;
  upload.set_name(FullName(row.project, core::Collection::kUploads, row.uid));
  upload.set_size_bytes(row.size_bytes);
  upload.set_sha256(row.sha256);
  upload.set_received_bytes(row.finished ? row.size_bytes : received_bytes);
  upload.set_finished(row.finished);
  if (row.finished) upload.set_object(FullName(row.project, core::Collection::kObjects, row.object_uid));
  *upload.mutable_expire_time() = ToTimestamp(row.expire_ms);
  return upload;
}

std::string OperationName(const std::string& project, const std::string& uid) {
  return FullName(project, core::Collection::kOperations, uid);
}

bool IsOperation(WorkKind kind) {
  return kind == WorkKind::kImport || kind == WorkKind::kMerge || kind == WorkKind::kExport;
}

}  // namespace sbora::server
