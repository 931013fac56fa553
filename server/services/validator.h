/// Jobs in VALIDATING: two threads read each job's data with its model's tokenizer, then queue the job or fail it.
///
/// Only what the data and the model say fails a job (INVALID_ARGUMENT, and the other codes that state a fact about them). Trouble
/// of this server's own (a full disk, a store that is away, a check that was killed) is tried again, after 2 s, 4 s and so on
/// up to a minute, without holding up other jobs. Trouble that a retry is unlikely to mend (INTERNAL, damaged or missing
/// objects, a check killed again and again) ends the job after kMaxTries tries, with that reason.
///
/// Owns the threads and a queue of names; jobs found in VALIDATING at the start (the server was killed) are taken up
/// again. Thread-safe. The destructor calls off the checks under way.
#pragma once

#include <array>
#include <atomic>
#include <condition_variable>
#include <functional>
#include <map>
#include <optional>
#include <stop_token>
#include <string>
#include <thread>

#include "common/mutex.h"
#include "common/status.h"
#include "data/validation_report.h"
#include "sbora/worker/v1/task.pb.h"
#include "server/services/context.h"

namespace sbora::server {

class DatasetValidator {
 public:
  static constexpr int kMaxTries = 6;
  static constexpr int kMaxCallers = 2;  ///< each check may take gigabytes of memory

  /// `services` must outlive it.
  explicit DatasetValidator(const ServiceContext& services);
  ~DatasetValidator();

  /// Does nothing when the job waits or is being read already.
  void Add(const std::string& job_name);
  /// Adds all jobs that the store has in VALIDATING.
  Status AddStored();
  /// The same check in the caller's thread, for a job that is not to be stored. `cancelled` is asked about once a second.
  /// Errors: what would fail the job, or this server's trouble; CANCELLED; RESOURCE_EXHAUSTED TOO_MANY_CHECKS when
  /// kMaxCallers are at it already.
  Status CheckNow(const worker::v1::Task& task, const std::function<bool()>& cancelled);

 private:
  struct Entry {
    uint64_t order = 0;  // first come, first served
    MonotonicTime not_before{};  // of the next try
    int tries = 0;
    bool busy = false;  // a thread has it
  };

  void Run();
  /// The next job to read; waits for one. nullopt at the end.
  std::optional<std::string> Next(int* tries);
  /// The wait before the next try; nullopt when the job needs none.
  std::optional<Duration> Validate(const std::string& job_name, int tries);
  StatusOr<data::ValidationReport> Check(const Work& work);
  StatusOr<data::ValidationReport> CheckTask(const worker::v1::Task& task, const std::function<bool()>& called_off);
  StatusOr<data::ValidationReport> CheckGuarded(const Work& work);  // exceptions end here
  Status Settle(const Work& work, const StatusOr<data::ValidationReport>& checked);

  const ServiceContext& services_;
  Mutex mutex_;
  std::condition_variable_any changed_;
  std::map<std::string, Entry> jobs_ SBORA_GUARDED_BY(mutex_);  // by name, until settled
  uint64_t next_order_ SBORA_GUARDED_BY(mutex_) = 1;
  uint64_t changes_ SBORA_GUARDED_BY(mutex_) = 0;  // of jobs_: what a sleeping thread looks at
  std::atomic<int> callers_{0};
  std::stop_source stop_;
  std::array<std::jthread, 2> threads_;
};

}  // namespace sbora::server
