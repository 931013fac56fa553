#include "server/services/validator.h"

#include <fmt/format.h>
#include <pthread.h>

#include "common/file.h"
#include "common/logging.h"
#include "common/status_macros.h"
#include "sbora/worker/v1/task.pb.h"
#include "server/services/convert.h"
#include "server/services/isolated_check.h"
#include "server/services/requests.h"
#include "server/services/stored_files.h"

namespace sbora::server {
namespace {

constexpr std::chrono::seconds kRetryAfter{2};
constexpr int kPage = 1000;

/// Only what the tokenizer is made of is fetched; the weights stay where they are.
bool IsTokenizerFile(const std::string& path) {
  return path == "tokenizer.json" || path == "tokenizer_config.json" || path == "special_tokens_map.json" ||
         path == "chat_template.jinja" || path == "config.json" || path == "generation_config.json";
}

const worker::v1::InputGroup* FindInput(const worker::v1::Task& task, std::string_view name) {
  for (const auto& group : task.inputs()) {
    if (group.name() == name) return &group;
  }
  return nullptr;
}

}  // namespace

DatasetValidator::DatasetValidator(const ServiceContext& services) : services_(services), thread_([this] { Run(); }) {}

DatasetValidator::~DatasetValidator() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
  }
  stop_.request_stop();
  changed_.notify_all();
  thread_.join();
}

void DatasetValidator::Add(const std::string& job_name) {
  {
    MutexLock lock(mutex_);
    if (!waiting_.insert(job_name).second) return;
    queue_.push_back(job_name);
  }
  changed_.notify_all();
}

Status DatasetValidator::AddStored() {
  WorkQuery query;
  query.kinds = {WorkKind::kTrain};
  query.states = {core::JobState::kValidating};
  query.page_size = kPage;
  do {
    SBORA_ASSIGN_OR_RETURN(const Page<Work> page, services_.store().ListWork(query));
    for (const Work& work : page.rows) Add(work.row.name);
    query.cursor = page.next_cursor;
  } while (!query.cursor.empty());
  return OkStatus();
}

void DatasetValidator::Run() {
  pthread_setname_np(pthread_self(), "validator");
  for (;;) {
    std::string name;
    {
      MutexLock lock(mutex_);
      changed_.wait(lock, [this]() SBORA_NO_THREAD_SAFETY_ANALYSIS { return stopping_ || !queue_.empty(); });
      if (stopping_) return;
      name = std::move(queue_.front());
      queue_.pop_front();
      waiting_.erase(name);
    }
    Validate(name);
  }
}

void DatasetValidator::Validate(const std::string& job_name) {
  const StatusOr<Work> work = services_.store().GetWork(job_name);
  if (work.ok() && work->row.state != core::JobState::kValidating) return;
  if (!work.ok() && work.status().code() == StatusCode::kNotFound) return;
  const StatusOr<data::ValidationReport> checked = work.ok() ? CheckGuarded(*work) : work.status();
  if (stop_.stop_requested()) return;  // it is still VALIDATING in the store: the next start takes it up
  const Status settled = IsRetryable(checked.status().code()) ? checked.status() : Settle(*work, checked);
  if (settled.ok()) return;
  if (!IsRetryable(settled.code())) {
    LogInfo("A job left VALIDATING by other means", {{"job", job_name}, {"error", settled.ToString()}});
    return;
  }
  LogWarn("Validating a job will be tried again", {{"job", job_name}, {"error", settled.ToString()}});
  if (services_.clock->SleepUntil(services_.clock->Now() + kRetryAfter, stop_.get_token())) Add(job_name);
}

Status DatasetValidator::Settle(const Work& work, const StatusOr<data::ValidationReport>& checked) {
  if (checked.ok()) {
    // The decoded example shows which tokens are learnt from: the cure for wrong templates.
    const std::string text = data::Summary(*checked) + ". The first, with what is supervised in [[ ]]: " + checked->example;
    return services_.coordinator->MarkValidated(work.row.name, {.time_ms = ToUnixMillis(services_.clock->WallNow()), .level = data::Lossy(*checked) ? 2 : 1, .type = "DATA_CHECKED", .message = text});
  }
  LogInfo("A job's data does not fit", {{"job", work.row.name}, {"reason", checked.status().reason()}});
  return services_.coordinator->FailValidation(work.row.name, FromStatus(checked.status()));
}

StatusOr<data::ValidationReport> DatasetValidator::CheckGuarded(const Work& work) {
  try {
    return Check(work);
  } catch (const std::exception& error) {
    return Internal("VALIDATION_FAILED", error.what());
  }
}

StatusOr<data::ValidationReport> DatasetValidator::Check(const Work& work) {
  worker::v1::Task task;
  SBORA_RETURN_IF_ERROR(ParseStored(work.payload->task, "task", task));
  SBORA_ASSIGN_OR_RETURN(const TempDirectory temp, TempDirectory::Create(services_.temp_directory, "validate"));
  const worker::v1::InputGroup* model = FindInput(task, "model");
  if (model == nullptr) return Internal("TASK_WITHOUT_MODEL", fmt::format("{} has no model", work.row.name));
  for (const v1::File& file : model->files()) {
    if (!IsTokenizerFile(file.path())) continue;
    SBORA_ASSIGN_OR_RETURN(const ObjectRow object, FindObject(services_, file.object()));
    SBORA_RETURN_IF_ERROR(services_.objects->GetToFile(object.key, temp.path() / file.path()).status());
  }
  for (const char* const name : {"dataset", "validation"}) {
    const worker::v1::InputGroup* group = FindInput(task, name);
    if (group == nullptr || group->files().empty()) continue;
    SBORA_ASSIGN_OR_RETURN(const ObjectRow object, FindObject(services_, group->files(0).object()));
    SBORA_RETURN_IF_ERROR(services_.objects->GetToFile(object.key, temp.path() / fmt::format("{}.data", name)).status());
  }
  SBORA_RETURN_IF_ERROR(WriteFileAtomic(temp.path() / "request", Serialize(task.train())));
  const auto called_off = [this, &work] {
    const StatusOr<Work> now = services_.store().GetWork(work.row.name);
    return stop_.stop_requested() || (now.ok() && now->row.state != core::JobState::kValidating);
  };
  if (services_.check_program.empty()) return CheckDirectory(temp.path(), called_off);
  return CheckInChild(services_.check_program, temp.path(), *services_.clock, stop_.get_token(), called_off);
}

}  // namespace sbora::server
