/// The border between sbora::Status and the wire: grpc::Status with google.rpc.Status details, and sbora.v1.Failure.
///
/// On the wire an error carries its code and message, and in the binary trailer "grpc-status-details-bin" a
/// google.rpc.Status whose details hold ErrorInfo {reason, domain "sbora.dev", metadata} and, for bad input, BadRequest.
/// Pure functions, thread-safe.
#pragma once

#include <grpcpp/support/status.h>

#include "common/status.h"
#include "sbora/v1/common.pb.h"

namespace sbora {

inline constexpr const char* kErrorDomain = "sbora.dev";

/// For servers: what a handler returns. grpc++ sends `error_details()` as the trailer. Texts are made valid UTF-8 and
/// cut (the message to 1200 bytes) so that a status always fits in the metadata limit of 8 KiB; violations that do not fit are
/// left out and counted in the metadata entry "violations_omitted".
grpc::Status ToGrpc(const Status& status);

/// For clients: the reverse. Without our details the reason is "GRPC_<CODE NAME>", for example GRPC_UNAVAILABLE.
Status FromGrpc(const grpc::Status& status);

/// A Failure in a resource or report keeps code, reason and message only.
v1::Failure ToFailure(const Status& status);
/// OK for code 0. An unknown code is kUnknown.
Status FromFailure(const v1::Failure& failure);

}  // namespace sbora
