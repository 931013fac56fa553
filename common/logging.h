/// Logging through spdlog, as JSON lines on stderr:
///   {"time":"…Z","level":"info","program":"sbora-worker","message":"…","job":"…","attempt":2,"epoch":7}
/// Log where an error is handled, not where it is returned. Never log a secret or a job's data. A thread that works on one
/// attempt says so once, with a LogScope.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace sbora {

enum class LogLevel { kDebug, kInfo, kWarn, kError };
enum class LogFormat { kJson, kText };

/// One structured field of a line. Common names: job, attempt, epoch, worker, model, dataset, trace_id.
struct LogField {
  std::string_view name;
  std::variant<std::string, int64_t, double, bool> value;

  LogField(std::string_view n, std::string v) : name(n), value(std::move(v)) {}
  LogField(std::string_view n, std::string_view v) : name(n), value(std::string(v)) {}
  LogField(std::string_view n, const char* v) : name(n), value(std::string(v)) {}
  LogField(std::string_view n, int64_t v) : name(n), value(v) {}
  LogField(std::string_view n, int v) : name(n), value(static_cast<int64_t>(v)) {}
  LogField(std::string_view n, uint64_t v) : name(n), value(static_cast<int64_t>(v)) {}
  LogField(std::string_view n, double v) : name(n), value(v) {}
  LogField(std::string_view n, bool v) : name(n), value(v) {}
};

/// While it lives, every line that its own thread logs carries these fields too. Scopes nest; of fields with one name the
/// line's own wins, then that of the innermost scope.
///
///     const LogScope scope({{"job", job}, {"attempt", attempt}, {"epoch", epoch}});
class LogScope {
 public:
  explicit LogScope(std::vector<LogField> fields);
  ~LogScope();
  LogScope(const LogScope&) = delete;
  LogScope& operator=(const LogScope&) = delete;

  const std::vector<LogField>& fields() const { return fields_; }
  const LogScope* outer() const { return outer_; }  ///< null for the outermost

 private:
  const std::vector<LogField> fields_;
  const LogScope* const outer_;
};

/// Call once at the start of main. `level` is also read from SBORA_LOG_LEVEL (debug, info, warn, error).
void InitLogging(std::string_view program, LogFormat format = LogFormat::kJson);

/// Thread-safe; never blocks on anything but the write to stderr.
void Log(LogLevel level, std::string_view message, std::initializer_list<LogField> fields = {});

inline void LogDebug(std::string_view message, std::initializer_list<LogField> fields = {}) { Log(LogLevel::kDebug, message, fields); }
inline void LogInfo(std::string_view message, std::initializer_list<LogField> fields = {}) { Log(LogLevel::kInfo, message, fields); }
inline void LogWarn(std::string_view message, std::initializer_list<LogField> fields = {}) { Log(LogLevel::kWarn, message, fields); }
inline void LogError(std::string_view message, std::initializer_list<LogField> fields = {}) { Log(LogLevel::kError, message, fields); }

}  // namespace sbora
