/// A watcher's items as messages of the API, for the gRPC stream and for the page.
#pragma once

#include <vector>

#include "common/status.h"
#include "sbora/v1/job.pb.h"
#include "server/services/context.h"

namespace sbora::server {

/// One item becomes one or two messages: a change of state gives its event, then the whole job. The event carries the
/// sequence before it, so that a reader cut off between the two gets both again.
StatusOr<std::vector<v1::WatchFineTuningJobResponse>> MessagesOf(const ServiceContext& services, const std::string& job_name,
                                                                 const WatchItem& item);

}  // namespace sbora::server
