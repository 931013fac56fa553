/// Jobs in VALIDATING: one thread reads each job's data with its model's tokenizer, then queues the job or fails it.
///
/// Owns the thread and a queue of names; jobs found in VALIDATING at the start (the server was killed) are taken up
/// again. Thread-safe. The destructor calls off the check under way.
#pragma once

#include <condition_variable>
#include <deque>
#include <memory>
#include <set>
#include <string>
#include <thread>

#include "common/mutex.h"
#include "common/status.h"
#include "data/validation_report.h"
#include "server/services/context.h"

namespace sbora::server {

class DatasetValidator {
 public:
  /// `services` must outlive it.
  explicit DatasetValidator(const ServiceContext& services);
  ~DatasetValidator();

  /// Does nothing when the job waits already.
  void Add(const std::string& job_name);
  /// Adds all jobs that the store has in VALIDATING.
  Status AddStored();

 private:
  void Run();
  void Validate(const std::string& job_name);
  StatusOr<data::ValidationReport> Check(const Work& work);
  StatusOr<data::ValidationReport> CheckGuarded(const Work& work);  // exceptions end here
  Status Settle(const Work& work, const StatusOr<data::ValidationReport>& checked);

  const ServiceContext& services_;
  Mutex mutex_;
  std::condition_variable_any changed_;
  std::deque<std::string> queue_ SBORA_GUARDED_BY(mutex_);
  std::set<std::string> waiting_ SBORA_GUARDED_BY(mutex_);
  bool stopping_ SBORA_GUARDED_BY(mutex_) = false;
  std::stop_source stop_;
  std::thread thread_;
};

}  // namespace sbora::server
