#include "worker/agent/flags.h"

#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <array>
#include <cstdlib>
#include <filesystem>

#include "common/grpc/channel.h"
#include "common/ids.h"
#include "core/lease.h"

namespace sbora::agent {
namespace {

constexpr int64_t kDefaultCacheBytes = int64_t{50} * 1024 * 1024 * 1024;

std::string DataHome() {
  if (const char* home = std::getenv("XDG_DATA_HOME"); home != nullptr && *home != '\0') return home;
  const char* home = std::getenv("HOME");
  return std::string(home == nullptr ? "/var/lib" : home) + (home == nullptr ? "" : "/.local/share");
}

std::string HostName() {
  std::array<char, 256> name = {};
  return ::gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "worker";
}

}  // namespace

std::string WorkerNameOf(std::string host) {
  host = host.substr(0, host.find('.'));
  for (char& c : host) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
    const bool kept = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
    if (!kept) c = '-';
  }
  if (host.empty() || host.front() < 'a' || host.front() > 'z') host = "worker-" + host;
  host = host.substr(0, 63);
  while (host.ends_with('-')) host.pop_back();
  return host;
}

config::v1::WorkerConfig WithDefaults(config::v1::WorkerConfig config, const std::string& program) {
  if (config.server().empty()) config.set_server("127.0.0.1:7400");
  if (config.name().empty()) config.set_name(WorkerNameOf(HostName()));
  if (config.data_dir().empty()) config.set_data_dir(DataHome() + "/sbora/worker");
  if (config.cache_bytes() == 0) config.set_cache_bytes(kDefaultCacheBytes);
  if (config.trainer().empty()) {
    config.set_trainer((std::filesystem::path(program).parent_path() / "sbora-trainer").string());
  }
  if (config.drain_seconds() == 0) config.set_drain_seconds(120);
  return config;
}

Status CheckConfig(const config::v1::WorkerConfig& config) {
  Status bad = InvalidArgument("BAD_CONFIG", "the configuration of sbora-worker is not usable");
  std::string text;
  const auto refuse = [&](std::string_view field, const std::string& value, const std::string& rule) {
    std::string flag(field);
    std::replace(flag.begin(), flag.end(), '_', '-');
    text += fmt::format("{}--{}={}: {}", text.empty() ? "" : "; ", flag, value, rule);
    bad = bad.WithViolation(field, rule);
  };
  if (!CheckResourceId(config.name(), "name").ok()) {
    refuse("name", config.name(), "must be a lower-case label of letters, digits and '-', starting with a letter");
  }
  if (config.cache_bytes() < 0) refuse("cache_bytes", std::to_string(config.cache_bytes()), "must be above 0");
  if (config.cpu_slots() < 0 || config.cpu_slots() > 1024) {
    refuse("cpu_slots", std::to_string(config.cpu_slots()), "must be 0 to 1024");
  }
  if (!(config.drain_seconds() > 0) || config.drain_seconds() > 86400) {
    refuse("drain_seconds", std::to_string(config.drain_seconds()), "must be above 0 and at most 86400");
  }
  if (config.tls_ca().empty() && !IsLoopbackAddress(config.server())) {
    refuse("server", config.server(), "is not on loopback, so TLS is required: give --tls-ca");
  }
  if (!core::IsGangAddress(config.gang_address())) {
    refuse("gang_address", config.gang_address(),
           fmt::format("must be a host name or an address without a port, of at most {} bytes", core::kMaxGangAddressBytes));
  }
  if (::access(config.trainer().c_str(), X_OK) != 0) {
    refuse("trainer", config.trainer(), "is no program that can be executed");
  }
  if (text.empty()) return OkStatus();
  Status named = InvalidArgument("BAD_CONFIG", text);
  for (const auto& violation : bad.violations()) named = named.WithViolation(violation.field, violation.description);
  return named;
}

std::variant<config::v1::WorkerConfig, ExitWith> ParseFlags(int argc, const char* const* argv) {
  CLI::App app("Runs fine-tuning jobs of an sbora server on this machine.", "sbora-worker");
  app.set_version_flag("--version", SBORA_VERSION);
  app.option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  std::string server, name, data_dir, trainer, tls_ca, token_file, ready_file, gang_address;
  std::string http_listen = "127.0.0.1:0";
  int64_t cache_bytes = 0;
  int32_t cpu_slots = 1;
  double drain_seconds = 0;
  app.add_option("--server", server, "Address of sbora-server. Default: 127.0.0.1:7400");
  app.add_option("--name", name, "Stable name of this worker. Default: the host's name");
  app.add_option("--data-dir", data_dir, "Cache, attempts, journal. Default: $XDG_DATA_HOME/sbora/worker");
  app.add_option("--cache-bytes", cache_bytes, "Limit of the file cache. Default: 50 GiB")->check(CLI::PositiveNumber);
  app.add_option("--cpu-slots", cpu_slots, "Ranks that may run on CPU at once; 0 for none. Default: 1");
  app.add_option("--http-listen", http_listen, "Address of /metrics and /livez; \"\" for none. Default: 127.0.0.1:0");
  app.add_option("--trainer", trainer, "The trainer's program. Default: sbora-trainer beside this program");
  app.add_option("--tls-ca", tls_ca, "CA of the server's certificate; required unless the server is on loopback");
  app.add_option("--token-file", token_file, "File with the bearer token");
  app.add_option("--drain-seconds", drain_seconds, "From SIGTERM to the end. Default: 120")->check(CLI::PositiveNumber);
  app.add_option("--ready-file", ready_file, "Written once the server has answered");
  app.add_option("--gang-address", gang_address,
                 "Address of this machine at which ranks on other workers reach ranks here, unencrypted: only for networks you "
                 "trust. Default: none, no gangs over several workers");
  try {
    app.parse(argc, const_cast<char**>(argv));  // CLI11 reads only
  } catch (const CLI::ParseError& error) {
    const bool asked = error.get_exit_code() == 0;  // --help, --version
    return ExitWith{.code = asked ? 0 : 2,
                    .text = asked ? (error.get_name() == "CallForVersion" ? std::string(SBORA_VERSION) + "\n" : app.help())
                                  : fmt::format("sbora-worker: {}. See sbora-worker --help.\n", error.what())};
  }
  config::v1::WorkerConfig config;
  config.set_server(server);
  config.set_name(name);
  config.set_data_dir(data_dir);
  config.set_cache_bytes(cache_bytes);
  config.set_cpu_slots(cpu_slots);
  config.set_http_listen(http_listen);
  config.set_trainer(trainer);
  config.set_tls_ca(tls_ca);
  config.set_token_file(token_file);
  config.set_drain_seconds(drain_seconds);
  config.set_ready_file(ready_file);
  config.set_gang_address(gang_address);
  std::error_code error;
  const auto self = std::filesystem::read_symlink("/proc/self/exe", error);
  config = WithDefaults(std::move(config), error ? std::string(argv[0]) : self.string());
  if (const Status status = CheckConfig(config); !status.ok()) {
    return ExitWith{.code = 2, .text = fmt::format("sbora-worker: {}\n", status.message())};
  }
  return config;
}

}  // namespace sbora::agent
