#include "server/config.h"

#include <fmt/format.h>
#include <google/protobuf/util/json_util.h>
#include <yaml-cpp/yaml.h>

#include <CLI/CLI.hpp>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <map>
#include <sstream>

#include "common/file.h"
#include "common/grpc/channel.h"
#include "common/status_macros.h"


namespace sbora::server {
namespace {

using config::v1::ServerConfig;
using google::protobuf::FieldDescriptor;

constexpr int64_t kMaxConfigBytes = 1 << 20;

const std::map<std::string_view, const char*>& Help() {
  static const std::map<std::string_view, const char*> help = {
      {"listen", "gRPC address, host:port, port 0 for any (127.0.0.1:7400)"},
      {"http_listen", "HTTP address for page, metrics and health (127.0.0.1:7401)"},
      {"data_dir", "database and local objects ($XDG_DATA_HOME/sbora)"},
      {"object_store", "file:///dir or s3://bucket/prefix (the data directory)"},
      {"s3_endpoint", "another S3 server than AWS, for example http://127.0.0.1:9000"},
      {"s3_region", "region of the bucket (us-east-1)"},
      {"s3_credentials_file", "file with access_key_id=... and secret_access_key=... lines"},
      {"s3_allow_http", "permit an endpoint without TLS"},
      {"tls_certificate", "PEM file; needed on addresses that are not loopback"},
      {"tls_key", "PEM file"},
      {"token_file", "lines `role sha256-of-token`; roles admin, submitter, viewer, worker"},
      {"renew_every_seconds", "lease renewal (5)"},
      {"self_fence_seconds", "a worker without renewal kills its ranks after this (30)"},
      {"lease_seconds", "a lease ends this long after its last renewal, at least twice the self-fence (60)"},
      {"redispatch_seconds", "and its job is given away after this (65)"},
      {"hang_seconds", "an attempt without progress is killed after this (120)"},
      {"retry_backoff_seconds", "first wait after a failed attempt; doubles (10)"},
      {"retry_backoff_max_seconds", "longest wait (360)"},
      {"max_attempts", "attempts without a new checkpoint that end a job (3)"},
      {"ready_file", "write the bound addresses here as JSON once serving"},
  };
  return help;
}

std::string FlagName(const FieldDescriptor& field) {
  std::string name = "--" + field.name();
  for (char& c : name) {
    if (c == '_') c = '-';
  }
  return name;
}

Status BadValue(const FieldDescriptor& field, const std::string& text, std::string_view wanted) {
  return InvalidArgument("BAD_FLAG", fmt::format("{}: \"{}\" is not {}", FlagName(field), text, wanted));
}

Status SetField(const FieldDescriptor& field, const std::string& text, ServerConfig& config) {
  const auto* reflection = config.GetReflection();
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_STRING: reflection->SetString(&config, &field, text); return OkStatus();
    case FieldDescriptor::CPPTYPE_BOOL:
      if (text != "true" && text != "false") return BadValue(field, text, "true or false");
      reflection->SetBool(&config, &field, text == "true");
      return OkStatus();
    case FieldDescriptor::CPPTYPE_DOUBLE: {
      char* end = nullptr;
      const double value = std::strtod(text.c_str(), &end);
      if (text.empty() || *end != '\0' || !std::isfinite(value) || value < 0) return BadValue(field, text, "a number from 0 on");
      reflection->SetDouble(&config, &field, value);
      return OkStatus();
    }
    case FieldDescriptor::CPPTYPE_INT32: {
      int32_t value = 0;
      const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
      if (error != std::errc() || end != text.data() + text.size()) return BadValue(field, text, "a whole number");
      reflection->SetInt32(&config, &field, value);
      return OkStatus();
    }
    case FieldDescriptor::CPPTYPE_INT64:
    case FieldDescriptor::CPPTYPE_UINT32:
    case FieldDescriptor::CPPTYPE_UINT64:
    case FieldDescriptor::CPPTYPE_FLOAT:
    case FieldDescriptor::CPPTYPE_ENUM:
    case FieldDescriptor::CPPTYPE_MESSAGE: break;
  }
  return Internal("FIELD_TYPE", fmt::format("ServerConfig.{} has a type without a flag", field.name()));
}

/// YAML is a superset of JSON. Scalars only, by field name.
Status ReadConfigFile(const std::string& path, ServerConfig& config) {
  SBORA_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxConfigBytes));
  try {
    const YAML::Node root = YAML::Load(text);
    if (!root.IsMap()) return InvalidArgument("BAD_CONFIG_FILE", fmt::format("{} must hold `field: value` lines", path));
    for (const auto& entry : root) {
      const auto name = entry.first.as<std::string>();
      const FieldDescriptor* field = ServerConfig::descriptor()->FindFieldByName(name);
      if (field == nullptr) field = ServerConfig::descriptor()->FindFieldByCamelcaseName(name);
      if (field == nullptr) return InvalidArgument("BAD_CONFIG_FILE", fmt::format("{}: \"{}\" is no setting of sbora-server", path, name));
      const Status set = SetField(*field, entry.second.as<std::string>(), config);
      if (!set.ok()) return set.WithContext(path);
    }
  } catch (const YAML::Exception& error) {
    return InvalidArgument("BAD_CONFIG_FILE", fmt::format("{}: {}", path, error.what()));
  }
  return OkStatus();
}

std::string DefaultDataDir() {
  if (const char* data_home = std::getenv("XDG_DATA_HOME"); data_home != nullptr && *data_home != '\0') return std::string(data_home) + "/sbora";
  const char* home = std::getenv("HOME");
  return (home != nullptr ? std::string(home) : ".") + "/.local/share/sbora";
}

Duration Seconds(double seconds) { return std::chrono::duration_cast<Duration>(std::chrono::duration<double>(seconds)); }

}  // namespace

StatusOr<ServerOptions> ParseServerFlags(int argc, char** argv, std::optional<int>* exit_code) {
  ServerOptions options;
  CLI::App app{"Coordinator of the sbora fine-tuning service: takes jobs, queues them, leases them to workers."};
  std::string config_file;
  app.set_version_flag("--version", SBORA_VERSION);
  // An image's entry point sets flags that a manifest may set again.
  app.option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  app.add_option("--config", config_file, "YAML or JSON file with the fields of sbora.config.v1.ServerConfig; flags win");
  app.add_flag("--with-worker", options.with_worker, "start sbora-worker (found beside this program) and stop it at the end");
  std::map<const FieldDescriptor*, std::string> values;
  for (int i = 0; i < ServerConfig::descriptor()->field_count(); ++i) {
    const FieldDescriptor* field = ServerConfig::descriptor()->field(i);
    const auto help = Help().find(field->name());
    CLI::Option* option = app.add_option(FlagName(*field), values[field], help == Help().end() ? "" : help->second);
    if (field->cpp_type() == FieldDescriptor::CPPTYPE_BOOL) option->expected(0, 1)->default_str("true");
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& success) {
    *exit_code = app.exit(success);
    return options;
  } catch (const CLI::ParseError& error) {
    return InvalidArgument("BAD_FLAG", fmt::format("{}; see sbora-server --help", error.what()));
  }
  if (!config_file.empty()) SBORA_RETURN_IF_ERROR(ReadConfigFile(config_file, options.config));
  for (auto& [field, value] : values) {
    if (app.count(FlagName(*field)) == 0) continue;
    if (field->cpp_type() == FieldDescriptor::CPPTYPE_BOOL && value.empty()) value = "true";
    SBORA_RETURN_IF_ERROR(SetField(*field, value, options.config));
  }
  FillDefaults(options.config);
  if (options.with_worker && !(options.config.tls_certificate().empty() && options.config.token_file().empty())) {
    return InvalidArgument("BAD_FLAG", "--with-worker is for a server without TLS and tokens; start sbora-worker with its own --token-file");
  }
  return options;
}

void FillDefaults(ServerConfig& config) {
  if (config.listen().empty()) config.set_listen("127.0.0.1:7400");
  if (config.http_listen().empty()) config.set_http_listen("127.0.0.1:7401");
  if (config.data_dir().empty()) config.set_data_dir(DefaultDataDir());
  if (config.object_store().empty()) {
    std::error_code ignored;
    const auto absolute = std::filesystem::absolute(config.data_dir(), ignored);
    config.set_object_store("file://" + (absolute / "objects").lexically_normal().string());
  }
  if (config.renew_every_seconds() == 0) config.set_renew_every_seconds(5);
  if (config.self_fence_seconds() == 0) config.set_self_fence_seconds(30);
  if (config.lease_seconds() == 0) config.set_lease_seconds(60);
  if (config.redispatch_seconds() == 0) config.set_redispatch_seconds(65);
  if (config.hang_seconds() == 0) config.set_hang_seconds(120);
  if (config.retry_backoff_seconds() == 0) config.set_retry_backoff_seconds(10);
  if (config.retry_backoff_max_seconds() == 0) config.set_retry_backoff_max_seconds(360);
  if (config.max_attempts() == 0) config.set_max_attempts(3);
}

StatusOr<HostPort> ParseHostPort(const std::string& address, std::string_view flag) {
  HostPort result;
  const size_t colon = address.rfind(':');
  const Status bad = InvalidArgument("BAD_ADDRESS", fmt::format("{}: \"{}\" is not host:port", flag, address));
  if (colon == std::string::npos || colon == 0) return bad;
  result.host = address.substr(0, colon);
  if (result.host.size() > 2 && result.host.front() == '[' && result.host.back() == ']') result.host = result.host.substr(1, result.host.size() - 2);
  const auto [end, error] = std::from_chars(address.data() + colon + 1, address.data() + address.size(), result.port);
  if (error != std::errc() || end != address.data() + address.size() || result.port < 0 || result.port > 65535) return bad;
  return result;
}

Status CheckConfig(const ServerConfig& config) {
  const bool tls = !config.tls_certificate().empty();
  if (tls != !config.tls_key().empty()) return InvalidArgument("BAD_TLS", "--tls-certificate and --tls-key go together; one of them is missing");
  const std::pair<const char*, const std::string&> addresses[] = {{"--listen", config.listen()}, {"--http-listen", config.http_listen()}};
  for (const auto& [flag, address] : addresses) {
    SBORA_RETURN_IF_ERROR(ParseHostPort(address, flag).status());
    if (IsLoopbackAddress(address) || (tls && !config.token_file().empty())) continue;
    return InvalidArgument("INSECURE_LISTEN", fmt::format("{} {} is not a loopback address: others could reach the server, so it needs "
                                                          "--tls-certificate, --tls-key and --token-file",
                                                          flag, address));
  }
  return SchedulerConfigOf(config).Check();
}

SchedulerConfig SchedulerConfigOf(const ServerConfig& config) {
  SchedulerConfig scheduler;
  scheduler.timing.renew_every = Seconds(config.renew_every_seconds());
  scheduler.timing.self_fence = Seconds(config.self_fence_seconds());
  scheduler.timing.lease = Seconds(config.lease_seconds());
  scheduler.timing.redispatch = Seconds(config.redispatch_seconds());
  scheduler.timing.hang = Seconds(config.hang_seconds());
  scheduler.backoff = Seconds(config.retry_backoff_seconds());
  scheduler.backoff_max = Seconds(config.retry_backoff_max_seconds());
  scheduler.max_attempts = config.max_attempts();
  // A held call must answer well before the worker wants its next renewal.
  scheduler.poll_idle = std::min(scheduler.poll_idle, scheduler.timing.renew_every);
  scheduler.poll_busy = std::min(scheduler.poll_busy, scheduler.timing.renew_every);
  return scheduler;
}

StatusOr<ObjectStoreOptions> ObjectStoreOptionsOf(const ServerConfig& config) {
  ObjectStoreOptions options;
  options.url = config.object_store();
  options.endpoint = config.s3_endpoint();
  options.region = config.s3_region();
  options.allow_http = config.s3_allow_http();
  if (config.s3_credentials_file().empty()) return options;
  SBORA_ASSIGN_OR_RETURN(const std::string text, ReadFile(config.s3_credentials_file(), kMaxConfigBytes));
  const std::map<std::string, std::string*> fields = {{"access_key_id", &options.access_key_id},
                                                      {"secret_access_key", &options.secret_access_key},
                                                      {"session_token", &options.session_token}};
  std::istringstream lines(text);
  std::string line;
  for (int number = 1; std::getline(lines, line); ++number) {
    if (line.empty() || line[0] == '#') continue;
    const size_t equals = line.find('=');
    const auto field = equals == std::string::npos ? fields.end() : fields.find(line.substr(0, equals));
    if (field == fields.end()) {
      return InvalidArgument("BAD_CREDENTIALS_FILE", fmt::format("{}, line {}: expected access_key_id=..., secret_access_key=... or "
                                                                 "session_token=...",
                                                                 config.s3_credentials_file(), number));
    }
    *field->second = line.substr(equals + 1);
  }
  return options;
}

}  // namespace sbora::server
