/// sbora-trainer: one task on one device. See README.md for its commands.
#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "common/logging.h"
#include "worker/trainer/link/bench_command.h"
#include "worker/trainer/link/exit_code.h"
#include "worker/trainer/link/flags.h"
#ifdef SBORA_WITH_TASKS
#include "worker/trainer/link/run_command.h"
#endif

namespace sbora::trainer {
namespace {

constexpr char kUsage[] =
    "usage: sbora-trainer run --fd N        one task for the agent behind the inherited socket N\n"
    "       sbora-trainer bench --model DIR --data FILE [--method M[+nf4]] [--rank R] [--micro-batch B] [--cutoff C]\n"
    "                           [--steps S] [--threads T] [--device D] [--optimizer adamw|adamw_8bit]\n"
    "                           [--gradient-checkpointing 0|1] [--cache-dir DIR] [--loss-on response|all]\n"
    "                           [--output text|json]\n"
    "       sbora-trainer --version\n";

ExitCode Usage(std::string_view problem) {
  fmt::print(stderr, "{}\n{}", problem, kUsage);
  return ExitCode::kUsage;
}

ExitCode Run(const std::vector<std::string>& arguments) {
#ifdef SBORA_WITH_TASKS
  const auto flags = Flags::Parse(arguments, {"fd"});
  if (!flags.ok()) return Usage(flags.status().message());
  const auto fd = flags->Int("fd", -1, 0, std::numeric_limits<int>::max());
  if (!fd.ok() || *fd < 0) return Usage(fd.ok() ? "run needs --fd" : fd.status().message());
  return RunCommand(static_cast<int>(*fd));
#else
  static_cast<void>(arguments);
  return Usage("this build has no protocol (SBORA_WITH_SERVICE=OFF); only bench");
#endif
}

/// OpenMP's threads spin while they wait, by default for so long that a core shared with any other program loses most of
/// its speed (seven times fewer tokens per second were measured). The library reads its settings before main, so the
/// program starts itself again with a short spin, unless somebody chose one.
void LimitSpinning(char** argv) {
  if (std::getenv("GOMP_SPINCOUNT") != nullptr || std::getenv("OMP_WAIT_POLICY") != nullptr) return;
  setenv("GOMP_SPINCOUNT", "1000", 1);
  execv("/proc/self/exe", argv);
  LogWarn("the program could not start itself again; training may be slow beside other programs");
}

ExitCode Main(std::vector<std::string> arguments) {
  InitLogging("sbora-trainer");
  if (arguments.empty()) return Usage("no command");
  const std::string command = arguments.front();
  if (command == "--version") {
    fmt::print("sbora-trainer {}\n", SBORA_VERSION);
    return ExitCode::kDone;
  }
  if (command == "--help") {
    fmt::print("{}", kUsage);
    return ExitCode::kDone;
  }
  if (command.starts_with("--fd")) return Run(arguments);
  arguments.erase(arguments.begin());
  if (command == "run") return Run(arguments);
  if (command == "bench") return BenchCommand(arguments);
  return Usage(fmt::format("unknown command \"{}\"", command));
}

}  // namespace
}  // namespace sbora::trainer

int main(int argc, char** argv) {
  sbora::trainer::LimitSpinning(argv);
  return static_cast<int>(sbora::trainer::Main({argv + 1, argv + argc}));
}
