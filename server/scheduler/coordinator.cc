#include "server/scheduler/coordinator.h"

#include <fmt/format.h>
#include <pthread.h>

#include <algorithm>
#include <set>
#include <utility>

#include "common/logging.h"
#include "common/status_macros.h"
#include "server/scheduler/coordinator_impl.h"

namespace sbora::server {
namespace {

constexpr size_t kBatch = 256;
constexpr Duration kReloadEvery = std::chrono::seconds(1);

Status NotServing(const Status& why) {
  return Unavailable("NOT_SERVING", fmt::format("the store cannot be written at the moment ({}); try again", why.message()))
      .WithMetadata("cause", why.ToString());
}

Status ResultDeleted(const RequestRow& request) {
  return NotFound("REQUEST_RESULT_DELETED", fmt::format("request_id {} made {}, which was deleted since; use a new one to make another",
                                                        request.request_id, request.name))
      .WithMetadata("name", request.name);
}

}  // namespace

class CoordinatorImpl::KeyLocks {
 public:
  KeyLocks(CoordinatorImpl& owner, const std::string& name, const std::string& project, const std::string& request_id) {
    Take(owner, name);
    // Calls without a request_id must not wait for each other.
    if (!request_id.empty()) Take(owner, project + "/" + request_id);
    for (Mutex* stripe : stripes_) stripe->lock();  // in order of address: no two callers wait for each other
  }
  ~KeyLocks() {
    for (Mutex* stripe : stripes_) stripe->unlock();
  }
  KeyLocks(const KeyLocks&) = delete;
  KeyLocks& operator=(const KeyLocks&) = delete;

 private:
  void Take(CoordinatorImpl& owner, const std::string& key) {
    stripes_.insert(&owner.stripes_[std::hash<std::string>()(key) % kStripes]);
  }

  std::set<Mutex*> stripes_;
};

StatusOr<std::unique_ptr<Coordinator>> Coordinator::Start(CoordinatorOptions options) {
  SBORA_RETURN_IF_ERROR(options.config.Check());
  const Clock& clock = options.clock != nullptr ? *options.clock : SystemClock();
  auto coordinator = std::make_unique<CoordinatorImpl>(std::move(options), clock);
  SBORA_RETURN_IF_ERROR(coordinator->Begin());
  return std::unique_ptr<Coordinator>(std::move(coordinator));
}

CoordinatorImpl::CoordinatorImpl(CoordinatorOptions options, const Clock& clock)
    : options_(std::move(options)), clock_(clock), scheduler_(options_.config, &queue_), hub_(*options_.store) {}

Status CoordinatorImpl::Begin() {
  SBORA_ASSIGN_OR_RETURN(ActiveState state, options_.store->LoadActive());
  scheduler_.Load(std::move(state), Now());
  SetServing(true);
  store_thread_ = std::jthread([this](const std::stop_token& stop) { StoreThread(stop); });
  if (options_.timer) timer_thread_ = std::jthread([this](const std::stop_token& stop) { TimerThread(stop); });
  return OkStatus();
}

CoordinatorImpl::~CoordinatorImpl() {
  if (timer_thread_.joinable()) {
    timer_thread_.request_stop();
    timer_thread_.join();
  }
  FailPolls(Unavailable("SHUTTING_DOWN", "the server is stopping; try again"));
  hub_.EndAll(Unavailable("SHUTTING_DOWN", "the server is stopping; watch again after the last sequence seen"));
  {
    MutexLock lock(ended_mutex_);
    closing_ = true;
    ended_.notify_all();
  }
  if (store_thread_.joinable()) {
    store_thread_.request_stop();
    store_thread_.join();
  }
  serving_ = false;
}

Moment CoordinatorImpl::Now() const { return {.now = clock_.Now(), .wall_ms = ToUnixMillis(clock_.WallNow())}; }

void CoordinatorImpl::SetServing(bool serving) {
  serving_ = serving;
  if (options_.on_serving) options_.on_serving(serving);
}

// --- the store thread -----------------------------------------------------------------------------------------------

void CoordinatorImpl::StoreThread(const std::stop_token& stop) {
  pthread_setname_np(pthread_self(), "store");
  while (true) {
    std::vector<Transition> batch = queue_.WaitAndTake(kBatch, stop);
    if (batch.empty()) return;  // stopping, and nothing is left
    StatusOr<std::vector<Status>> results = CommitBatch(*options_.store, batch);
    if (results.ok()) {
      AfterCommit(std::move(batch), std::move(*results));
    } else {
      Recover(std::move(batch), results.status(), stop);
    }
  }
}

void CoordinatorImpl::AfterCommit(std::vector<Transition> batch, std::vector<Status> results) {
  std::vector<uint64_t> tickets;
  bool ended = false;
  for (const Transition& transition : batch) {
    if (transition.ticket != 0) tickets.push_back(transition.ticket);
  }
  const std::set<std::string> wake = scheduler_.Committed(tickets);
  for (size_t i = 0; i < batch.size(); ++i) {
    for (Publication& publication : batch[i].publish) {
      ended = ended || publication.last;
      hub_.Publish(publication.work_uid, std::move(publication.items), publication.last);
    }
    if (batch[i].done) batch[i].done(results[i]);
  }
  for (const std::string& worker : wake) AnswerPoll(worker, /*force=*/false);
  if (!ended) return;
  MutexLock lock(ended_mutex_);
  ++ended_count_;
  ended_.notify_all();
}

void CoordinatorImpl::Recover(std::vector<Transition> batch, const Status& why, const std::stop_token& stop) {
  LogError("The store cannot be written; nothing is accepted until it can", {{"error", why.ToString()}});
  const Status refusal = NotServing(why);
  scheduler_.Drop(refusal);  // nothing is pushed from here until Load
  SetServing(false);
  for (std::vector<Transition> rest = std::move(batch); !rest.empty(); rest = queue_.Take(kBatch)) {
    for (const Transition& transition : rest) {
      if (transition.done) transition.done(refusal);
    }
  }
  FailPolls(refusal);
  hub_.EndAll(refusal);
  while (!stop.stop_requested()) {
    // An empty commit is a probe: the disk may still be full.
    if (options_.store->Commit({}).ok()) {
      StatusOr<ActiveState> state = options_.store->LoadActive();
      if (state.ok()) {
        scheduler_.Load(std::move(*state), Now());
        SetServing(true);
        LogInfo("The store can be written again; serving");
        return;
      }
    }
    SystemClock().SleepUntil(SystemClock().Now() + kReloadEvery, stop);
  }
}

// --- the timer ------------------------------------------------------------------------------------------------------

void CoordinatorImpl::TimerThread(const std::stop_token& stop) {
  pthread_setname_np(pthread_self(), "timer");
  const Duration tick = std::min<Duration>(std::chrono::milliseconds(100), options_.config.timing.renew_every / 10);
  while (clock_.SleepUntil(clock_.Now() + tick, stop)) RunDue();
}

void CoordinatorImpl::RunDue() {
  const Moment at = Now();
  scheduler_.Tick(at);
  if (options_.on_cycle) options_.on_cycle(clock_.Now() - at.now);
  std::vector<std::string> due;
  {
    MutexLock lock(polls_mutex_);
    for (const auto& [worker, poll] : polls_) {
      if (poll.deadline <= at.now) due.push_back(worker);
    }
  }
  for (const std::string& worker : due) AnswerPoll(worker, /*force=*/true);
}

// --- held calls of agents -------------------------------------------------------------------------------------------

uint64_t CoordinatorImpl::Synchronize(SyncRequest request, SyncDone done) {
  const Moment at = Now();
  const std::string worker = request.worker;
  const bool busy = !request.attempts.empty();
  uint64_t handle = 0;
  SyncDone replaced;
  {
    MutexLock lock(polls_mutex_);
    handle = next_handle_++;
    Poll poll{.handle = handle,
              .request = request,
              .done = std::move(done),
              .deadline = at.now + (busy ? options_.config.poll_busy : options_.config.poll_idle),
              .taken_in = false};
    const auto [slot, fresh] = polls_.try_emplace(worker);
    if (!fresh) replaced = std::move(slot->second.done);
    slot->second = std::move(poll);
  }
  if (replaced) replaced(Aborted("SYNC_REPLACED", fmt::format("worker {} has called again", worker)));
  const auto finish = [this, worker, handle](const Status& status) {
    SyncDone failed;
    {
      MutexLock lock(polls_mutex_);
      const auto found = polls_.find(worker);
      if (found == polls_.end() || found->second.handle != handle) return;
      if (status.ok()) {
        found->second.taken_in = true;
      } else {
        failed = std::move(found->second.done);
        polls_.erase(found);
      }
    }
    if (failed) {
      failed(status);
    } else {
      AnswerPoll(worker, /*force=*/false);
    }
  };
  const Status taken = scheduler_.Synchronize(request, at, finish);
  if (!taken.ok()) finish(taken);
  return handle;
}

void CoordinatorImpl::AnswerPoll(const std::string& worker, bool force) {
  SyncDone done;
  StatusOr<std::optional<SyncResponse>> answer = std::optional<SyncResponse>();
  {
    MutexLock lock(polls_mutex_);
    const auto found = polls_.find(worker);
    if (found == polls_.end() || !found->second.taken_in) return;
    const Moment at = Now();
    answer = scheduler_.Answer(found->second.request, force && found->second.deadline <= at.now, at);
    if (answer.ok() && !answer->has_value()) return;
    done = std::move(found->second.done);
    polls_.erase(found);
  }
  if (!answer.ok()) return done(answer.status());
  done(**std::move(answer));
}

void CoordinatorImpl::CancelSync(uint64_t handle) {
  SyncDone done;
  {
    MutexLock lock(polls_mutex_);
    for (auto poll = polls_.begin(); poll != polls_.end(); ++poll) {
      if (poll->second.handle != handle) continue;
      done = std::move(poll->second.done);
      polls_.erase(poll);
      break;
    }
  }
  if (done) done(Cancelled("SYNC_CANCELLED", "the caller went away"));
}

void CoordinatorImpl::FailPolls(const Status& why) {
  std::map<std::string, Poll> polls;
  {
    MutexLock lock(polls_mutex_);
    polls.swap(polls_);
  }
  for (auto& [worker, poll] : polls) poll.done(why);
}

// --- work -----------------------------------------------------------------------------------------------------------

template <typename Decide>
Status CoordinatorImpl::Durable(const Decide& decide) {
  // shared: the store thread may still be inside set_value when this returns.
  auto durable = std::make_shared<std::promise<Status>>();
  std::future<Status> result = durable->get_future();
  const Status refused = decide([durable](const Status& status) { durable->set_value(status); });
  if (refused.ok()) return result.get();
  // The refusal may rest on something that is decided but not durable yet: it, too, leaves behind that commit only.
  Transition barrier;
  barrier.done = [durable](const Status& status) { durable->set_value(status); };
  SBORA_RETURN_IF_ERROR(scheduler_.Push(std::move(barrier)));
  SBORA_RETURN_IF_ERROR(result.get());
  return refused;
}

StatusOr<std::optional<RequestRow>> CoordinatorImpl::FindEarlier(std::string_view project, std::string_view request_id,
                                                                 std::string_view request_hash) const {
  if (request_id.empty()) return std::optional<RequestRow>();
  SBORA_ASSIGN_OR_RETURN(auto earlier, options_.store->FindRequest(project, request_id));
  if (!earlier || earlier->hash == request_hash) return earlier;
  return AlreadyExists("REQUEST_ID_REUSED", fmt::format("request_id {} was used for {} with other content; use a new one",
                                                        request_id, earlier->name))
      .WithMetadata("name", earlier->name);
}

StatusOr<std::optional<Work>> CoordinatorImpl::FindSubmitted(std::string_view project, std::string_view request_id,
                                                             std::string_view request_hash) const {
  SBORA_ASSIGN_OR_RETURN(const auto earlier, FindEarlier(project, request_id, request_hash));
  if (!earlier) return std::optional<Work>();
  StatusOr<Work> work = options_.store->GetWorkByUid(earlier->uid);
  if (work.status().code() == StatusCode::kNotFound) return ResultDeleted(*earlier);
  SBORA_RETURN_IF_ERROR(work.status());
  return std::optional<Work>(std::move(work).value());
}

StatusOr<Work> CoordinatorImpl::Submit(SubmitRequest request) {
  const KeyLocks locks(*this, request.name, request.project, request.request_id);
  SBORA_ASSIGN_OR_RETURN(auto earlier, FindSubmitted(request.project, request.request_id, request.request_hash));
  if (earlier) return *std::move(earlier);
  if (request.payload.task.size() > kMaxTaskBytes) {
    return InvalidArgument("TASK_TOO_LARGE", fmt::format("the task of {} has {} bytes, and an agent takes at most {}; ask for fewer "
                                                         "prompts, or a smaller rank", request.name, request.payload.task.size(), kMaxTaskBytes));
  }
  auto [work, transition] = Scheduler::PrepareSubmit(std::move(request), Now().wall_ms);
  SBORA_RETURN_IF_ERROR(Durable([&](Scheduler::Done done) {
    // In the store first, then in memory: its preconditions are the store's to judge.
    transition.done = [this, &work, done = std::move(done)](const Status& status) {
      if (status.ok()) scheduler_.Add(work, Now());
      done(status);
    };
    return scheduler_.Push(std::move(transition));
  }));
  return std::move(work);
}

template <typename Decide>
StatusOr<Work> CoordinatorImpl::DecideWork(std::string_view name, const Decide& decide) {
  for (int round = 0;; ++round) {
    std::optional<Work> decided;
    const Status status = Durable([&](Scheduler::Done done) -> Status {
      SBORA_ASSIGN_OR_RETURN(decided, decide(std::move(done)));
      return OkStatus();
    });
    if (status.ok()) return *std::move(decided);
    if (status.reason() != "WORK_NOT_ACTIVE") return status;
    SBORA_ASSIGN_OR_RETURN(const Work work, options_.store->GetWork(name));
    if (core::IsTerminal(work.row.state)) {
      return FailedPrecondition("JOB_ENDED", fmt::format("{} is {} already", name, core::JobStateName(work.row.state)));
    }
    // Committed a moment ago and not in memory yet: behind a barrier it is.
    if (round > 0) return Unavailable("NOT_SERVING", fmt::format("{} was just accepted and is not known yet; try again", name));
    SBORA_RETURN_IF_ERROR(Write({}));
  }
}

Status CoordinatorImpl::MarkValidated(std::string_view name, EventItem found) {
  return DecideWork(name, [&](Scheduler::Done done) -> StatusOr<Work> {
           SBORA_RETURN_IF_ERROR(scheduler_.MarkValidated(name, found, Now(), std::move(done)));
           return Work{};
         })
      .status();
}

Status CoordinatorImpl::FailValidation(std::string_view name, Failure failure) {
  return DecideWork(name, [&](Scheduler::Done done) -> StatusOr<Work> {
           SBORA_RETURN_IF_ERROR(scheduler_.FailValidation(name, failure, Now(), std::move(done)));
           return Work{};
         })
      .status();
}

StatusOr<Work> CoordinatorImpl::Cancel(std::string_view name, int64_t tag) {
  return DecideWork(name, [&](Scheduler::Done done) { return scheduler_.Cancel(name, tag, Now(), std::move(done)); });
}

StatusOr<Work> CoordinatorImpl::Pause(std::string_view name, int64_t tag) {
  return DecideWork(name, [&](Scheduler::Done done) { return scheduler_.Pause(name, tag, Now(), std::move(done)); });
}

StatusOr<Work> CoordinatorImpl::Resume(std::string_view name, int64_t tag) {
  return DecideWork(name, [&](Scheduler::Done done) { return scheduler_.Resume(name, tag, Now(), std::move(done)); });
}

Status CoordinatorImpl::Delete(std::string_view name, int64_t tag) {
  SBORA_RETURN_IF_ERROR(Write({}));  // whatever ended it is in the store behind this
  SBORA_ASSIGN_OR_RETURN(const Work work, options_.store->GetWork(name));
  SBORA_RETURN_IF_ERROR(Write({DeleteWork{.uid = work.row.uid, .tag = tag}}));
  hub_.End(work.row.uid, NotFound("WORK_NOT_FOUND", fmt::format("{} was deleted", name)));
  return OkStatus();
}

StatusOr<Work> CoordinatorImpl::Wait(std::string_view name, MonotonicTime deadline) {
  while (true) {
    uint64_t seen = 0;
    {
      MutexLock lock(ended_mutex_);
      seen = ended_count_;
    }
    SBORA_ASSIGN_OR_RETURN(Work work, options_.store->GetWork(name));
    if (core::IsTerminal(work.row.state)) return work;
    MutexLock lock(ended_mutex_);
    const bool changed =
        ended_.wait_until(lock, deadline, [&]() SBORA_REQUIRES(ended_mutex_) { return closing_ || ended_count_ != seen; });
    if (closing_) return Unavailable("SHUTTING_DOWN", "the server is stopping; try again");
    if (!changed) return work;
  }
}

StatusOr<std::unique_ptr<Watcher>> CoordinatorImpl::Watch(std::string_view name, int64_t after_sequence,
                                                          std::function<void()> wake) {
  SBORA_ASSIGN_OR_RETURN(const Work work, options_.store->GetWork(name));
  return hub_.Watch(work.row.uid, after_sequence, std::move(wake));
}

// --- leases and workers ---------------------------------------------------------------------------------------------

StatusOr<Work> CoordinatorImpl::CheckLease(const core::LeaseId& lease, bool* committed) {
  const StatusOr<Work> open = scheduler_.CheckLease(lease, Now());
  *committed = false;
  if (open.status().reason() != "LEASE_FENCED") return open;
  // It may be over because it has committed, perhaps just now: behind a barrier the store knows.
  SBORA_RETURN_IF_ERROR(Write({}));
  SBORA_ASSIGN_OR_RETURN(auto done, options_.store->FindCommittedBy(lease.uid));
  *committed = done.has_value() && done->row.epoch == lease.epoch;
  if (!*committed) return open;
  return *std::move(done);
}

Status CoordinatorImpl::CommittedMeanwhile(const core::LeaseId& lease, std::string_view name) {
  bool committed = false;
  SBORA_RETURN_IF_ERROR(CheckLease(lease, &committed).status());
  return committed ? OkStatus() : Internal("RESOURCE_EXISTS", fmt::format("{} exists, which lease {} was to make", name, lease.uid));
}

Status CoordinatorImpl::CommitAttempt(CommitRequest request) {
  bool committed = false;
  SBORA_RETURN_IF_ERROR(CheckLease(request.lease, &committed).status());
  if (committed) return OkStatus();
  // A precondition that fails after the scheduler has decided would part memory and store, so look first. Nobody else
  // can take these names meanwhile: the work has reserved them.
  std::set<std::string> made;  // objects that this very commit brings
  for (const Mutation& mutation : request.resources) {
    if (const auto* object = std::get_if<InsertObject>(&mutation)) {
      made.insert(object->row.uid);
    } else if (const auto* insert = std::get_if<InsertResource>(&mutation)) {
      const StatusOr<ResourceRow> there = options_.store->GetResource(insert->row.name);
      if (there.ok()) return CommittedMeanwhile(request.lease, insert->row.name);
      if (there.status().code() != StatusCode::kNotFound) return there.status();
    } else if (const auto* owner = std::get_if<AddObjectOwner>(&mutation)) {
      if (!made.contains(owner->object_uid)) SBORA_RETURN_IF_ERROR(options_.store->GetObject(owner->object_uid).status());
    }
  }
  return Durable(
      [&](Scheduler::Done done) { return scheduler_.CommitAttempt(request, Now(), std::move(done)); });
}

StatusOr<WorkerView> CoordinatorImpl::DrainWorker(std::string_view name) {
  std::optional<WorkerView> view;
  SBORA_RETURN_IF_ERROR(Durable([&](Scheduler::Done done) -> Status {
    SBORA_ASSIGN_OR_RETURN(view, scheduler_.DrainWorker(name, Now(), std::move(done)));
    return OkStatus();
  }));
  return *std::move(view);
}

// --- other rows -----------------------------------------------------------------------------------------------------

Status CoordinatorImpl::Write(std::vector<Mutation> mutations) {
  return Durable([&](Scheduler::Done done) {
    Transition transition;
    transition.writes = {.mutations = std::move(mutations), .may_fail = true};
    transition.done = std::move(done);
    return scheduler_.Push(std::move(transition));
  });
}

StatusOr<std::optional<ResourceRow>> CoordinatorImpl::FindCreated(std::string_view project, std::string_view request_id,
                                                                  std::string_view request_hash) const {
  SBORA_ASSIGN_OR_RETURN(const auto earlier, FindEarlier(project, request_id, request_hash));
  if (!earlier) return std::optional<ResourceRow>();
  StatusOr<ResourceRow> row = options_.store->GetResource(earlier->name);
  const bool gone = row.ok() ? row->uid != earlier->uid : row.status().code() == StatusCode::kNotFound;
  if (gone) return ResultDeleted(*earlier);
  SBORA_RETURN_IF_ERROR(row.status());
  return std::optional<ResourceRow>(std::move(row).value());
}

StatusOr<ResourceRow> CoordinatorImpl::CreateResource(ResourceRow row, std::vector<Mutation> extra, RequestRow request,
                                                      bool* existing) {
  const KeyLocks locks(*this, row.name, row.project, request.request_id);
  SBORA_ASSIGN_OR_RETURN(auto earlier, FindCreated(row.project, request.request_id, request.hash));
  *existing = earlier.has_value();
  if (earlier) return *std::move(earlier);
  std::vector<Mutation> mutations;
  if (!request.request_id.empty()) {
    request.project = row.project;
    request.name = row.name;
    request.uid = row.uid;
    mutations.push_back(InsertRequest{std::move(request)});
  }
  mutations.push_back(InsertResource{.row = row, .by_work = {}});
  std::move(extra.begin(), extra.end(), std::back_inserter(mutations));
  SBORA_RETURN_IF_ERROR(Write(std::move(mutations)));
  return row;
}

}  // namespace sbora::server
