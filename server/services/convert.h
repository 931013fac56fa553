/// Rows of the store as messages of the public API.
#pragma once

#include <google/longrunning/operations.pb.h>

#include <optional>
#include <string>

#include "common/status.h"
#include "sbora/v1/adapter.pb.h"
#include "sbora/v1/admin.pb.h"
#include "sbora/v1/dataset.pb.h"
#include "sbora/v1/evaluation.pb.h"
#include "sbora/v1/job.pb.h"
#include "sbora/v1/model.pb.h"
#include "sbora/v1/transfer.pb.h"
#include "server/scheduler/types.h"
#include "server/store/rows.h"

namespace sbora::server {

google::protobuf::Timestamp ToTimestamp(int64_t unix_millis);
v1::Failure ToProto(const Failure& failure);
Failure FromStatus(const Status& status);

/// `progress`: the scheduler's last (serialised JobProgress), or empty.
StatusOr<v1::FineTuningJob> JobOf(const Work& work, const std::string& progress);
StatusOr<v1::EvaluationJob> EvaluationOf(const Work& work, const std::string& progress);
StatusOr<google::longrunning::Operation> OperationOf(const Work& work, const std::string& progress);

StatusOr<v1::Model> ModelOf(const ResourceRow& row);
StatusOr<v1::Dataset> DatasetOf(const ResourceRow& row);
StatusOr<v1::Adapter> AdapterOf(const ResourceRow& row);

v1::FineTuningEvent EventOf(const EventRow& row);
StatusOr<v1::MetricPoint> MetricOf(const MetricRow& row);
StatusOr<v1::FineTuningCheckpoint> CheckpointOf(const CheckpointRow& row, const std::string& job_name);
v1::Worker WorkerOf(const WorkerView& view);
v1::Upload UploadOf(const UploadRow& row, int64_t received_bytes);

/// "projects/{project}/operations/{uid}".
std::string OperationName(const std::string& project, const std::string& uid);
/// True for import, merge and export: what google.longrunning shows. Generation is nobody's resource.
bool IsOperation(WorkKind kind);

}  // namespace sbora::server
