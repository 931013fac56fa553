// sbora-worker: one on each machine that runs jobs. SIGTERM and SIGINT drain it, a second one ends it at once.
// Exit codes: 0 drained, 1 could not run, 2 bad flags.
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <thread>
#include <variant>

#include "common/logging.h"
#include "worker/agent/agent.h"
#include "worker/agent/flags.h"

namespace {

/// Blocks them in every thread made from here on; one thread takes them.
sigset_t BlockSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  ::signal(SIGPIPE, SIG_IGN);
  return signals;
}

}  // namespace

int main(int argc, char** argv) {
  const sigset_t signals = BlockSignals();
  auto parsed = sbora::agent::ParseFlags(argc, argv);
  if (const auto* exit = std::get_if<sbora::agent::ExitWith>(&parsed); exit != nullptr) {
    std::fputs(exit->text.c_str(), exit->code == 0 ? stdout : stderr);
    return exit->code;
  }
  sbora::InitLogging("sbora-worker");
  auto agent = sbora::agent::Agent::Start(std::get<sbora::config::v1::WorkerConfig>(parsed));
  if (!agent.ok()) {
    sbora::LogError("sbora-worker cannot start", {{"error", agent.status().ToString()}});
    return 1;
  }
  std::thread([&signals, &agent] {
    int signal = 0;
    sigwait(&signals, &signal);
    (*agent)->Drain();
    sigwait(&signals, &signal);
    ::_exit(1);  // the ranks go with us: parent-death signal, end of file
  }).detach();
  const sbora::Status status = (*agent)->Wait();
  if (!status.ok()) sbora::LogError("sbora-worker ends", {{"error", status.ToString()}});
  agent->reset();
  sbora::LogInfo("sbora-worker ended");
  std::fflush(nullptr);
  ::_exit(status.ok() ? 0 : 1);  // the signal thread still waits; nothing is left to be cleaned up
}
