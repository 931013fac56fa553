#include "tests/testing/service.h"

#include <signal.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "common/status_macros.h"

namespace sbora::testing {
namespace {

constexpr std::chrono::seconds kStartLimit(120);  // of a program that reads its libraries from a busy disk

std::filesystem::path ProgramPath(const std::string& name) {
  return std::filesystem::path(SBORA_BINARY_DIR) / "bin" / name;
}

/// Waits for the ready file of a program that was just started.
StatusOr<nlohmann::json> WaitReady(Program& program, const std::filesystem::path& file, const std::filesystem::path& log) {
  WaitUntil([&] { return std::filesystem::exists(file) || !program.running(); }, kStartLimit);
  const auto text = ReadFile(file, 1 << 16);
  if (!text.ok()) {
    const auto tail = ReadFile(log, 1 << 20);
    return Unavailable("NOT_READY", fmt::format("{} did not become ready: {}", file.stem().string(),
                                                tail.ok() ? tail->substr(tail->size() > 2000 ? tail->size() - 2000 : 0) : ""));
  }
  return nlohmann::json::parse(*text, nullptr, false);
}

std::string Tail(const std::filesystem::path& file) {
  const auto text = ReadFile(file, 64 << 20);
  if (!text.ok()) return text.status().ToString();
  return text->substr(text->size() > 4000 ? text->size() - 4000 : 0);
}

}  // namespace

StatusOr<std::unique_ptr<Service>> Service::Create() {
  SBORA_ASSIGN_OR_RETURN(TempDirectory directory,
                         TempDirectory::Create(std::filesystem::temp_directory_path(), "sbora-service"));
  return std::unique_ptr<Service>(new Service(std::move(directory)));
}

Service::~Service() {
  const std::array<Program*, 3> programs = {&worker_, &second_worker_, &server_};
  for (const Program* program : programs) program->Signal(SIGKILL);
  const auto gone = [&] {
    return std::none_of(programs.begin(), programs.end(), [](Program* program) { return program->running(); }) && Trainers().empty();
  };
  WaitUntil(gone, std::chrono::seconds(60));
}

Status Service::StartServer() {
  const auto ready = directory() / "server.json";
  std::filesystem::remove(ready);
  std::vector<std::string> arguments = {"--listen", address_.empty() ? "127.0.0.1:0" : address_, "--http-listen",
                                        http_address_.empty() ? "127.0.0.1:0" : http_address_, "--data-dir",
                                        (directory() / "server").string(), "--ready-file", ready.string(),
                                        "--renew-every-seconds", "0.5", "--retry-backoff-seconds", "0.2",
                                        "--retry-backoff-max-seconds", "1"};
  arguments.insert(arguments.end(), server_arguments_.begin(), server_arguments_.end());
  SBORA_ASSIGN_OR_RETURN(server_, Program::Start(ProgramPath("sbora-server"), arguments, directory() / "server.log"));
  SBORA_ASSIGN_OR_RETURN(const nlohmann::json bound, WaitReady(server_, ready, directory() / "server.log"));
  address_ = bound.value("address", "");
  http_address_ = bound.value("httpAddress", "");
  if (client_ == nullptr) {
    client::ClientOptions options;
    options.server = address_;
    options.poll_interval = std::chrono::milliseconds(50);
    SBORA_ASSIGN_OR_RETURN(client_, client::Client::Connect(std::move(options)));
  }
  return OkStatus();
}

Status Service::StartWorkerIn(const std::string& folder, Program& worker) {
  const auto ready = directory() / (folder + ".json");
  const auto log = directory() / (folder + ".log");
  std::filesystem::remove(ready);
  std::vector<std::string> arguments = {"--server", address_, "--name", "test-" + folder, "--data-dir",
                                        (directory() / folder).string(), "--ready-file", ready.string(),
                                        "--drain-seconds", "60"};
  arguments.insert(arguments.end(), worker_arguments_.begin(), worker_arguments_.end());
  SBORA_ASSIGN_OR_RETURN(worker, Program::Start(ProgramPath("sbora-worker"), arguments, log));
  return WaitReady(worker, ready, log).status();
}

Status Service::StartBoth() {
  SBORA_RETURN_IF_ERROR(StartServer());
  return StartWorker();
}

std::vector<pid_t> Service::TrainersIn(const std::string& folder) const {
  std::vector<pid_t> trainers;
  for (const pid_t pid : FindProcesses("sbora-trainer")) {
    std::error_code error;
    const auto cwd = std::filesystem::read_symlink(fmt::format("/proc/{}/cwd", pid), error);
    if (cwd.string().starts_with((directory() / folder).string())) trainers.push_back(pid);
  }
  return trainers;
}

std::string Service::Logs() const {
  std::string text;
  for (const char* name : {"server.log", "worker.log", "second.log"}) {
    if (std::filesystem::exists(directory() / name)) text += fmt::format("{}:\n{}\n", name, Tail(directory() / name));
  }
  return text;
}

Status Service::ImportModel(const std::filesystem::path& folder, const std::string& id) {
  std::vector<client::LocalFile> files;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    files.push_back({entry.path(), entry.path().filename().string()});
  }
  SBORA_ASSIGN_OR_RETURN(const auto uploads, client_->Upload(files, {}, {}));
  v1::ImportModelRequest request;
  request.set_model_id(id);
  for (size_t i = 0; i < files.size(); ++i) {
    v1::UploadedFile& file = *request.add_files();
    file.set_path(files[i].name);
    file.set_upload(uploads[i].name());
  }
  SBORA_ASSIGN_OR_RETURN(auto operation, client_->ImportModel(std::move(request)));
  SBORA_ASSIGN_OR_RETURN(operation, client_->WaitOperation(std::move(operation), {}, {}));
  if (operation.has_error()) return Internal("IMPORT_FAILED", operation.error().message());
  return OkStatus();
}

Status Service::UploadDataset(const std::filesystem::path& file, const std::string& id) {
  SBORA_ASSIGN_OR_RETURN(const auto uploads, client_->Upload({{file, file.filename().string()}}, {}, {}));
  v1::CreateDatasetRequest request;
  request.set_dataset_id(id);
  request.set_upload(uploads.front().name());
  return client_->CreateDataset(std::move(request)).status();
}

StatusOr<v1::FineTuningJob> Service::Submit(const std::string& id, const v1::FineTuningSpec& spec) {
  v1::CreateFineTuningJobRequest request;
  request.set_fine_tuning_job_id(id);
  *request.mutable_fine_tuning_job()->mutable_spec() = spec;
  return client_->Submit(std::move(request));
}

StatusOr<v1::FineTuningJob> Service::Get(const std::string& id) {
  return client_->GetJob(client_->ResourceName("fineTuningJobs", id));
}

StatusOr<v1::FineTuningJob> Service::WaitForState(const std::string& id, v1::FineTuningJob::State state,
                                                  std::chrono::seconds limit) {
  StatusOr<v1::FineTuningJob> job = Unavailable("NOT_ASKED", "the job was never read");
  WaitUntil(
      [&] {
        job = Get(id);
        return job.ok() && (job->state() == state || client::IsTerminal(job->state()));
      },
      limit);
  SBORA_RETURN_IF_ERROR(job.status());
  if (job->state() == state) return job;
  return FailedPrecondition("WRONG_STATE",
                            fmt::format("{} is {}, not {}: {} [{}]", id, v1::FineTuningJob::State_Name(job->state()),
                                        v1::FineTuningJob::State_Name(state), job->failure().message(), job->failure().reason()));
}

Status Service::WaitForStep(const std::string& id, int64_t step, std::chrono::seconds limit) {
  StatusOr<v1::FineTuningJob> job = Unavailable("NOT_ASKED", "the job was never read");
  const bool reached = WaitUntil(
      [&] {
        job = Get(id);
        return job.ok() && (job->progress().step() >= step || client::IsTerminal(job->state()));
      },
      limit);
  SBORA_RETURN_IF_ERROR(job.status());
  if (reached && job->progress().step() >= step) return OkStatus();
  return DeadlineExceeded("STEP_NOT_REACHED", fmt::format("{} is at step {} in {}, not at {}", id, job->progress().step(),
                                                          v1::FineTuningJob::State_Name(job->state()), step));
}

StatusOr<std::string> Service::AdapterHash(const std::string& id) {
  SBORA_ASSIGN_OR_RETURN(const v1::Adapter adapter, client_->GetAdapter(client_->ResourceName("adapters", id)));
  for (const v1::File& file : adapter.files()) {
    if (file.path() == "adapter_model.safetensors") return file.sha256();
  }
  return NotFound("NO_TENSORS", id + " has no adapter_model.safetensors");
}

}  // namespace sbora::testing
