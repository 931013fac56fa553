#include "server/services/fine_tuning_service.h"

#include <fmt/format.h>

#include <sstream>

#include "common/status_macros.h"
#include "server/services/convert.h"
#include "server/services/estimate_planner.h"
#include "server/services/job_planner.h"
#include "server/services/job_regions.h"
#include "server/services/pages.h"
#include "server/services/requests.h"
#include "server/services/resource_calls.h"
#include "server/services/rpc.h"
#include "server/services/validator.h"

namespace sbora::server {
namespace {

constexpr std::string_view kKind = "JOB";
/// Each try that fails was overtaken by another job; so many in a row are no longer chance.
constexpr int kMaxReplans = 16;
constexpr std::string_view kOvertaken = "REGIONS_MOVED";

Status FilterError(const std::string& filter) {
  return Unimplemented("FILTER_NOT_SUPPORTED",
                       fmt::format("filter \"{}\" is not supported; write `state = RUNNING`, joined by OR", filter.substr(0, 200)))
      .WithMetadata("feature", "filter");
}

using Change = StatusOr<Work> (Coordinator::*)(std::string_view, int64_t);

/// Cancel, Pause and Resume.
Status ChangeJob(const ServiceContext& services, Change change, const std::string& name, const std::string& etag,
                 v1::FineTuningJob& job) {
  SBORA_ASSIGN_OR_RETURN(const core::ResourceName parsed, core::ParseName(name, core::Collection::kFineTuningJobs, "name"));
  SBORA_ASSIGN_OR_RETURN(const int64_t tag, TagOf(etag));
  const StatusOr<Work> work = (services.coordinator->*change)(parsed.ToString(), tag);
  if (!work.ok()) return NameMissing(work.status(), kKind, parsed.ToString());
  SBORA_ASSIGN_OR_RETURN(job, JobOf(*work, services.coordinator->Progress(work->row.uid)));
  return OkStatus();
}

}  // namespace

StatusOr<Work> FindJob(const ServiceContext& services, const std::string& name, std::string_view field) {
  SBORA_ASSIGN_OR_RETURN(const core::ResourceName parsed, core::ParseName(name, core::Collection::kFineTuningJobs, field));
  StatusOr<Work> work = services.store().GetWork(parsed.ToString());
  if (work.ok()) return work;
  return NameMissing(work.status(), kKind, parsed.ToString());
}

StatusOr<std::vector<core::JobState>> ParseStateFilter(const std::string& filter) {
  std::vector<core::JobState> states;
  std::istringstream words(filter);
  std::string field, equals, value, joint;
  while (words >> field) {
    if (!(words >> equals >> value) || field != "state" || equals != "=") return FilterError(filter);
    if (value.starts_with("STATE_")) value = value.substr(6);
    const std::optional<core::JobState> state = core::ParseJobState(value);
    if (!state) return FilterError(filter);
    states.push_back(*state);
    if (!(words >> joint)) return states;
    if (joint != "OR") return FilterError(filter);
    if (words.peek() == std::istringstream::traits_type::eof()) return FilterError(filter);
  }
  return states;
}

Status FineTuningServiceImpl::Create(const v1::CreateFineTuningJobRequest& request, const Call& call, v1::FineTuningJob& job) {
  if (!request.validate_only()) {
    SBORA_ASSIGN_OR_RETURN(const bool repeated, Repeated(request, job));
    if (repeated) return OkStatus();
  }
  const bool disjoint = AsksForDisjoint(request.fine_tuning_job().spec().adapter());
  return disjoint && !request.validate_only() ? CreateDisjoint(request, call, job) : CreateOnce(request, call, job);
}

StatusOr<bool> FineTuningServiceImpl::Repeated(const v1::CreateFineTuningJobRequest& request, v1::FineTuningJob& job) {
  SBORA_ASSIGN_OR_RETURN(const std::string project, core::ParseProject(request.parent(), "parent"));
  SBORA_ASSIGN_OR_RETURN(const auto earlier,
                         FindRepeat(services_, project, request.request_id(), RequestHash("CreateFineTuningJob", request)));
  if (!earlier) return false;
  services_.metrics->CountSubmitted("duplicate");
  SBORA_ASSIGN_OR_RETURN(job, JobOf(*earlier, services_.coordinator->Progress(earlier->row.uid)));
  return true;
}

Status FineTuningServiceImpl::CreateDisjoint(const v1::CreateFineTuningJobRequest& request, const Call& call, v1::FineTuningJob& job) {
  MutexLock lock(disjoint_mutex_);
  // Again, behind the lock: a repeat must not be refused for what its own first call holds.
  SBORA_ASSIGN_OR_RETURN(const bool repeated, Repeated(request, job));
  if (repeated) return OkStatus();
  Status status = CreateOnce(request, call, job);
  for (int again = 0; again < kMaxReplans && status.reason() == kOvertaken; ++again) status = CreateOnce(request, call, job);
  if (status.reason() == kOvertaken) services_.metrics->CountSubmitted("rejected");
  return status;
}

Status FineTuningServiceImpl::CreateOnce(const v1::CreateFineTuningJobRequest& request, const Call& call, v1::FineTuningJob& job) {
  StatusOr<PlannedJob> planned = PlanFineTuning(services_, request);
  if (!planned.ok()) {
    services_.metrics->CountSubmitted("rejected");
    return planned.status();
  }
  if (request.validate_only()) {
    for (const std::string& name : {planned->job.name(), planned->submit.reserves.front()}) {
      SBORA_ASSIGN_OR_RETURN(const bool taken, services_.store().IsNameTaken(name));
      if (taken) return NameTaken(name);
    }
    worker::v1::Task task;
    SBORA_RETURN_IF_ERROR(ParseStored(planned->submit.payload.task, "task", task));
    const Status checked = services_.validator->CheckNow(task, [&call] { return call.context->IsCancelled(); });
    job = planned->job;
    return PrefixFields(checked, "fine_tuning_job.");
  }
  const std::string uid = planned->submit.uid;
  const StatusOr<Work> work = services_.coordinator->Submit(std::move(planned->submit));
  if (!work.ok()) {
    if (work.status().reason() != kOvertaken) services_.metrics->CountSubmitted("rejected");
    return work.status();
  }
  services_.metrics->CountSubmitted(work->row.uid == uid ? "accepted" : "duplicate");
  if (work->row.state == core::JobState::kValidating) services_.validator->Add(work->row.name);
  SBORA_ASSIGN_OR_RETURN(job, JobOf(*work, services_.coordinator->Progress(work->row.uid)));
  return OkStatus();
}

Status FineTuningServiceImpl::List(const v1::ListFineTuningJobsRequest& request, v1::ListFineTuningJobsResponse& response) {
  SBORA_ASSIGN_OR_RETURN(const std::string project, core::ParseProject(request.parent(), "parent"));
  const std::string query = fmt::format("jobs {} {}", project, request.filter());
  SBORA_ASSIGN_OR_RETURN(const PageRequest page, ParsePage(request.page_size(), request.page_token(), query));
  WorkQuery work_query;
  work_query.project = project;
  work_query.kinds = {WorkKind::kTrain};
  SBORA_ASSIGN_OR_RETURN(work_query.states, ParseStateFilter(request.filter()));
  SBORA_ASSIGN_OR_RETURN(const std::string next, FillWorkPage(services_, page, std::move(work_query), JobOf, *response.mutable_fine_tuning_jobs()));
  response.set_next_page_token(PageToken(next, query));
  return OkStatus();
}

Status FineTuningServiceImpl::ListEvents(const v1::ListFineTuningEventsRequest& request, v1::ListFineTuningEventsResponse& response) {
  SBORA_ASSIGN_OR_RETURN(const Work work, FindJob(services_, request.parent(), "parent"));
  const std::string query = "events " + work.row.uid;
  SBORA_ASSIGN_OR_RETURN(const PageRequest page, ParsePage(request.page_size(), request.page_token(), query));
  SBORA_ASSIGN_OR_RETURN(const int64_t after, NumberCursor(page.cursor, 0));
  SBORA_ASSIGN_OR_RETURN(const std::vector<EventRow> rows, services_.store().ListEvents(work.row.uid, after, page.size + 1));
  PageBudget budget;
  for (const EventRow& row : rows) {
    v1::FineTuningEvent event = EventOf(row);
    if (response.events_size() == page.size || !budget.Take(event.ByteSizeLong())) break;
    *response.add_events() = std::move(event);
  }
  if (rows.size() > static_cast<size_t>(response.events_size())) {
    response.set_next_page_token(PageToken(std::to_string(response.events().rbegin()->sequence()), query));
  }
  return OkStatus();
}

Status FineTuningServiceImpl::ListCheckpoints(const v1::ListFineTuningCheckpointsRequest& request,
                                              v1::ListFineTuningCheckpointsResponse& response) {
  SBORA_ASSIGN_OR_RETURN(const Work work, FindJob(services_, request.parent(), "parent"));
  const std::string query = "checkpoints " + work.row.uid;
  SBORA_ASSIGN_OR_RETURN(const PageRequest page, ParsePage(request.page_size(), request.page_token(), query));
  SBORA_ASSIGN_OR_RETURN(const int64_t after, NumberCursor(page.cursor, -1));
  SBORA_ASSIGN_OR_RETURN(const std::vector<CheckpointRow> rows, services_.store().ListCheckpoints(work.row.uid, after, page.size + 1));
  for (size_t i = 0; i < rows.size() && i < static_cast<size_t>(page.size); ++i) {
    SBORA_ASSIGN_OR_RETURN(*response.add_checkpoints(), CheckpointOf(rows[i], work.row.name));
  }
  if (rows.size() > static_cast<size_t>(page.size)) {
    response.set_next_page_token(PageToken(std::to_string(rows[static_cast<size_t>(page.size) - 1].step), query));
  }
  return OkStatus();
}

Status FineTuningServiceImpl::ListMetrics(const v1::ListFineTuningMetricsRequest& request, v1::ListFineTuningMetricsResponse& response) {
  SBORA_ASSIGN_OR_RETURN(const Work work, FindJob(services_, request.parent(), "parent"));
  const std::string query = "metrics " + work.row.uid;
  SBORA_ASSIGN_OR_RETURN(const PageRequest page, ParsePage(request.page_size(), request.page_token(), query));
  SBORA_ASSIGN_OR_RETURN(const int64_t after, NumberCursor(page.cursor, -1));
  SBORA_ASSIGN_OR_RETURN(const std::vector<MetricRow> rows, services_.store().ListMetrics(work.row.uid, after, page.size + 1));
  for (size_t i = 0; i < rows.size() && i < static_cast<size_t>(page.size); ++i) {
    SBORA_ASSIGN_OR_RETURN(*response.add_metrics(), MetricOf(rows[i]));
  }
  if (rows.size() > static_cast<size_t>(page.size)) {
    response.set_next_page_token(PageToken(std::to_string(rows[static_cast<size_t>(page.size) - 1].step), query));
  }
  return OkStatus();
}

grpc::Status FineTuningServiceImpl::CreateFineTuningJob(grpc::ServerContext* context, const v1::CreateFineTuningJobRequest* request,
                                                        v1::FineTuningJob* job) {
  return Unary(services_, *context, "sbora.v1.FineTuningService/CreateFineTuningJob", [&](const Call& call) { return Create(*request, call, *job); });
}

grpc::Status FineTuningServiceImpl::GetFineTuningJob(grpc::ServerContext* context, const v1::GetFineTuningJobRequest* request,
                                                     v1::FineTuningJob* job) {
  return Unary(services_, *context, "sbora.v1.FineTuningService/GetFineTuningJob", [&](const Call&) -> Status {
    SBORA_ASSIGN_OR_RETURN(const Work work, FindJob(services_, request->name(), "name"));
    SBORA_ASSIGN_OR_RETURN(*job, JobOf(work, services_.coordinator->Progress(work.row.uid)));
    return OkStatus();
  });
}

grpc::Status FineTuningServiceImpl::ListFineTuningJobs(grpc::ServerContext* context, const v1::ListFineTuningJobsRequest* request,
                                                       v1::ListFineTuningJobsResponse* response) {
  return Unary(services_, *context, "sbora.v1.FineTuningService/ListFineTuningJobs", [&](const Call&) { return List(*request, *response); });
}

grpc::Status FineTuningServiceImpl::DeleteFineTuningJob(grpc::ServerContext* context, const v1::DeleteFineTuningJobRequest* request,
                                                        google::protobuf::Empty*) {
  return Unary(services_, *context, "sbora.v1.FineTuningService/DeleteFineTuningJob", [&](const Call&) -> Status {
    SBORA_ASSIGN_OR_RETURN(const core::ResourceName name, core::ParseName(request->name(), core::Collection::kFineTuningJobs, "name"));
    SBORA_ASSIGN_OR_RETURN(const int64_t tag, TagOf(request->etag()));
    return NameMissing(services_.coordinator->Delete(name.ToString(), tag), kKind, name.ToString());
  });
}

grpc::Status FineTuningServiceImpl::CancelFineTuningJob(grpc::ServerContext* context, const v1::CancelFineTuningJobRequest* request,
                                                        v1::FineTuningJob* job) {
  return Unary(services_, *context, "sbora.v1.FineTuningService/CancelFineTuningJob", [&](const Call&) {
    return ChangeJob(services_, &Coordinator::Cancel, request->name(), request->etag(), *job);
  });
}

grpc::Status FineTuningServiceImpl::PauseFineTuningJob(grpc::ServerContext* context, const v1::PauseFineTuningJobRequest* request,
                                                       v1::FineTuningJob* job) {
  return Unary(services_, *context, "sbora.v1.FineTuningService/PauseFineTuningJob", [&](const Call&) {
    return ChangeJob(services_, &Coordinator::Pause, request->name(), request->etag(), *job);
  });
}

grpc::Status FineTuningServiceImpl::ResumeFineTuningJob(grpc::ServerContext* context, const v1::ResumeFineTuningJobRequest* request,
                                                        v1::FineTuningJob* job) {
  return Unary(services_, *context, "sbora.v1.FineTuningService/ResumeFineTuningJob", [&](const Call&) {
    return ChangeJob(services_, &Coordinator::Resume, request->name(), request->etag(), *job);
  });
}

grpc::Status FineTuningServiceImpl::ListFineTuningEvents(grpc::ServerContext* context, const v1::ListFineTuningEventsRequest* request,
                                                         v1::ListFineTuningEventsResponse* response) {
  return Unary(services_, *context, "sbora.v1.FineTuningService/ListFineTuningEvents",
               [&](const Call&) { return ListEvents(*request, *response); });
}

grpc::Status FineTuningServiceImpl::ListFineTuningCheckpoints(grpc::ServerContext* context,
                                                              const v1::ListFineTuningCheckpointsRequest* request,
                                                              v1::ListFineTuningCheckpointsResponse* response) {
  return Unary(services_, *context, "sbora.v1.FineTuningService/ListFineTuningCheckpoints",
               [&](const Call&) { return ListCheckpoints(*request, *response); });
}

grpc::Status FineTuningServiceImpl::ListFineTuningMetrics(grpc::ServerContext* context, const v1::ListFineTuningMetricsRequest* request,
                                                          v1::ListFineTuningMetricsResponse* response) {
  return Unary(services_, *context, "sbora.v1.FineTuningService/ListFineTuningMetrics",
               [&](const Call&) { return ListMetrics(*request, *response); });
}

grpc::Status FineTuningServiceImpl::EstimateFineTuningJob(grpc::ServerContext* context, const v1::EstimateFineTuningJobRequest* request,
                                                          v1::EstimateFineTuningJobResponse* response) {
  return Unary(services_, *context, "sbora.v1.FineTuningService/EstimateFineTuningJob", [&](const Call&) -> Status {
    SBORA_ASSIGN_OR_RETURN(*response, EstimateFineTuning(services_, *request));
    return OkStatus();
  });
}

}  // namespace sbora::server
