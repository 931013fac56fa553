#include "server/services/rpc.h"

#include <fmt/format.h>

#include <algorithm>

#include "common/grpc/status_convert.h"
#include "common/logging.h"

namespace sbora::server {
namespace {

/// How soon a waiting call notices that its caller is gone.
constexpr std::chrono::milliseconds kWaitSlice{250};

std::string_view BearerOf(const grpc::ServerContextBase& context) {
  constexpr std::string_view kPrefix = "Bearer ";
  const auto found = context.client_metadata().find("authorization");
  if (found == context.client_metadata().end()) return {};
  const std::string_view value(found->second.data(), found->second.size());
  return value.starts_with(kPrefix) ? value.substr(kPrefix.size()) : std::string_view{};
}

/// The caller's deadline on our monotonic clock; the default one when there is none.
MonotonicTime DeadlineOf(const ServiceContext& services, const grpc::ServerContext& context) {
  const MonotonicTime now = services.clock->Now();
  const auto left = context.deadline() - std::chrono::system_clock::now();
  if (left >= std::chrono::hours(24 * 365)) return now + kDefaultDeadline;
  return now + std::chrono::duration_cast<Duration>(left);
}

bool IsServerFault(StatusCode code) {
  return code == StatusCode::kInternal || code == StatusCode::kUnknown || code == StatusCode::kDataLoss;
}

}  // namespace

Status BeginCall(const ServiceContext& services, const grpc::ServerContextBase& context, std::string_view method) {
  const Status allowed = services.authenticator->Authorize(BearerOf(context), method);
  if (!allowed.ok()) services.metrics->CountAuthFailure(allowed.reason());
  return allowed;
}

grpc::Status FinishCall(const ServiceContext& services, std::string_view method, MonotonicTime start, const Status& status) {
  services.metrics->ObserveCall(method, StatusCodeName(status.code()), services.clock->Now() - start);
  if (IsServerFault(status.code())) {
    LogError("A call failed", {{"method", method}, {"error", status.ToString()}});
  }
  return ToGrpc(status);
}

Status Guarded(std::string_view method, const std::function<Status()>& body) {
  try {
    return body();
  } catch (const std::exception& error) {
    return Internal("HANDLER_FAILED", fmt::format("{}: {}", method, error.what()));
  }
}

grpc::Status Unary(const ServiceContext& services, grpc::ServerContext& context, std::string_view method,
                   const std::function<Status(const Call&)>& handler) {
  const MonotonicTime start = services.clock->Now();
  Status status = BeginCall(services, context, method);
  if (status.ok()) {
    status = Guarded(method, [&] { return handler(Call{.deadline = DeadlineOf(services, context), .context = &context}); });
  }
  return FinishCall(services, method, start, status);
}

namespace {

/// Counts a waiting call for its own life.
class WaitingCall {
 public:
  explicit WaitingCall(std::atomic<int>& count) : count_(count), before_(count.fetch_add(1)) {}
  ~WaitingCall() { count_.fetch_sub(1); }
  WaitingCall(const WaitingCall&) = delete;
  WaitingCall& operator=(const WaitingCall&) = delete;
  bool fits() const { return before_ < kMaxWaitingCalls; }

 private:
  std::atomic<int>& count_;
  const int before_;
};

}  // namespace

StatusOr<Work> WaitForWork(const ServiceContext& services, const Call& call, std::string_view name, MonotonicTime until) {
  const WaitingCall waiting(*services.waiting_calls);
  if (!waiting.fits()) {
    return ResourceExhausted("TOO_MANY_WAITING_CALLS", fmt::format("{} calls wait for work already, which is the limit; try again later",
                                                                   kMaxWaitingCalls));
  }
  for (;;) {
    const MonotonicTime slice = std::min(until, services.clock->Now() + kWaitSlice);
    StatusOr<Work> work = services.coordinator->Wait(name, slice);
    if (!work.ok() || core::IsTerminal(work->row.state) || services.clock->Now() >= until || call.context->IsCancelled()) return work;
  }
}

}  // namespace sbora::server
