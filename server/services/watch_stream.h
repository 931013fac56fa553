/// A watcher's items as messages of the API, for the gRPC stream and for the page.
#pragma once

#include "common/status.h"
#include "sbora/v1/job.pb.h"
#include "server/services/context.h"

namespace sbora::server {

/// A change of state carries its event and the whole job, so that no reader is cut off between the two.
StatusOr<v1::WatchFineTuningJobResponse> MessageOf(const ServiceContext& services, const std::string& job_name,
                                                   const WatchItem& item);

}  // namespace sbora::server
