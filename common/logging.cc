#include "common/logging.h"

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>

namespace sbora {
namespace {

struct Settings {
  std::string program = "sbora";
  LogFormat format = LogFormat::kText;
};

Settings& GlobalSettings() {
  static Settings settings;  // written once by InitLogging, before any thread starts
  return settings;
}

thread_local const LogScope* innermost = nullptr;

spdlog::level::level_enum ToSpdlog(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug: return spdlog::level::debug;
    case LogLevel::kInfo: return spdlog::level::info;
    case LogLevel::kWarn: return spdlog::level::warn;
    case LogLevel::kError: return spdlog::level::err;
  }
  return spdlog::level::info;
}

std::string_view LevelName(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug: return "debug";
    case LogLevel::kInfo: return "info";
    case LogLevel::kWarn: return "warn";
    case LogLevel::kError: return "error";
  }
  return "info";
}

std::string UtcNow() {
  const auto now = std::chrono::system_clock::now();
  const auto millis = std::chrono::duration_cast<std::chrono::milliseconds>(now.time_since_epoch()).count();
  const std::time_t seconds = millis / 1000;
  std::tm parts{};
  gmtime_r(&seconds, &parts);
  return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z", parts.tm_year + 1900, parts.tm_mon + 1, parts.tm_mday,
                     parts.tm_hour, parts.tm_min, parts.tm_sec, millis % 1000);
}

/// The line's own fields, then those of the thread's scopes that they do not hide. Pointers into both.
std::vector<const LogField*> AllFields(std::initializer_list<LogField> own) {
  std::vector<const LogField*> all;
  const auto add = [&all](const LogField& field) {
    const bool hidden = std::any_of(all.begin(), all.end(), [&](const LogField* f) { return f->name == field.name; });
    if (!hidden) all.push_back(&field);
  };
  for (const LogField& field : own) add(field);
  for (const LogScope* scope = innermost; scope != nullptr; scope = scope->outer()) {
    for (const LogField& field : scope->fields()) add(field);
  }
  return all;
}

std::string JsonLine(LogLevel level, std::string_view message, std::initializer_list<LogField> fields) {
  nlohmann::ordered_json line;
  line["time"] = UtcNow();
  line["level"] = LevelName(level);
  line["program"] = GlobalSettings().program;
  line["message"] = message;
  for (const LogField* field : AllFields(fields)) {
    std::visit([&](const auto& value) { line[std::string(field->name)] = value; }, field->value);
  }
  return line.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

std::string TextLine(LogLevel level, std::string_view message, std::initializer_list<LogField> fields) {
  std::string line = fmt::format("{} {} {}", UtcNow(), LevelName(level), message);
  for (const LogField* field : AllFields(fields)) {
    std::visit([&](const auto& value) { line += fmt::format(" {}={}", field->name, value); }, field->value);
  }
  return line;
}

}  // namespace

LogScope::LogScope(std::vector<LogField> fields) : fields_(std::move(fields)), outer_(innermost) { innermost = this; }

LogScope::~LogScope() { innermost = outer_; }

void InitLogging(std::string_view program, LogFormat format) {
  GlobalSettings() = {std::string(program), format};
  auto logger = std::make_shared<spdlog::logger>(std::string(program), std::make_shared<spdlog::sinks::stderr_sink_mt>());
  logger->set_pattern("%v");
  const char* level = std::getenv("SBORA_LOG_LEVEL");
  logger->set_level(level != nullptr ? spdlog::level::from_str(level) : spdlog::level::info);
  logger->flush_on(spdlog::level::info);
  spdlog::set_default_logger(std::move(logger));
}

void Log(LogLevel level, std::string_view message, std::initializer_list<LogField> fields) {
  const auto spd_level = ToSpdlog(level);
  if (!spdlog::should_log(spd_level)) return;
  const bool json = GlobalSettings().format == LogFormat::kJson;
  spdlog::log(spd_level, "{}", json ? JsonLine(level, message, fields) : TextLine(level, message, fields));
}

}  // namespace sbora
