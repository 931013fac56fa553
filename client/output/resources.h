/// Tables of the resources, for people; scripts use JSON or YAML. Pure functions.
#pragma once

#include <string>

#include "sbora/v1/adapter.pb.h"
#include "sbora/v1/admin.pb.h"
#include "sbora/v1/comparison.pb.h"
#include "sbora/v1/dataset.pb.h"
#include "sbora/v1/evaluation.pb.h"
#include "sbora/v1/job.pb.h"
#include "sbora/v1/model.pb.h"

namespace sbora::client {

std::string ToTable(const v1::Model& model);
std::string ToTable(const v1::ListModelsResponse& models);
std::string ToTable(const v1::Dataset& dataset);
std::string ToTable(const v1::ListDatasetsResponse& datasets);
std::string ToTable(const v1::FineTuningJob& job);
std::string ToTable(const v1::ListFineTuningJobsResponse& jobs);
std::string ToTable(const v1::ListFineTuningEventsResponse& events);
std::string ToTable(const v1::ListFineTuningMetricsResponse& metrics);
std::string ToTable(const v1::ListFineTuningCheckpointsResponse& checkpoints);
std::string ToTable(const v1::EstimateFineTuningJobResponse& estimate);
std::string ToTable(const v1::Adapter& adapter);
std::string ToTable(const v1::ListAdaptersResponse& adapters);
/// Verdict of each pair, then the modules where they meet, the first twenty.
std::string ToTable(const v1::CompareAdaptersResponse& comparison);
/// Figures, subjects and the first three examples.
std::string ToTable(const v1::EvaluationJob& job);
std::string ToTable(const v1::ListEvaluationJobsResponse& jobs);
/// One column for each evaluation.
std::string ToTable(const v1::EvaluationComparison& comparison);
/// One row for each method, one for the base when it was evaluated; then failures and notes.
std::string ToTable(const v1::MethodComparison& comparison);
std::string ToTable(const v1::GenerateResponse& generated);
std::string ToTable(const v1::ServerInfo& info);
std::string ToTable(const v1::Worker& worker);
std::string ToTable(const v1::ListWorkersResponse& workers);

/// "RUNNING", and so on: the state as people write it.
std::string StateName(v1::FineTuningJob::State state);
std::string StateName(v1::EvaluationJob::State state);
/// "1,536 of 49,152 weights of the target modules changed (3.12 %), 1.15 % of the model".
std::string FormatChanged(const v1::ChangedWeights& changed);
/// "22:14:03 INFO  CHECKPOINT_SAVED  step 40".
std::string FormatEvent(const v1::FineTuningEvent& event);

}  // namespace sbora::client
