#include "worker/agent/agent.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <pthread.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <utility>

#include "common/grpc/channel.h"
#include "common/grpc/status_convert.h"
#include "common/ids.h"
#include "common/logging.h"
#include "common/status_macros.h"
#include "worker/agent/slots.h"

namespace sbora::agent {
namespace fs = std::filesystem;
namespace wp = worker::v1;
namespace {

constexpr std::chrono::milliseconds kCallDeadline{10'000};  // the coordinator holds a call for at most 5 s
constexpr Duration kAliveLimit = std::chrono::seconds(60);
constexpr std::chrono::milliseconds kFarewell{300};
/// News of training waits at most this long while the coordinator holds a call.
constexpr Duration kNewsWait = std::chrono::seconds(1);
/// Share of drain_seconds in which a gang may write its last checkpoint; the rest is for its upload.
constexpr double kCheckpointShare = 0.7;

StatusOr<UniqueFd> LockDataDir(const fs::path& data_dir) {
  std::error_code error;
  fs::create_directories(data_dir, error);
  if (error) return FromErrno(error.value(), fmt::format("making {}", data_dir.string()));
  const fs::path path = data_dir / "lock";
  UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!fd.valid()) return FromErrno(errno, fmt::format("opening {}", path.string()));
  if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    return FailedPrecondition("DATA_DIR_IN_USE", fmt::format("another sbora-worker runs on {}; stop it or give another "
                                                             "--data-dir", data_dir.string()));
  }
  return fd;
}

std::string HostName() {
  char name[256] = {};
  return ::gethostname(name, sizeof(name) - 1) == 0 ? name : "";
}

}  // namespace

Agent::Agent(const config::v1::WorkerConfig& config)
    : config_(config), instance_uuid_(NewUuid4()), alive_(SystemClock().Now()) {}

StatusOr<std::unique_ptr<Agent>> Agent::Start(const config::v1::WorkerConfig& config) {
  std::unique_ptr<Agent> agent(new Agent(config));
  SBORA_RETURN_IF_ERROR(agent->Open());
  agent->thread_ = std::jthread([raw = agent.get()](const std::stop_token& stop) { raw->Run(stop); });
  return agent;
}

Status Agent::Open() {
  const fs::path data_dir = fs::absolute(config_.data_dir());
  SBORA_ASSIGN_OR_RETURN(lock_file_, LockDataDir(data_dir));
  SBORA_RETURN_IF_ERROR(CleanUpAttempts(data_dir / "attempts").status());
  SBORA_ASSIGN_OR_RETURN(cache_, Cache::Open(data_dir / "cache", config_.cache_bytes(),
                                             [this] { metrics_.AddDamagedCacheFile(); }));
  HostFacts host = DiscoverHost();
  for (const HostFacts::Gpu& gpu : host.gpus) gpus_.push_back(gpu.name);
  if (!kTrainerUsesGpus && !host.gpus.empty()) {
    LogWarn("GPUs are reported but not offered: this build's trainer computes on CPUs; build with -DSBORA_WITH_CUDA=ON",
            {{"gpus", std::ssize(host.gpus)}});
    host.gpus.clear();
  }
  slots_ = MakeSlots(host, config_.cpu_slots());
  if (slots_.empty()) {
    return InvalidArgument("NO_SLOTS", "this machine has no usable GPU and --cpu-slots is 0, so nothing could ever run "
                                       "here; give --cpu-slots 1 or more");
  }
  const ChannelOptions options{.tls_ca = config_.tls_ca(), .token_file = config_.token_file()};
  // Two connections: a large transfer never holds up a renewal.
  SBORA_ASSIGN_OR_RETURN(const auto control, CreateChannel(config_.server(), options));
  SBORA_ASSIGN_OR_RETURN(const auto bulk, CreateChannel(config_.server(), options));
  service_ = wp::WorkerService::NewStub(control);
  transfer_ = std::make_unique<TransferClient>(bulk, TransferOptions{});
  spawner_ = std::make_unique<Spawner>();
  context_ = std::unique_ptr<AttemptContext>(new AttemptContext{
      .spawner = *spawner_,
      .cache = *cache_,
      .transfer = *transfer_,
      .service = *service_,
      .metrics = metrics_,
      .worker = config_.name(),
      .instance_uuid = instance_uuid_,
      .gang_address = config_.gang_address(),
      .attempts_folder = data_dir / "attempts",
      .trainer = fs::absolute(config_.trainer()),
      .checkpoint_grace = std::chrono::duration_cast<Duration>(
          std::chrono::duration<double>(config_.drain_seconds() * kCheckpointShare)),
      .slots = {},
      .on_change = [this] { Wake(); },
      .on_news = [this] { Nudge(); }});
  for (const wp::Slot& slot : slots_) {
    context_->slots[slot.id()] = slot;
    state_.slot_ids.insert(slot.id());
  }
  if (!config_.http_listen().empty()) {
    const auto alive = [this] {
      MutexLock lock(mutex_);
      return SystemClock().Now() - alive_ < kAliveLimit;
    };
    SBORA_ASSIGN_OR_RETURN(http_, HttpStatus::Start({.listen = config_.http_listen(),
                                                     .metrics = [this] { return metrics_.Text(); },
                                                     .alive = alive}));
  }
  LogInfo("worker starts", {{"worker", config_.name()},
                            {"instance", instance_uuid_},
                            {"server", config_.server()},
                            {"slots", static_cast<int64_t>(slots_.size())},
                            {"http", http_address()}});
  return OkStatus();
}

Agent::~Agent() {
  thread_.request_stop();
  Wake();
  if (thread_.joinable()) thread_.join();
  attempts_.clear();  // before what they use
}

void Agent::Drain() {
  {
    MutexLock lock(mutex_);
    if (drain_deadline_) return;
    drain_deadline_ = SystemClock().Now() +
                      std::chrono::duration_cast<Duration>(std::chrono::duration<double>(config_.drain_seconds()));
  }
  LogInfo("worker drains", {{"worker", config_.name()}});
  Wake();
}

Status Agent::Wait() {
  MutexLock lock(mutex_);
  changed_.wait(lock, [this]() SBORA_NO_THREAD_SAFETY_ANALYSIS { return ended_.has_value(); });
  return *ended_;
}

void Agent::End(Status status) {
  {
    MutexLock lock(mutex_);
    ended_ = std::move(status);
  }
  changed_.notify_all();
}

void Agent::Wake() {
  MutexLock lock(mutex_);
  woken_ = true;
  // The answer of a cancelled call is lost; the coordinator repeats what was in it.
  if (call_ != nullptr) call_->TryCancel();
  changed_.notify_all();
}

void Agent::Nudge() {
  MutexLock lock(mutex_);
  if (call_ == nullptr || cut_short_ || SystemClock().Now() - call_sent_ < kNewsWait) return;
  woken_ = true;
  call_->TryCancel();
}

void Agent::Pause(Duration wait, const std::stop_token& stop) {
  const MonotonicTime until = SystemClock().Now() + wait;
  MutexLock lock(mutex_);
  changed_.wait_until(lock, stop, until, [this]() SBORA_NO_THREAD_SAFETY_ANALYSIS { return woken_; });
}

void Agent::Run(const std::stop_token& stop) {
  pthread_setname_np(pthread_self(), "agent");
  Backoff backoff({.initial = std::chrono::milliseconds(200), .maximum = std::chrono::milliseconds(2'000)});
  bool failing = false;
  while (!stop.stop_requested()) {
    RemoveGone();
    if (DrainDone()) {
      // So that the coordinator counts on this worker no more; it goes either way.
      Synchronize(stop, kFarewell).IgnoreError("the coordinator notices the silence too");
      return End(OkStatus());
    }
    const Status status = Synchronize(stop, kCallDeadline);
    if (status.reason() == "WOKEN") continue;  // our own doing
    metrics_.AddSynchronize(status.ok());
    if (status.ok()) {
      if (failing) LogInfo("the coordinator answers again", {{"server", config_.server()}});
      failing = false;
      backoff.Reset();
      NoteFirstAnswer();
      Pause(pause_, stop);
      continue;
    }
    // Trying again cannot help: another version of the protocol, or another agent took over our name.
    if (status.reason() == "PROTOCOL_VERSION" || status.reason() == "WORKER_REPLACED") return End(status);
    if (!failing) LogWarn("the coordinator does not answer; trying again", {{"error", status.ToString()}});
    failing = true;
    Pause(backoff.Next(), stop);
  }
  End(OkStatus());
}

wp::SynchronizeRequest Agent::MakeRequest() {
  wp::SynchronizeRequest request;
  request.set_worker(config_.name());
  request.set_instance_uuid(instance_uuid_);
  request.set_protocol_min(kProtocolMin);
  request.set_protocol_max(kProtocolMax);
  request.set_version(SBORA_VERSION);
  request.set_host(HostName());
  for (const wp::Slot& slot : slots_) *request.add_slots() = slot;
  for (const std::string& gpu : gpus_) request.add_gpus(gpu);
  request.set_gang_address(config_.gang_address());
  request.set_draining(state_.draining);
  request.set_acknowledged_sequence(state_.acknowledged_sequence);
  reported_.clear();
  for (const auto& [uid, attempt] : attempts_) {
    auto report = attempt->Report();
    if (!report) continue;
    *request.add_attempts() = *std::move(report);
    reported_.push_back(attempt->Held());
  }
  return request;
}

Status Agent::Synchronize(const std::stop_token& stop, std::chrono::milliseconds deadline) {
  grpc::ClientContext context;
  SetDeadline(context, deadline);
  {
    MutexLock lock(mutex_);
    woken_ = false;  // whatever woke us is in the request that is made now
    call_ = &context;
    alive_ = call_sent_ = SystemClock().Now();
  }
  const wp::SynchronizeRequest request = MakeRequest();
  const MonotonicTime sent_at = SystemClock().Now();
  wp::SynchronizeResponse response;
  const Status status = FromGrpc(service_->Synchronize(&context, request, &response));
  bool woken = false;
  {
    MutexLock lock(mutex_);
    call_ = nullptr;
    woken = woken_;
    // A renewal counts only when its answer arrives: never cut two calls short in a row for news alone.
    cut_short_ = woken && !status.ok();
  }
  if (stop.stop_requested()) return Cancelled("STOPPED", "the agent ends");
  if (!status.ok() && woken && status.code() == StatusCode::kCancelled) return Cancelled("WOKEN", "there is news");
  if (!status.ok()) return status;
  answered_ = true;
  Carry(Step(state_, reported_, response), sent_at);
  return OkStatus();
}

void Agent::Carry(Decision decision, MonotonicTime sent_at) {
  pause_ = decision.next_call_after;
  for (const auto& renewal : decision.renew) {
    attempts_.at(renewal.lease_uid)->Renew(sent_at, renewal.acknowledged_item, renewal.rendezvous);
  }
  for (const auto& stop : decision.stop) attempts_.at(stop.lease_uid)->Stop(stop.order);
  for (const std::string& uid : decision.forget) {
    attempts_.erase(uid);
    state_.NoteFinished(uid);
  }
  for (wp::Lease& lease : decision.start) {
    const std::string uid = lease.id().uid();
    attempts_.emplace(uid, std::make_unique<Attempt>(*context_, std::move(lease), sent_at));
  }
  for (auto& refusal : decision.refuse) {
    const std::string uid = refusal.lease.id().uid();
    attempts_.emplace(uid, std::make_unique<Attempt>(*context_, std::move(refusal.lease), refusal.why));
  }
  if (!decision.start.empty() || !decision.refuse.empty()) pause_ = Duration::zero();
  drain_ordered_ = decision.drain;
  metrics_.SetAttempts(static_cast<int>(attempts_.size()));
}

void Agent::RemoveGone() {
  for (auto it = attempts_.begin(); it != attempts_.end();) {
    if (!it->second->gone()) {
      ++it;
      continue;
    }
    state_.NoteFinished(it->first);
    it = attempts_.erase(it);
  }
  metrics_.SetAttempts(static_cast<int>(attempts_.size()));
}

bool Agent::DrainDone() {
  std::optional<MonotonicTime> deadline;
  {
    MutexLock lock(mutex_);
    deadline = drain_deadline_;
  }
  const bool draining = deadline.has_value() || drain_ordered_;
  if (draining) {
    for (const auto& [uid, attempt] : attempts_) attempt->Stop(StopOrder::kPreempt);
  }
  state_.draining = draining;
  if (!deadline) return false;
  if (attempts_.empty()) return true;
  if (SystemClock().Now() < *deadline) return false;
  LogWarn("the time to drain is over; ending what still runs", {{"attempts", static_cast<int64_t>(attempts_.size())}});
  return true;
}

void Agent::NoteFirstAnswer() {
  if (!answered_ || config_.ready_file().empty() || state_.acknowledged_sequence < 0) return;
  std::error_code error;
  if (fs::exists(config_.ready_file(), error)) return;
  const nlohmann::json json = {{"name", config_.name()}, {"httpAddress", http_address()}, {"pid", ::getpid()},
                               {"instanceUuid", instance_uuid_}};
  if (const Status status = WriteFileAtomic(config_.ready_file(), json.dump() + "\n"); !status.ok()) {
    LogWarn("ready file not written", {{"error", status.ToString()}});
  }
}

}  // namespace sbora::agent
