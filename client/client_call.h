/// Client::Call, for the files that implement Client; nothing else includes it.
#pragma once

#include <memory>

#include "client/sbora_client.h"
#include "common/clock.h"
#include "common/grpc/backoff.h"
#include "common/grpc/channel.h"
#include "common/grpc/status_convert.h"

namespace sbora::client {

template <typename Stub, typename Request, typename Response>
StatusOr<Response> Client::Call(const std::unique_ptr<Stub>& stub,
                                grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                                const Request& request, Repeat repeat) {
  const auto timeout = options_.call_timeout * (repeat == Repeat::kSafeAndLong ? options_.long_call_factor : 1);
  Backoff backoff(options_.retry);
  while (true) {
    grpc::ClientContext context;
    SetDeadline(context, timeout);
    Response response;
    const Status status = FromGrpc((stub.get()->*method)(&context, request, &response));
    if (status.ok()) return response;
    const bool again = repeat != Repeat::kOnce && IsRetryable(status.code());
    if (!again || !backoff.Wait(SystemClock(), std::stop_token())) return status;
  }
}

}  // namespace sbora::client
