/// Carries out a comparison: checks each method with the service, makes or finds its jobs and evaluations, waits for them, and
/// writes what came of them into the report.
///
///     ComparisonRuns runs(client, plan, evaluations, model, report);
///     SBORA_RETURN_IF_ERROR(runs.Check());    // refused methods are told in the report before anything starts
///     SBORA_RETURN_IF_ERROR(runs.Start());
///     SBORA_RETURN_IF_ERROR(runs.Finish(stop, line));
///
/// A job or evaluation that fails is a finding, not an error: it is in the report and the rest goes on. Every job has a name
/// and a request id made from what it does, so a later object of the same plan finds what an earlier one made.
/// Not thread-safe.
#pragma once

#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "client/compare_plan.h"
#include "client/output/progress.h"
#include "client/sbora_client.h"
#include "common/status.h"
#include "sbora/v1/comparison.pb.h"

namespace sbora::client {

class ComparisonRuns {
 public:
  /// All must outlive the object. `report` has the plan's methods, without runs.
  ComparisonRuns(Client& client, const ComparePlan& plan, const std::vector<EvaluationPlan>& evaluations, const v1::Model& model,
                 v1::MethodComparison& report)
      : client_(client), plan_(plan), evaluations_(evaluations), model_(model), report_(report) {}

  /// Asks the service whether it takes each method (at the first seed whose job is not there yet) and each evaluation of the
  /// base. Sets `failure` and no runs for a method that is refused.
  /// Errors: the refusal itself when every method is refused or the fault is not the method's (a missing data set, no
  /// server), what an evaluation is refused for, ALREADY_EXISTS COMPARISON_EXISTS when a job of that name does something else.
  Status Check();

  /// Makes the jobs that are not there, all methods of the first seed first, and the base's evaluations.
  Status Start();

  /// Waits for every job, evaluates each adapter as it appears, waits for the evaluations. Errors: Cancelled STOPPED, the
  /// client's.
  Status Finish(const std::stop_token& stop, ProgressLine& line);

  int jobs() const { return jobs_; }
  /// Of `jobs`, those that an earlier call had made.
  int found() const { return found_; }

 private:
  /// The job of a run when it is there. Errors: COMPARISON_EXISTS.
  StatusOr<std::optional<v1::FineTuningJob>> Find(const MethodPlan& method, size_t seed);
  StatusOr<v1::FineTuningJob> FindOrSubmit(const MethodPlan& method, size_t seed);
  Status CheckMethod(size_t method);
  StatusOr<v1::EvaluationJob> FindOrEvaluate(const v1::EvaluationSpec& spec, const std::string& subject_uid);
  void AddEvaluations(const std::string& adapter, const std::string& subject_uid,
                      google::protobuf::RepeatedPtrField<v1::ComparedEvaluation>& out);
  Status WaitFor(v1::ComparedRun& run, const std::stop_token& stop, ProgressLine& line);
  Status WaitFor(v1::ComparedEvaluation& evaluation, const std::string& of, const std::stop_token& stop, ProgressLine& line);

  Client& client_;
  const ComparePlan& plan_;
  const std::vector<EvaluationPlan>& evaluations_;
  const v1::Model& model_;
  v1::MethodComparison& report_;
  int jobs_ = 0;
  int found_ = 0;
  int ended_ = 0;
};

}  // namespace sbora::client
