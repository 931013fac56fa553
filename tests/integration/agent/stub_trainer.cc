// A trainer that trains nothing: speaks sbora.trainer.v1 and does what the job's `model` tells it, for example
// "steps=5;step_ms=20;checkpoint_every=2;signal_at=3". "wait_at=2" holds step 2 back until the file "go" is in the attempt's
// folder. It knows nothing of the agent's code.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "common/clock.h"
#include "sbora/trainer/v1/trainer.pb.h"

namespace {

using sbora::trainer::v1::AgentMessage;
using sbora::trainer::v1::TaskAssignment;
using sbora::trainer::v1::TrainerMessage;
namespace fs = std::filesystem;

int g_socket = -1;
std::string g_input;

void Send(const TrainerMessage& message) {
  const std::string bytes = message.SerializeAsString();
  std::string frame;
  for (size_t size = bytes.size();; size >>= 7) {
    frame += static_cast<char>((size & 0x7f) | (size > 0x7f ? 0x80 : 0));
    if (size <= 0x7f) break;
  }
  frame += bytes;
  for (size_t done = 0; done < frame.size();) {
    const ssize_t sent = ::send(g_socket, frame.data() + done, frame.size() - done, MSG_NOSIGNAL);
    if (sent <= 0) _exit(4);
    done += static_cast<size_t>(sent);
  }
}

/// One message, or false when none is there and `wait` is not set. End of file ends the process.
bool Receive(AgentMessage* message, bool wait) {
  while (true) {
    size_t size = 0;
    for (size_t i = 0; i < g_input.size() && i < 5; ++i) {
      const auto byte = static_cast<unsigned char>(g_input[i]);
      size |= static_cast<size_t>(byte & 0x7f) << (7 * i);
      if ((byte & 0x80) != 0) continue;
      if (g_input.size() < i + 1 + size) break;
      if (!message->ParseFromString(g_input.substr(i + 1, size))) _exit(70);
      g_input.erase(0, i + 1 + size);
      return true;
    }
    char piece[4096];
    const ssize_t got = ::recv(g_socket, piece, sizeof(piece), wait ? 0 : MSG_DONTWAIT);
    if (got == 0) _exit(4);
    if (got < 0) return false;
    g_input.append(piece, static_cast<size_t>(got));
  }
}

std::map<std::string, int64_t> Script(const std::string& text) {
  std::map<std::string, int64_t> script;
  std::istringstream parts(text);
  for (std::string part; std::getline(parts, part, ';');) {
    const size_t equals = part.find('=');
    if (equals != std::string::npos) script[part.substr(0, equals)] = std::strtoll(part.c_str() + equals + 1, nullptr, 10);
  }
  return script;
}

void Pause(int64_t milliseconds) {
  const auto& clock = sbora::SystemClock();
  clock.SleepUntil(clock.Now() + std::chrono::milliseconds(milliseconds), {});
}

void WriteText(const fs::path& path, const std::string& text) { std::ofstream(path) << text; }

void SendProgress(int64_t step, int64_t total) {
  TrainerMessage message;
  message.mutable_progress()->set_ticks(step + 1);
  message.mutable_progress()->mutable_progress()->set_step(step);
  message.mutable_progress()->mutable_progress()->set_total_steps(total);
  Send(message);
}

void Checkpoint(const TaskAssignment& task, int64_t step) {
  if (task.rank() != 0) return;
  const std::string name = "step-" + std::to_string(step);
  const fs::path folder = fs::path(task.checkpoint_directory()) / name;
  fs::create_directories(folder);
  WriteText(folder / "state.txt", std::to_string(step));
  TrainerMessage message;
  message.mutable_checkpoint()->set_step(step);
  message.mutable_checkpoint()->set_directory(name);
  Send(message);
}

int64_t FirstStep(const TaskAssignment& task) {
  auto found = task.directories().find("checkpoint");
  if (found == task.directories().end()) found = task.directories().find("checkpoint_before");
  if (found == task.directories().end()) return 0;
  int64_t step = 0;
  std::ifstream(fs::path(found->second) / "state.txt") >> step;
  return step;
}

[[noreturn]] void Fail(sbora::v1::TerminationReason termination, int code, const char* reason, const std::string& text) {
  TrainerMessage message;
  message.mutable_error()->set_reason(termination);
  message.mutable_error()->mutable_failure()->set_code(code);
  message.mutable_error()->mutable_failure()->set_reason(reason);
  message.mutable_error()->mutable_failure()->set_message(text);
  Send(message);
  _exit(1);
}

void Misbehave(std::map<std::string, int64_t>& script, int64_t step, int rank) {
  const auto now = [&](const char* name) {
    const auto found = script.find(name);
    return found != script.end() && found->second == step && rank == script["bad_rank"];
  };
  if (now("signal_at")) ::raise(static_cast<int>(script.contains("signal") ? script["signal"] : SIGSEGV));
  if (now("exit_at")) {
    const int code = script.contains("exit_code") ? static_cast<int>(script["exit_code"]) : 9;
    ::write(2, "last words\n", 11) < 0 ? _exit(1) : _exit(code);
  }
  if (now("error_at")) {
    Fail(sbora::v1::TERMINATION_REASON_NON_FINITE, 13, "NON_FINITE", "loss is nan at step " + std::to_string(step));
  }
  if (now("invalid_at")) {
    Fail(sbora::v1::TERMINATION_REASON_INVALID_INPUT, 3, "SAFETENSORS_MALFORMED", "the header is no JSON");
  }
  if (now("hang_at")) Pause(3'600'000);
  if (now("orphan_at") && ::fork() == 0) Pause(3'600'000);
  if (now("escape_at") && ::fork() == 0) {
    ::setsid();  // out of the rank's process group
    ::close(g_socket);
    Pause(3'600'000);
  }
  if (now("garbage_at")) {
    const char bytes[] = "\xff\xff\xff\xff\xff\xff";
    ::write(g_socket, bytes, 6) < 0 ? _exit(1) : Pause(3'600'000);
  }
  if (now("stdout_at")) {
    const std::string line(1023, 'x');
    for (int64_t i = 0; i < script["stdout_kib"]; ++i) puts(line.c_str());
    fflush(stdout);
  }
}

/// Until the test lets it go on.
void WaitForGo(const TaskAssignment& task) {
  while (!fs::exists(fs::path(task.output_directory()).parent_path() / "go")) Pause(5);
}

/// Of a gang over several workers: all ranks come to rank 0, over TCP, or the process ends with code 71.
void Meet(const TaskAssignment& task) {
  const std::string& place = task.gang().rendezvous();
  const size_t colon = place.rfind(':');
  if (colon == std::string::npos) _exit(71);
  if (task.rank() == 0) {
    for (int i = 1; i < task.world_size(); ++i) {
      if (::accept(task.gang().listener(), nullptr, nullptr) < 0) _exit(71);
    }
    return;
  }
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(std::atoi(place.c_str() + colon + 1)));
  const int socket = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const bool there = ::inet_pton(AF_INET, place.substr(0, colon).c_str(), &address.sin_addr) == 1 &&
                     ::connect(socket, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0;
  if (!there) _exit(71);
}

[[noreturn]] void Train(const TaskAssignment& task) {
  auto script = Script(task.task().train().spec().model());
  if (task.has_gang()) Meet(task);
  const int64_t steps = script["steps"];
  bool stop = false;
  for (int64_t step = FirstStep(task) + 1; step <= steps; ++step) {
    Pause(script["step_ms"]);
    if (script["wait_at"] == step) WaitForGo(task);
    Misbehave(script, step, task.rank());
    TrainerMessage message;
    message.mutable_metric()->set_step(step);
    message.mutable_metric()->set_loss(1.0 / static_cast<double>(step));
    message.mutable_metric()->set_trained_tokens(100 * step);
    Send(message);
    SendProgress(step, steps);
    if (script["checkpoint_every"] > 0 && step % script["checkpoint_every"] == 0) Checkpoint(task, step);
    for (AgentMessage command; Receive(&command, false);) stop = stop || command.has_stop();
    if (stop && script["ignore_stop"] == 0) {
      Checkpoint(task, step);
      _exit(3);
    }
  }
  if (task.rank() == 0) {
    WriteText(fs::path(task.output_directory()) / "adapter_config.json", "{}");
    WriteText(fs::path(task.output_directory()) / "adapter_model.safetensors", "weights");
    TrainerMessage message;
    message.mutable_result()->mutable_train()->set_steps(steps);
    if (const int64_t kib = script["result_kib"]; kib > 0) {
      message.mutable_result()->mutable_generate()->add_texts(std::string(static_cast<size_t>(kib) * 1024, 'x'));
    }
    Send(message);
  }
  _exit(0);
}

}  // namespace

int main(int argc, char** argv) {
  for (int i = 1; i + 1 < argc; ++i) {
    if (std::string(argv[i]) == "--fd") g_socket = std::atoi(argv[i + 1]);
  }
  AgentMessage first;
  if (g_socket < 0 || !Receive(&first, true) || !first.has_task()) return 2;
  const TaskAssignment& task = first.task();
  if (task.task().has_quantize()) {
    fs::create_directories(task.output_directory());
    WriteText(fs::path(task.output_directory()) / "nf4.bin", "nf4");
    SendProgress(0, 0);
    return 0;
  }
  if (task.prepare_only()) {
    WriteText(fs::path(task.directories().at("token_cache")) / "tokens.bin", "tokens");
    SendProgress(0, 0);
    return 0;
  }
  // A rank needs its inputs and what the first runs made.
  std::vector<std::string> needed = {"model", "dataset", "token_cache"};
  if (task.task().train().spec().quantization() == sbora::v1::QUANTIZATION_NF4) needed.push_back("nf4");
  for (const std::string& name : needed) {
    if (!task.directories().contains(name) || fs::is_empty(task.directories().at(name))) return 70;
  }
  Train(task);
}
