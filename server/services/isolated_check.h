/// The check of a job's data in a process of its own. Tokenizer and chat template are foreign code in effect: a template
/// may ask for all memory there is, and that must end the check, not the server.
///
/// Parent and child share one folder, made by the parent: the model's tokenizer files, `dataset.data` (of a mixture
/// `dataset-0.data`, `dataset-1.data`...), maybe
/// `validation.data`, and `request` (serialised sbora.worker.v1.TrainTask); the child answers in `result`.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <stop_token>

#include "common/clock.h"
#include "common/status.h"
#include "data/validation_report.h"

namespace sbora::server {

/// The argument of sbora-server that makes it the child.
inline constexpr const char* kCheckFlag = "--check-dataset";

/// Starts `program --check-dataset directory` and waits for it, at most `limit`. `cancelled` is asked about once a
/// second; the child is killed and the answer CANCELLED when it says yes or `stop` is requested. SIGTERM, SIGINT and SIGHUP
/// do not reach the child: whoever stops the whole service means the server, which kills it.
/// Errors: those of CheckDatasetAgainstModel; INVALID_ARGUMENT DATASET_CHECK_DIED when the child crashed by its own doing
/// (the memory limit ends it so), DATASET_CHECK_TOO_LONG beyond `limit`; UNAVAILABLE CHECK_KILLED when somebody, perhaps the
/// kernel, killed it, CHECK_WITHOUT_ANSWER when it ended by itself without one, CHECK_NOT_STARTED.
StatusOr<data::ValidationReport> CheckInChild(const std::filesystem::path& program, const std::filesystem::path& directory,
                                              const Clock& clock, Duration limit, const std::stop_token& stop,
                                              const std::function<bool()>& cancelled);

/// The answer beyond the time limit.
Status CheckTookTooLong(Duration limit);

/// The check itself, in this process.
StatusOr<data::ValidationReport> CheckDirectory(const std::filesystem::path& directory, const std::function<bool()>& cancelled);

/// What a check may hold: 4 GiB, in a control group at most a quarter of the group's. The group is the server's too, and
/// one that runs out may be killed whole. `memory_max` is memory.max of cgroup v2: a number of bytes, or "max".
uint64_t CheckMemoryLimit(std::string_view memory_max);

/// The child's main: limits its memory to `max_bytes`, checks, writes the answer. Returns the exit code.
int RunCheckChild(const std::filesystem::path& directory, uint64_t max_bytes);

}  // namespace sbora::server
