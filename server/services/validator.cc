#include "server/services/validator.h"

#include <fmt/format.h>
#include <pthread.h>

#include <algorithm>
#include <memory>

#include "common/file.h"
#include "common/logging.h"
#include "common/status_macros.h"
#include "core/proto/stable_bytes.h"
#include "sbora/worker/v1/task.pb.h"
#include "server/services/convert.h"
#include "server/services/isolated_check.h"
#include "server/services/requests.h"
#include "server/services/stored_files.h"

namespace sbora::server {
namespace {

constexpr Duration kRetryFirst = std::chrono::seconds(2);
constexpr Duration kRetryLongest = std::chrono::seconds(60);
constexpr int kPage = 1000;

/// What a check's outcome means for its job.
enum class Outcome { kSettled, kTryAgain, kTryAgainForAWhile };

Outcome OutcomeOf(const Status& checked) {
  switch (checked.code()) {
    case StatusCode::kOk:
    // A fact about the data or the model.
    case StatusCode::kInvalidArgument:
    case StatusCode::kFailedPrecondition:
    case StatusCode::kOutOfRange:
    case StatusCode::kUnimplemented: return Outcome::kSettled;
    // This server's trouble, and it passes.
    case StatusCode::kUnavailable:
      return checked.reason() == "CHECK_KILLED" || checked.reason() == "CHECK_WITHOUT_ANSWER" ? Outcome::kTryAgainForAWhile
                                                                                            : Outcome::kTryAgain;
    case StatusCode::kResourceExhausted:
    case StatusCode::kDeadlineExceeded:
    case StatusCode::kAborted:
    case StatusCode::kCancelled:
    case StatusCode::kPermissionDenied:
    case StatusCode::kUnauthenticated: return Outcome::kTryAgain;
    // Whether it passes nobody knows.
    case StatusCode::kUnknown:
    case StatusCode::kNotFound:
    case StatusCode::kAlreadyExists:
    case StatusCode::kInternal:
    case StatusCode::kDataLoss: return Outcome::kTryAgainForAWhile;
  }
  return Outcome::kTryAgainForAWhile;
}

Duration RetryAfter(int tries) {
  Duration wait = kRetryFirst;
  for (int i = 1; i < tries && wait < kRetryLongest; ++i) wait *= 2;
  return std::min(wait, kRetryLongest);
}

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

DatasetValidator::DatasetValidator(const ServiceContext& services) : services_(services) {
  for (std::jthread& thread : threads_) thread = std::jthread([this] { Run(); });
}

DatasetValidator::~DatasetValidator() {
  stop_.request_stop();
  for (std::jthread& thread : threads_) thread.join();
}

void DatasetValidator::Add(const std::string& job_name) {
  MutexLock lock(mutex_);
  const auto [entry, fresh] = jobs_.try_emplace(job_name);
  if (!fresh) return;
  entry->second.order = next_order_++;
  ++changes_;
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

std::optional<std::string> DatasetValidator::Next(int* tries) {
  MutexLock lock(mutex_);
  while (!stop_.stop_requested()) {
    auto first = jobs_.end();
    MonotonicTime wake = MonotonicTime::max();
    for (auto job = jobs_.begin(); job != jobs_.end(); ++job) {
      if (job->second.busy) continue;
      if (job->second.not_before > services_.clock->Now()) {
        wake = std::min(wake, job->second.not_before);
      } else if (first == jobs_.end() || job->second.order < first->second.order) {
        first = job;
      }
    }
    if (first != jobs_.end()) {
      first->second.busy = true;
      *tries = ++first->second.tries;
      return first->first;
    }
    const auto changed = [this, seen = changes_]() SBORA_NO_THREAD_SAFETY_ANALYSIS { return changes_ != seen; };
    if (wake == MonotonicTime::max()) {
      changed_.wait(lock, stop_.get_token(), changed);
    } else {
      changed_.wait_until(lock, stop_.get_token(), wake, changed);
    }
  }
  return std::nullopt;
}

void DatasetValidator::Run() {
  pthread_setname_np(pthread_self(), "validator");
  int tries = 0;
  while (const std::optional<std::string> name = Next(&tries)) {
    const std::optional<Duration> again = Validate(*name, tries);
    MutexLock lock(mutex_);
    if (again) {
      jobs_.at(*name).busy = false;
      jobs_.at(*name).not_before = services_.clock->Now() + *again;
    } else {
      jobs_.erase(*name);
    }
    ++changes_;  // the other thread may sleep past the new time
    changed_.notify_all();
  }
}

std::optional<Duration> DatasetValidator::Validate(const std::string& job_name, int tries) {
  const StatusOr<Work> work = services_.store().GetWork(job_name);
  if (work.ok() && work->row.state != core::JobState::kValidating) return std::nullopt;
  if (!work.ok() && work.status().code() == StatusCode::kNotFound) return std::nullopt;
  const StatusOr<data::ValidationReport> checked = work.ok() ? CheckGuarded(*work) : work.status();
  if (stop_.stop_requested()) return std::nullopt;  // still VALIDATING in the store: the next start takes it up
  if (checked.status().code() == StatusCode::kCancelled) return Duration::zero();  // called off: another look tells why
  const Outcome outcome = work.ok() ? OutcomeOf(checked.status()) : Outcome::kTryAgain;
  const bool settle = outcome == Outcome::kSettled || (outcome == Outcome::kTryAgainForAWhile && tries >= kMaxTries);
  const Status settled = settle ? Settle(*work, checked) : checked.status();
  if (settle && settled.ok()) return std::nullopt;
  if (settle && !IsRetryable(settled.code())) {
    LogInfo("A job left VALIDATING by other means", {{"job", job_name}, {"error", settled.ToString()}});
    return std::nullopt;
  }
  LogWarn("Validating a job will be tried again", {{"job", job_name}, {"tries", tries}, {"error", settled.ToString()}});
  return RetryAfter(tries);
}

Status DatasetValidator::Settle(const Work& work, const StatusOr<data::ValidationReport>& checked) {
  if (checked.ok()) {
    // The decoded example shows which tokens are learnt from: the cure for wrong templates.
    const std::string text = data::Summary(*checked) + ". The first, with what is supervised in [[ ]]: " + checked->example;
    return services_.coordinator->MarkValidated(work.row.name, {.time_ms = ToUnixMillis(services_.clock->WallNow()),
                                                                   .level = data::Lossy(*checked) ? 2 : 1,
                                                                   .type = "DATA_CHECKED",
                                                                   .message = text});
  }
  LogInfo("A job fails before it was queued", {{"job", work.row.name}, {"reason", checked.status().reason()}});
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
  return CheckTask(task, [this, &work] {
    const StatusOr<Work> now = services_.store().GetWork(work.row.name);
    return stop_.stop_requested() || (now.ok() && now->row.state != core::JobState::kValidating);
  });
}

Status DatasetValidator::CheckNow(const worker::v1::Task& task, const std::function<bool()>& cancelled) {
  const int before = callers_.fetch_add(1);
  const std::unique_ptr<std::atomic<int>, void (*)(std::atomic<int>*)> caller(&callers_, [](std::atomic<int>* count) { count->fetch_sub(1); });
  if (before >= kMaxCallers) {
    return ResourceExhausted("TOO_MANY_CHECKS", fmt::format("{} calls check their data already, which is the limit; try again later", kMaxCallers));
  }
  return CheckTask(task, [&] { return stop_.stop_requested() || cancelled(); }).status();
}

StatusOr<data::ValidationReport> DatasetValidator::CheckTask(const worker::v1::Task& task, const std::function<bool()>& called_off) {
  SBORA_ASSIGN_OR_RETURN(const TempDirectory temp, TempDirectory::Create(services_.temp_directory, "validate"));
  const worker::v1::InputGroup* model = FindInput(task, "model");
  if (model == nullptr) return Internal("TASK_WITHOUT_MODEL", "a task to train has no model");
  for (const v1::File& file : model->files()) {
    if (!IsTokenizerFile(file.path())) continue;
    SBORA_ASSIGN_OR_RETURN(const ObjectRow object, FindObject(services_, file.object()));
    SBORA_RETURN_IF_ERROR(services_.objects->GetToFile(object.key, temp.path() / file.path()).status());
  }
  for (const worker::v1::InputGroup& group : task.inputs()) {
    if (&group == model || group.files().empty()) continue;
    SBORA_ASSIGN_OR_RETURN(const ObjectRow object, FindObject(services_, group.files(0).object()));
    SBORA_RETURN_IF_ERROR(
        services_.objects->GetToFile(object.key, temp.path() / fmt::format("{}.data", group.name())).status());
  }
  SBORA_RETURN_IF_ERROR(WriteFileAtomic(temp.path() / "request", core::StableBytes(task.train())));
  if (!services_.check_program.empty()) {
    return CheckInChild(services_.check_program, temp.path(), *services_.clock, services_.check_limit, stop_.get_token(), called_off);
  }
  const MonotonicTime deadline = services_.clock->Now() + services_.check_limit;
  const auto late = [&] { return services_.clock->Now() >= deadline; };
  StatusOr<data::ValidationReport> checked = CheckDirectory(temp.path(), [&] { return late() || called_off(); });
  if (checked.status().code() == StatusCode::kCancelled && late()) return CheckTookTooLong(services_.check_limit);
  return checked;
}

}  // namespace sbora::server
