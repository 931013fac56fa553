#include "server/services/watch_stream.h"

#include <memory>
#include <optional>

#include "common/status_macros.h"
#include "server/services/convert.h"
#include "server/services/fine_tuning_service.h"
#include "server/services/requests.h"
#include "server/services/rpc.h"

namespace sbora::server {
namespace {

constexpr std::string_view kMethod = "sbora.v1.FineTuningService/WatchFineTuningJob";

/// One open stream. gRPC's reactions and the watcher's wake-ups only hand over to the pool; `busy_` makes sure that one
/// task at a time runs, so that everything below the lock's part is that task's alone.
class WatchCall final : public grpc::ServerWriteReactor<v1::WatchFineTuningJobResponse>,
                        public std::enable_shared_from_this<WatchCall> {
 public:
  WatchCall(const ServiceContext& services, const v1::WatchFineTuningJobRequest& request)
      : services_(services), request_(request), start_(services.clock->Now()) {
    services_.metrics->AddWatchStreams(1);
  }
  ~WatchCall() override { services_.metrics->AddWatchStreams(-1); }

  /// gRPC holds the plain pointer until OnDone; `self_` keeps the object that long, wake-ups hold weak pointers.
  static WatchCall* Begin(const ServiceContext& services, const grpc::CallbackServerContext& context,
                          const v1::WatchFineTuningJobRequest& request) {
    auto call = std::make_shared<WatchCall>(services, request);
    call->self_ = call;
    const Status allowed = BeginCall(services, context, kMethod);
    if (allowed.ok()) {
      call->Wake();
    } else {
      call->End(allowed);
    }
    return call.get();
  }

  void OnWriteDone(bool ok) override {
    services_.pool->Submit([self = self_, ok] { ok ? self->SendNext() : self->End(Cancelled("CALL_CANCELLED", "the caller went away")); });
  }
  void OnCancel() override {
    {
      MutexLock lock(mutex_);
      cancelled_ = true;
    }
    Wake();
  }
  void OnDone() override { self_.reset(); }

 private:
  void Wake() {
    {
      MutexLock lock(mutex_);
      if (ended_) return;
      woken_ = true;
      if (busy_) return;
      busy_ = true;
    }
    services_.pool->Submit([self = shared_from_this()] { self->SendNext(); });
  }

  void End(const Status& status) {
    {
      MutexLock lock(mutex_);
      if (ended_) return;
      ended_ = true;
      busy_ = true;
    }
    watcher_.reset();
    if (status.reason() == "WATCH_TOO_SLOW") services_.metrics->CountDroppedWatch("too_slow");
    Finish(FinishCall(services_, kMethod, start_, status));
  }

  Status Open() {
    SBORA_ASSIGN_OR_RETURN(const core::ResourceName name, core::ParseName(request_.name(), core::Collection::kFineTuningJobs, "name"));
    if (request_.after_sequence() < 0) {
      return InvalidArgument("BAD_SEQUENCE", "after_sequence is negative").WithViolation("after_sequence", "must be 0 or a sequence seen");
    }
    std::weak_ptr<WatchCall> weak = weak_from_this();
    StatusOr<std::unique_ptr<Watcher>> watcher = services_.coordinator->Watch(name.ToString(), request_.after_sequence(), [weak] {
      if (const auto self = weak.lock()) self->Wake();
    });
    if (!watcher.ok()) return NameMissing(watcher.status(), "JOB", name.ToString());
    watcher_ = std::move(watcher).value();
    return OkStatus();
  }

  /// Fills `ready_` with what comes next; leaves it empty when nothing is there yet.
  Status Fill() {
    if (watcher_ == nullptr) SBORA_RETURN_IF_ERROR(Open());
    SBORA_ASSIGN_OR_RETURN(const std::optional<WatchItem> item, watcher_->Next());
    if (!item) return OkStatus();
    SBORA_ASSIGN_OR_RETURN(ready_, MessageOf(services_, request_.name(), *item));
    return OkStatus();
  }

  void SendNext() {
    for (;;) {
      {
        MutexLock lock(mutex_);
        if (ended_) return;
        woken_ = false;
        if (cancelled_) break;
      }
      ready_.reset();
      const Status filled = Guarded(kMethod, [this] { return Fill(); });
      if (!filled.ok()) return End(filled.reason() == "WATCH_ENDED" ? OkStatus() : NameMissing(filled, "JOB", request_.name()));
      if (ready_) return StartWrite(&*ready_);  // still busy until OnWriteDone
      MutexLock lock(mutex_);
      if (!woken_) {
        busy_ = false;
        return;
      }
    }
    End(Cancelled("CALL_CANCELLED", "the caller went away"));
  }

  const ServiceContext& services_;
  const v1::WatchFineTuningJobRequest request_;
  const MonotonicTime start_;
  std::shared_ptr<WatchCall> self_;  // gRPC's hold on this object, from Begin to OnDone
  std::unique_ptr<Watcher> watcher_;
  std::optional<v1::WatchFineTuningJobResponse> ready_;  // being sent
  Mutex mutex_;
  bool busy_ SBORA_GUARDED_BY(mutex_) = false;   // a pool task runs or a write is under way
  bool woken_ SBORA_GUARDED_BY(mutex_) = false;  // something may be there since the last look
  bool cancelled_ SBORA_GUARDED_BY(mutex_) = false;
  bool ended_ SBORA_GUARDED_BY(mutex_) = false;
};

}  // namespace

StatusOr<v1::WatchFineTuningJobResponse> MessageOf(const ServiceContext& services, const std::string& job_name,
                                                   const WatchItem& item) {
  v1::WatchFineTuningJobResponse message;
  message.set_sequence(item.sequence);
  switch (item.kind) {
    case WatchItem::Kind::kProgress:
      SBORA_RETURN_IF_ERROR(ParseStored(item.progress, "progress", *message.mutable_progress()));
      return message;
    case WatchItem::Kind::kMetric: {
      SBORA_ASSIGN_OR_RETURN(*message.mutable_metric(), MetricOf(*item.metric));
      return message;
    }
    case WatchItem::Kind::kEvent:
      *message.mutable_event() = EventOf(*item.event);
      return message;
    case WatchItem::Kind::kState: break;
  }
  *message.mutable_change() = EventOf(*item.event);
  SBORA_ASSIGN_OR_RETURN(Work work, services.store().GetWork(job_name));
  if (item.row != nullptr) work.row = *item.row;
  SBORA_ASSIGN_OR_RETURN(*message.mutable_job(), JobOf(work, services.coordinator->Progress(work.row.uid)));
  return message;
}

grpc::ServerWriteReactor<v1::WatchFineTuningJobResponse>* FineTuningServiceImpl::WatchFineTuningJob(
    grpc::CallbackServerContext* context, const v1::WatchFineTuningJobRequest* request) {
  return WatchCall::Begin(services_, *context, *request);
}

}  // namespace sbora::server
