#include "server/services/isolated_check.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <new>
#include <nlohmann/json.hpp>
#include <system_error>

#include "common/file.h"
#include "common/status_macros.h"
#include "core/proto/convert.h"
#include "sbora/worker/v1/task.pb.h"
#include "server/services/dataset_check.h"
#include "server/services/requests.h"

namespace sbora::server {
namespace {

constexpr int64_t kMaxMessageBytes = 64 << 20;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;  // their shadow memory counts as data: no limit would leave room for the check itself
#else
constexpr bool kSanitized = false;
#endif
constexpr std::chrono::milliseconds kLookEvery{20};
constexpr std::chrono::seconds kAskEvery{1};

std::string ResultText(const StatusOr<data::ValidationReport>& checked) {
  const Status status = checked.status();
  nlohmann::json violations = nlohmann::json::array();
  for (const FieldViolation& violation : status.violations()) violations.push_back({violation.field, violation.description});
  const nlohmann::json result = {{"code", static_cast<int>(status.code())},
                                 {"reason", status.reason()},
                                 {"message", status.message()},
                                 {"violations", violations},
                                 {"report", checked.ok() ? data::ToJson(*checked) : ""}};
  return result.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

/// What ResultText wrote.
StatusOr<data::ValidationReport> ParseResult(const std::string& text) {
  const nlohmann::json result = nlohmann::json::parse(text, nullptr, false);
  const Status malformed = Internal("CHECK_RESULT_MALFORMED", "the check of the data answered what cannot be read");
  if (!result.is_object() || !result.contains("code") || !result["code"].is_number_integer()) return malformed;
  const int code = result["code"].get<int>();
  if (code == 0) {
    const auto report = data::ParseValidationReport(result.value("report", ""));
    return report ? StatusOr<data::ValidationReport>(*report) : StatusOr<data::ValidationReport>(malformed);
  }
  if (code < 0 || code > 16 || !result["reason"].is_string() || !result["message"].is_string()) return malformed;
  Status status(static_cast<StatusCode>(code), result["reason"].get<std::string>(), result["message"].get<std::string>());
  for (const auto& violation : result["violations"]) {
    if (!violation.is_array() || violation.size() != 2 || !violation[0].is_string() || !violation[1].is_string()) return malformed;
    status = status.WithViolation(violation[0].get<std::string>(), violation[1].get<std::string>());
  }
  return status;
}

StatusOr<pid_t> Spawn(const std::filesystem::path& program, const std::filesystem::path& directory) {
  std::string path = program.string();
  std::string flag = kCheckFlag;
  std::string argument = directory.string();
  char* const argv[] = {path.data(), flag.data(), argument.data(), nullptr};
  posix_spawnattr_t attributes;
  ::posix_spawnattr_init(&attributes);
  // A blocked signal stays blocked in the new program.
  sigset_t blocked;
  ::sigemptyset(&blocked);
  for (const int signal : {SIGTERM, SIGINT, SIGHUP}) ::sigaddset(&blocked, signal);
  ::posix_spawnattr_setsigmask(&attributes, &blocked);
  // A group of its own: Ctrl-C at the server's terminal is the server's to handle.
  ::posix_spawnattr_setpgroup(&attributes, 0);
  ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETPGROUP);
  pid_t pid = -1;
  const int error = ::posix_spawn(&pid, path.c_str(), nullptr, &attributes, argv, environ);
  ::posix_spawnattr_destroy(&attributes);
  if (error == 0) return pid;
  return Unavailable("CHECK_NOT_STARTED", fmt::format("{} cannot be started to check the data: {}", path,
                                                      std::generic_category().message(error)));
}

void BecomeFirstVictim() {
  const UniqueFd fd(::open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC));
  if (fd.valid()) WriteAll(fd.get(), "1000", "oom_score_adj").IgnoreError("it is a wish only");
}

/// The child's wait status; CANCELLED, or CheckTookTooLong, after killing it.
StatusOr<int> WaitForChild(pid_t pid, const Clock& clock, Duration limit, const std::stop_token& stop,
                           const std::function<bool()>& cancelled) {
  const MonotonicTime start = clock.Now();
  MonotonicTime next_ask = start + kAskEvery;
  for (;;) {
    int status = 0;
    const pid_t waited = ::waitpid(pid, &status, WNOHANG);
    if (waited == pid) return status;
    if (waited < 0 && errno != EINTR) return FromErrno(errno, "waiting for the check of the data");
    bool end = !clock.SleepUntil(clock.Now() + kLookEvery, stop);
    const bool late = clock.Now() - start >= limit;
    if (!end && clock.Now() >= next_ask) {
      next_ask = clock.Now() + kAskEvery;
      end = cancelled();
    }
    if (!end && !late) continue;
    ::kill(pid, SIGKILL);
    ::waitpid(pid, nullptr, 0);
    return end ? Cancelled("CHECK_CANCELLED", "the check of the data was called off") : CheckTookTooLong(limit);
  }
}

/// Signals that a program brings upon itself; every other one is sent by somebody.
bool IsCrash(int signal) {
  return signal == SIGABRT || signal == SIGSEGV || signal == SIGBUS || signal == SIGILL || signal == SIGFPE || signal == SIGSYS ||
         signal == SIGTRAP;
}

/// Heap, stacks and private maps; not the address space that allocators only reserve.
bool LimitMemory(uint64_t max_bytes) {
  const rlimit data{static_cast<rlim_t>(max_bytes), static_cast<rlim_t>(max_bytes)};
  return ::setrlimit(RLIMIT_DATA, &data) == 0;
}

}  // namespace

Status CheckTookTooLong(Duration limit) {
  return InvalidArgument("DATASET_CHECK_TOO_LONG",
                         fmt::format("reading the data with the model's tokenizer and chat template took more than {:.0f} s; split the "
                                     "data set, or use a simpler template",
                                     std::chrono::duration<double>(limit).count()));
}

StatusOr<data::ValidationReport> CheckInChild(const std::filesystem::path& program, const std::filesystem::path& directory,
                                              const Clock& clock, Duration limit, const std::stop_token& stop,
                                              const std::function<bool()>& cancelled) {
  // What an earlier, killed check may have left is not this one's answer.
  std::error_code ignored;
  std::filesystem::remove(directory / "result", ignored);
  SBORA_ASSIGN_OR_RETURN(const pid_t pid, Spawn(program, directory));
  SBORA_ASSIGN_OR_RETURN(const int status, WaitForChild(pid, clock, limit, stop, cancelled));
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
    const StatusOr<std::string> text = ReadFile(directory / "result", kMaxMessageBytes);
    if (text.ok()) return ParseResult(*text);
    if (text.status().code() != StatusCode::kNotFound) return text.status();
  }
  if (WIFSIGNALED(status) && IsCrash(WTERMSIG(status))) {
    return InvalidArgument("DATASET_CHECK_DIED", fmt::format("reading the data with the model's tokenizer and chat template ended by "
                                                             "signal {}; most likely the chat template needs more memory than the "
                                                             "check has",
                                                             WTERMSIG(status)));
  }
  if (WIFSIGNALED(status)) {
    return Unavailable("CHECK_KILLED", fmt::format("the check of the data was killed by signal {} from outside", WTERMSIG(status)));
  }
  return Unavailable("CHECK_WITHOUT_ANSWER", fmt::format("the check of the data ended with exit code {} and no answer", WEXITSTATUS(status)));
}

StatusOr<data::ValidationReport> CheckDirectory(const std::filesystem::path& directory, const std::function<bool()>& cancelled) {
  SBORA_ASSIGN_OR_RETURN(const std::string request, ReadFile(directory / "request", kMaxMessageBytes));
  worker::v1::TrainTask train;
  SBORA_RETURN_IF_ERROR(ParseStored(request, "task", train));
  SBORA_ASSIGN_OR_RETURN(const core::JobSpec spec, core::ParseSpec(train.spec()));
  JobData files;
  files.validation_file = directory / "validation.data";
  files.validation_format = train.validation_format();
  std::error_code ignored;
  if (!std::filesystem::exists(files.validation_file, ignored)) files.validation_file.clear();
  if (spec.datasets.empty()) {
    files.file = directory / "dataset.data";
    files.format = train.dataset_format();
  }
  if (static_cast<size_t>(train.mixture_formats_size()) != spec.datasets.size()) {
    return Internal("TASK_MALFORMED", fmt::format("{} formats for a mixture of {} data sets", train.mixture_formats_size(),
                                                  spec.datasets.size()));
  }
  for (int i = 0; i < train.mixture_formats_size(); ++i) {
    files.mixture.push_back(directory / fmt::format("dataset-{}.data", i));
    files.mixture_formats.push_back(train.mixture_formats(i));
  }
  return CheckDatasetAgainstModel(files, spec, directory, cancelled);
}

uint64_t CheckMemoryLimit(std::string_view memory_max) {
  constexpr uint64_t kMost = uint64_t{4} << 30;
  uint64_t group = 0;
  const auto [end, error] = std::from_chars(memory_max.data(), memory_max.data() + memory_max.size(), group);
  return error == std::errc() ? std::min(kMost, group / 4) : kMost;
}

int RunCheckChild(const std::filesystem::path& directory, uint64_t max_bytes) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  const rlimit no_core{0, 0};
  ::setrlimit(RLIMIT_CORE, &no_core);
  if (!kSanitized && !LimitMemory(max_bytes)) return 1;
  // On a small machine the kernel's choice falls on this process, not on the server.
  BecomeFirstVictim();
  StatusOr<data::ValidationReport> checked = Internal("NOT_CHECKED", "the check did not run");
  try {
    checked = CheckDirectory(directory, {});
  } catch (const std::bad_alloc&) {
    checked = InvalidArgument("DATASET_CHECK_FAILED", fmt::format("reading the data needs more memory than the {} bytes that a check has; "
                                                                  "use shorter records, or a simpler chat template",
                                                                  max_bytes));
  } catch (const std::exception& error) {
    checked = InvalidArgument("DATASET_CHECK_FAILED", fmt::format("reading the data failed: {}", error.what()));
  }
  return WriteFileAtomic(directory / "result", ResultText(checked)).ok() ? 0 : 1;
}

}  // namespace sbora::server
