/// The frame around every RPC: permission, deadline, metrics, and errors with details. A handler is one lambda that
/// returns sbora::Status:
///
///     grpc::Status GetModel(grpc::ServerContext* context, const GetModelRequest* request, Model* model) override {
///       return Unary(context_, *context, "sbora.v1.ModelService/GetModel", [&](const Call&) { ... });
///     }
#pragma once

#include <grpcpp/server_context.h>

#include <functional>
#include <string_view>

#include "common/status.h"
#include "server/services/context.h"

namespace sbora::server {

/// A unary call without a deadline gets this one.
inline constexpr std::chrono::seconds kDefaultDeadline{60};

struct Call {
  MonotonicTime deadline;           ///< on the context's clock
  grpc::ServerContext* context = nullptr;
};

/// A waiting call holds a thread; the rest of the server's threads stay free for calls that do not wait.
inline constexpr int kMaxWaitingCalls = 128;

/// RESOURCE_EXHAUSTED TOO_MANY_WAITING_CALLS when that many wait already. Otherwise
/// blocks until the work has ended, `until` or the caller is gone (also when the server stops); then the work as it is.
StatusOr<Work> WaitForWork(const ServiceContext& services, const Call& call, std::string_view name, MonotonicTime until);

/// Never throws: an exception of a library becomes INTERNAL HANDLER_FAILED.
grpc::Status Unary(const ServiceContext& services, grpc::ServerContext& context, std::string_view method,
                   const std::function<Status(const Call&)>& handler);

/// `body`'s status; an exception of a library becomes INTERNAL HANDLER_FAILED. Never throws: on the pool, an exception would
/// end the server, or leave a caller without an answer.
Status Guarded(std::string_view method, const std::function<Status()>& body);

/// The same checks for callback handlers, which call FinishCall with the final status.
Status BeginCall(const ServiceContext& services, const grpc::ServerContextBase& context, std::string_view method);
grpc::Status FinishCall(const ServiceContext& services, std::string_view method, MonotonicTime start, const Status& status);

}  // namespace sbora::server
