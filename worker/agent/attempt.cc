#include "worker/agent/attempt.h"

#include <fmt/format.h>
#include <pthread.h>

#include <algorithm>
#include <utility>

#include "common/file.h"
#include "common/grpc/channel.h"
#include "common/grpc/status_convert.h"
#include "common/logging.h"
#include "common/status_macros.h"

namespace sbora::agent {
namespace fs = std::filesystem;
namespace wp = worker::v1;

namespace {

/// Damaged or gone for good: no retry brings it back, and the checkpoint before it, or none, does as well.
bool IsLostCheckpoint(const wp::InputGroup& group, const Status& fetched) {
  const bool checkpoint = group.name() == "checkpoint" || group.name() == "checkpoint_before";
  return checkpoint && (fetched.code() == StatusCode::kDataLoss || fetched.code() == StatusCode::kNotFound);
}

}  // namespace

Attempt::Attempt(AttemptContext& context, wp::Lease lease, MonotonicTime renewed)
    : context_(context), lease_(std::move(lease)), timing_(TimingOf(lease_.timing())),
      folder_(context.attempts_folder / lease_.id().uid()), control_(renewed) {
  const LogScope scope(LogFields());
  LogInfo("attempt starts");
  thread_ = std::jthread([this] { Run(); });
}

Attempt::Attempt(AttemptContext& context, wp::Lease lease, const Status& refused)
    : context_(context), lease_(std::move(lease)), control_(SystemClock().Now()) {
  const LogScope scope(LogFields());
  LogError("lease refused", {{"error", refused.ToString()}});
  MutexLock lock(mutex_);
  state_ = State::kEnded;
  verdict_ = Verdict{.reason = v1::TERMINATION_REASON_INTERNAL, .failure = ToFailure(refused)};
}

Attempt::~Attempt() {
  Stop(StopOrder::kFenced);
  if (thread_.joinable()) thread_.join();
}

std::optional<wp::AttemptReport> Attempt::Report() {
  wp::AttemptReport report;
  *report.mutable_lease() = lease_.id();
  MutexLock lock(mutex_);
  report.set_ready(ready_);
  if (ready_ && port_) report.set_rendezvous(port_->address);
  switch (state_) {
    case State::kGone:
      return std::nullopt;
    case State::kPreparing:
      report.mutable_preparing()->set_phase(phase_);
      break;
    case State::kRunning: {
      auto* running = report.mutable_running();
      *running->mutable_progress() = progress_;
      if (!phase_.empty()) running->mutable_progress()->set_phase(phase_);
      running->set_ticks(ticks_);
      const auto& slot = context_.slots.at(lease_.slots(0));
      running->set_device(slot.device() == "cuda" ? slot.gpu_name() : slot.device());
      break;
    }
    case State::kStopping:
      report.mutable_stopping();
      break;
    case State::kCommitting:
      report.mutable_committing();
      break;
    case State::kEnded: {
      auto* ended = report.mutable_ended();
      ended->set_reason(verdict_.reason);
      *ended->mutable_failure() = verdict_.failure;
      reported_ended_ = true;
      reports_.FillLast(report.mutable_items());
      return report;
    }
  }
  reports_.Fill(report.mutable_items());
  return report;
}

HeldAttempt Attempt::Held() const {
  MutexLock lock(mutex_);
  return HeldAttempt{.lease_uid = lease_.id().uid(),
                     .epoch = lease_.id().epoch(),
                     .slots = {lease_.slots().begin(), lease_.slots().end()},
                     .reported_ended = reported_ended_};
}

void Attempt::Renew(MonotonicTime sent_at, int64_t acknowledged_item, const std::string& rendezvous) {
  control_.Renew(sent_at);
  reports_.Acknowledge(acknowledged_item);
  if (rendezvous.empty()) return;
  MutexLock lock(mutex_);
  rendezvous_ = rendezvous;
  gang_may_start_.notify_all();
}

void Attempt::Stop(StopOrder order) {
  control_.Stop(order);
  work_stop_.request_stop();
  if (!KeepsCheckpoints(order)) upload_stop_.request_stop();
}

bool Attempt::gone() const {
  MutexLock lock(mutex_);
  return state_ == State::kGone;
}

std::vector<LogField> Attempt::LogFields() const {
  return {{"job", lease_.resource()}, {"attempt", lease_.attempt()}, {"epoch", lease_.id().epoch()}};
}

void Attempt::Run() {
  pthread_setname_np(pthread_self(), "attempt");
  const LogScope scope(LogFields());
  Verdict verdict = Work();
  if (verdict.reason == v1::TERMINATION_REASON_DONE && Leads()) {
    std::optional<Verdict> refused = Commit();
    if (!refused) {
      RemoveFolder();
      SetState(State::kGone);
      return;
    }
    verdict = *std::move(refused);
  }
  // A checkpoint that still waits is the difference between progress kept and lost.
  if (checkpoints_ && KeepsCheckpoints(control_.order())) checkpoints_->Flush(upload_stop_.get_token());
  checkpoints_.reset();
  RemoveFolder();
  End(std::move(verdict));
}

Verdict Attempt::Work() {
  if (const Status status = MakeFolders(); !status.ok()) return OfFailure(status);
  if (const Status status = FetchInputs(); !status.ok()) return OfFailure(status);
  if (std::optional<Verdict> failed = PrepareNf4Base(); failed) return *std::move(failed);
  if (std::optional<Verdict> failed = PrepareTokenCaches(); failed) return *std::move(failed);
  if (std::optional<Verdict> failed = AwaitGang(); failed) return *std::move(failed);
  if (control_.order() != StopOrder::kNone) return OfPendingOrder();
  return RunRanks();
}

std::optional<Verdict> Attempt::AwaitGang() {
  if (!SpansWorkers()) return std::nullopt;
  std::optional<GangPort> port;
  if (Leads()) {
    auto opened = OpenGangPort(context_.gang_address);
    if (!opened.ok()) return OfFailure(opened.status());
    port = *std::move(opened);
  }
  {
    MutexLock lock(mutex_);
    port_ = std::move(port);
    ready_ = true;
    phase_ = "waiting for the ranks on other workers";
  }
  context_.on_change();
  MutexLock lock(mutex_);
  gang_may_start_.wait(lock, work_stop_.get_token(), [this]() SBORA_NO_THREAD_SAFETY_ANALYSIS { return !rendezvous_.empty(); });
  return std::nullopt;
}

Status Attempt::MakeFolders() {
  std::error_code error;
  fs::remove_all(folder_, error);
  for (const char* name : {"inputs", "output", "checkpoints", "uploads", "logs"}) {
    fs::create_directories(folder_ / name, error);
    if (error) return FromErrno(error.value(), fmt::format("making {}", (folder_ / name).string()));
  }
  return SaveJournal({}, std::nullopt);
}

Status Attempt::FetchInputs() {
  for (const auto& group : lease_.task().inputs()) {
    SBORA_RETURN_IF_ERROR(CheckFileName(group.name()));
    auto fetched = FetchGroup(group);
    if (IsLostCheckpoint(group, fetched.status())) {
      RejectCheckpoint(group.name(), fetched.status());
      continue;
    }
    SBORA_ASSIGN_OR_RETURN(auto pins, std::move(fetched));
    const fs::path folder = folder_ / "inputs" / group.name();
    SBORA_RETURN_IF_ERROR(Materialise(folder, group.files(), pins));
    directories_[group.name()] = folder.string();
    std::move(pins.begin(), pins.end(), std::back_inserter(pins_));
  }
  context_.metrics.SetCacheBytes(context_.cache.used_bytes());
  return OkStatus();
}

void Attempt::RejectCheckpoint(const std::string& name, const Status& why) {
  LogWarn("a checkpoint is not used", {{"input", name}, {"error", why.ToString()}});
  v1::FineTuningEvent event;
  event.set_level(v1::FineTuningEvent::LEVEL_WARN);
  event.set_type("CHECKPOINT_REJECTED");
  event.set_message(fmt::format("{} is not used: {}", name, why.message()));
  event.set_attempt(lease_.attempt());
  reports_.Add(std::move(event));
}

StatusOr<std::vector<CachePin>> Attempt::FetchGroup(const wp::InputGroup& group) {
  std::vector<CachePin> pins;
  for (int i = 0; i < group.files_size(); ++i) {
    const v1::File& file = group.files(i);
    SetPhase(fmt::format("fetching {} ({} of {} files)", group.name(), i + 1, group.files_size()));
    auto pin = context_.cache.Get(file, [&](const fs::path& path) { return FetchFile(file, path); },
                                  work_stop_.get_token());
    if (!pin.ok()) return pin.status().WithContext(fmt::format("fetching {}/{}", group.name(), file.path()));
    pins.push_back(*std::move(pin));
  }
  return pins;
}

Status Attempt::FetchFile(const v1::File& file, const fs::path& destination) {
  SBORA_RETURN_IF_ERROR(context_.transfer.Download(file, destination, work_stop_.get_token()));
  context_.metrics.AddTransferred("download", file.size_bytes());
  return OkStatus();
}

Verdict Attempt::RunRanks() {
  checkpoints_ = std::make_unique<CheckpointUploader>(
      CheckpointUploaderOptions{.project = lease_.project(), .checkpoints = folder_ / "checkpoints",
                                .staging = folder_ / "uploads", .log_fields = LogFields()},
      context_.transfer, reports_, context_.metrics);
  SetPhase("starting the ranks");
  auto outcome = RunOneGang(MakeGang(false), MakeObserver());
  if (!outcome.ok()) return OfFailure(outcome.status());
  Verdict verdict = RecheckInputs(JudgeGang(*outcome));
  context_.metrics.AddRankExit(ExitLabel(verdict.reason));
  if (verdict.reason == v1::TERMINATION_REASON_NON_FINITE) context_.metrics.AddNonFinite();
  result_ = std::move(outcome->result);
  return verdict;
}

Verdict Attempt::RecheckInputs(Verdict verdict) {
  const bool damage_said = verdict.failure.code() == static_cast<int>(StatusCode::kDataLoss);
  if (!damage_said && verdict.reason != v1::TERMINATION_REASON_INVALID_INPUT) return verdict;
  SetPhase("checking the inputs");
  Status damage;
  for (const CachePin& pin : pins_) {
    const Status checked = context_.cache.Recheck(pin, work_stop_.get_token());
    if (checked.code() == StatusCode::kDataLoss && damage.ok()) damage = checked;
  }
  if (!made_.empty() && (damage_said || !damage.ok())) {
    LogWarn("what was made from the inputs may be damaged; it is made anew next time");
    for (const CachePin& pin : made_) context_.cache.Drop(pin);
  }
  if (damage.ok()) return verdict;
  return Verdict{.reason = v1::TERMINATION_REASON_TRAINER_ERROR,
                 .failure = ToFailure(damage.WithContext(fmt::format("the trainer failed ({})", verdict.failure.message())))};
}

StatusOr<GangOutcome> Attempt::RunOneGang(GangOptions options, const GangObserver& observer) {
  options.cgroup = Cgroup::Create(lease_.id().uid());
  if (options.cgroup) {
    for (RankOptions& rank : options.ranks) rank.spawn.cgroup_procs = options.cgroup->procs_file();
  }
  SBORA_RETURN_IF_ERROR(SaveJournal({}, options.cgroup));
  GangObserver with_journal = observer;
  with_journal.on_started = [&](const std::vector<Child>& children) {
    if (const Status status = SaveJournal(children, options.cgroup); !status.ok()) {
      LogWarn("journal not written", {{"error", status.ToString()}});
    }
    if (observer.on_started) observer.on_started(children);
  };
  auto outcome = RunGang(context_.spawner, options, control_, with_journal);
  if (options.cgroup) options.cgroup->Remove();
  return outcome;
}

GangOptions Attempt::MakeGang(bool prepare_only) const {
  GangOptions options;
  options.self_fence = timing_.self_fence;
  options.hang = timing_.hang;
  // Preparing keeps nothing: no reason to wait for it.
  options.checkpoint_grace = prepare_only ? Duration(std::chrono::milliseconds(100)) : context_.checkpoint_grace;
  const int ranks = prepare_only ? 1 : lease_.slots_size();
  if (!prepare_only) options.first_rank = lease_.first_rank();
  for (int rank = 0; rank < ranks; ++rank) options.ranks.push_back(MakeRank(rank, prepare_only));
  return options;
}

RankOptions Attempt::MakeRank(int index, bool prepare_only) const {
  const wp::Slot& slot = context_.slots.at(lease_.slots(index));
  const int rank = prepare_only ? 0 : lease_.first_rank() + index;
  RankOptions options;
  SpawnOptions& spawn = options.spawn;
  spawn.program = context_.trainer;
  spawn.arguments = {"run", "--fd", "3"};
  spawn.working_directory = folder_;
  spawn.output = folder_ / "logs" / (prepare_only ? "prepare.log" : fmt::format("rank-{}.log", rank));
  spawn.environment = {fmt::format("{}={}", kLeaseVariable, lease_.id().uid())};
  auto& assignment = options.assignment;
  *assignment.mutable_task() = lease_.task();
  for (const auto& [name, path] : directories_) (*assignment.mutable_directories())[name] = path;
  assignment.set_output_directory((folder_ / "output").string());
  assignment.set_checkpoint_directory((folder_ / "checkpoints").string());
  assignment.set_rank(rank);
  assignment.set_world_size(1);
  if (!prepare_only) SetMeeting(options);
  assignment.set_device(slot.device() == "cuda" ? "cuda:0" : "cpu");
  if (slot.device() == "cuda") spawn.environment.push_back("CUDA_VISIBLE_DEVICES=" + slot.gpu_uuid());
  assignment.set_threads(std::max(1, slot.cpu_cores()));
  assignment.set_self_fence_seconds(std::chrono::duration<double>(timing_.self_fence).count());
  assignment.set_attempt(lease_.attempt());
  assignment.set_job(lease_.resource());
  assignment.set_epoch(lease_.id().epoch());
  assignment.set_prepare_only(prepare_only);
  return options;
}

void Attempt::SetMeeting(RankOptions& options) const {
  auto& assignment = options.assignment;
  if (!SpansWorkers()) {
    assignment.set_world_size(lease_.slots_size());
    assignment.set_rendezvous_file((folder_ / "rendezvous").string());
    return;
  }
  assignment.set_world_size(lease_.world_size());
  auto& gang = *assignment.mutable_gang();
  {
    MutexLock lock(mutex_);
    gang.set_rendezvous(rendezvous_);
  }
  gang.set_address(context_.gang_address);
  gang.set_first_local_rank(lease_.first_rank());
  gang.set_local_ranks(lease_.slots_size());
  if (assignment.rank() > 0) return;
  gang.set_listener(kChildListener);
  options.spawn.listener = port_->socket.get();
}

GangObserver Attempt::MakeObserver() {
  GangObserver observer;
  observer.on_started = [this](const std::vector<Child>&) {
    SetPhase("");
    SetState(State::kRunning);
  };
  observer.on_progress = [this](const v1::JobProgress& progress, int64_t ticks) {
    {
      MutexLock lock(mutex_);
      progress_ = progress;
      ticks_ = ticks;
    }
    context_.on_news();
  };
  observer.on_metric = [this](v1::MetricPoint metric) { NoteMetric(std::move(metric)); };
  observer.on_event = [this](v1::FineTuningEvent event) {
    event.set_attempt(lease_.attempt());
    reports_.Add(std::move(event));
  };
  observer.on_checkpoint = [this](const trainer::v1::CheckpointWritten& checkpoint) { checkpoints_->Offer(checkpoint); };
  observer.on_stopping = [this] { SetState(State::kStopping); };
  return observer;
}

void Attempt::NoteMetric(v1::MetricPoint metric) {
  metric.set_attempt(lease_.attempt());
  // After a resume the first point's total holds tokens of earlier attempts, which were counted then.
  const auto& inputs = lease_.task().inputs();
  const bool resumed = std::any_of(inputs.begin(), inputs.end(), [](const auto& group) { return group.name() == "checkpoint"; });
  const int64_t before = trained_tokens_ == 0 && resumed ? metric.trained_tokens() : trained_tokens_;
  const int64_t tokens = metric.trained_tokens() - before;
  trained_tokens_ = metric.trained_tokens();
  context_.metrics.AddStep(MethodName(), tokens);
  reports_.Add(std::move(metric));
}

std::string Attempt::MethodName() const {
  if (!lease_.task().has_train()) return "none";
  std::string name = v1::Method_Name(lease_.task().train().spec().adapter().method());
  constexpr std::string_view kPrefix = "METHOD_";
  if (name.starts_with(kPrefix)) name.erase(0, kPrefix.size());
  std::transform(name.begin(), name.end(), name.begin(), [](char c) { return c >= 'A' && c <= 'Z' ? char(c + 32) : c; });
  return name;
}

Verdict Attempt::JudgeGang(const GangOutcome& outcome) const {
  std::string tail;
  const int rank = FailingRank(outcome);
  if (rank >= 0 && (!outcome.error || IsRankLost(*outcome.error))) {
    for (const std::string& name : {fmt::format("rank-{}.log", rank), std::string("prepare.log")}) {
      if (tail.empty()) tail = LastLine(folder_ / "logs" / name);
    }
  }
  const Verdict verdict = Judge(outcome, tail);
  if (!lease_.task().has_train()) return verdict;
  const worker::v1::TrainTask& train = lease_.task().train();
  if (verdict.reason == v1::TERMINATION_REASON_OOM_GPU) return WithEstimate(verdict, train.estimated_gpu_bytes());
  const bool on_cpu = context_.slots.at(lease_.slots(0)).device() == "cpu";  // a GPU job's host memory is not estimated
  return WithEstimate(verdict, on_cpu ? train.estimated_cpu_bytes() : 0);
}

Verdict Attempt::OfFailure(const Status& status) const {
  if (control_.order() != StopOrder::kNone) return OfPendingOrder();
  v1::TerminationReason reason = v1::TERMINATION_REASON_INTERNAL;
  if (status.reason() == "NO_SPACE") reason = v1::TERMINATION_REASON_NO_SPACE;
  if (status.code() == StatusCode::kInvalidArgument) reason = v1::TERMINATION_REASON_INVALID_INPUT;
  // The service or its store was away: not the job's fault, and not an attempt of it.
  if (status.code() == StatusCode::kUnavailable) reason = v1::TERMINATION_REASON_WORKER_LOST;
  return Verdict{.reason = reason, .failure = ToFailure(status)};
}

Verdict Attempt::OfPendingOrder() const {
  GangOutcome outcome;
  outcome.cause = KillCause::kOrder;
  outcome.order = control_.order();
  return Judge(outcome, "");
}

Status Attempt::SaveJournal(const std::vector<Child>& children, const std::optional<Cgroup>& cgroup) const {
  Journal journal{.lease_uid = lease_.id().uid(),
                  .epoch = lease_.id().epoch(),
                  .resource = lease_.resource(),
                  .attempt = lease_.attempt(),
                  .boot_id = BootId(),
                  .cgroup = cgroup ? cgroup->path().string() : "",
                  .ranks = {}};
  for (const Child& child : children) journal.ranks.push_back({.pid = child.pid, .start_time = child.start_time});
  return WriteJournal(folder_, journal);
}

void Attempt::SetState(State state) {
  {
    MutexLock lock(mutex_);
    if (state_ == state) return;
    state_ = state;
  }
  context_.on_change();
}

void Attempt::SetPhase(std::string phase) {
  MutexLock lock(mutex_);
  phase_ = std::move(phase);
}

void Attempt::End(Verdict verdict) {
  const bool silent = control_.order() == StopOrder::kFenced;
  LogInfo("attempt ended", {{"reason", v1::TerminationReason_Name(verdict.reason)}, {"error", verdict.failure.message()}});
  {
    MutexLock lock(mutex_);
    verdict_ = std::move(verdict);
    phase_.clear();
  }
  context_.metrics.AddDroppedReports(reports_.dropped());
  SetState(silent ? State::kGone : State::kEnded);
}

void Attempt::RemoveFolder() {
  checkpoints_.reset();
  pins_.clear();
  made_.clear();
  std::error_code error;
  fs::remove_all(folder_, error);
  if (error) LogWarn("attempt folder not removed", {{"folder", folder_.string()}, {"error", error.message()}});
}

}  // namespace sbora::agent
