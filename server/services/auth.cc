#include "server/services/auth.h"

#include <fmt/format.h>

#include <sstream>
#include <system_error>

#include "common/file.h"
#include "common/logging.h"
#include "common/sha256.h"
#include "common/status_macros.h"

namespace sbora::server {
namespace {

constexpr unsigned kViewer = static_cast<unsigned>(Role::kViewer);
constexpr unsigned kSubmitter = static_cast<unsigned>(Role::kSubmitter);
constexpr unsigned kWorker = static_cast<unsigned>(Role::kWorker);
constexpr unsigned kAdmin = static_cast<unsigned>(Role::kAdmin);
constexpr unsigned kRead = kViewer | kSubmitter | kAdmin;
constexpr unsigned kWrite = kSubmitter | kAdmin;
constexpr unsigned kAgent = kWorker | kAdmin;
constexpr int64_t kMaxTokenFileBytes = 1 << 20;
constexpr std::chrono::seconds kLookEvery{1};

const std::map<std::string_view, unsigned>& Table() {
  static const std::map<std::string_view, unsigned> table = {
      {"sbora.v1.ModelService/ImportModel", kWrite},
      {"sbora.v1.ModelService/GetModel", kRead},
      {"sbora.v1.ModelService/ListModels", kRead},
      {"sbora.v1.ModelService/DeleteModel", kWrite},
      {"sbora.v1.DatasetService/CreateDataset", kWrite},
      {"sbora.v1.DatasetService/GetDataset", kRead},
      {"sbora.v1.DatasetService/ListDatasets", kRead},
      {"sbora.v1.DatasetService/DeleteDataset", kWrite},
      {"sbora.v1.FineTuningService/CreateFineTuningJob", kWrite},
      {"sbora.v1.FineTuningService/GetFineTuningJob", kRead},
      {"sbora.v1.FineTuningService/ListFineTuningJobs", kRead},
      {"sbora.v1.FineTuningService/DeleteFineTuningJob", kWrite},
      {"sbora.v1.FineTuningService/CancelFineTuningJob", kWrite},
      {"sbora.v1.FineTuningService/PauseFineTuningJob", kWrite},
      {"sbora.v1.FineTuningService/ResumeFineTuningJob", kWrite},
      {"sbora.v1.FineTuningService/WatchFineTuningJob", kRead},
      {"sbora.v1.FineTuningService/ListFineTuningEvents", kRead},
      {"sbora.v1.FineTuningService/ListFineTuningCheckpoints", kRead},
      {"sbora.v1.FineTuningService/ListFineTuningMetrics", kRead},
      {"sbora.v1.FineTuningService/EstimateFineTuningJob", kRead},
      {"sbora.v1.AdapterService/GetAdapter", kRead},
      {"sbora.v1.AdapterService/ListAdapters", kRead},
      {"sbora.v1.AdapterService/DeleteAdapter", kWrite},
      {"sbora.v1.AdapterService/ExportAdapter", kWrite},
      {"sbora.v1.AdapterService/MergeAdapters", kWrite},
      {"sbora.v1.AdapterService/CompareAdapters", kRead},
      {"sbora.v1.EvaluationService/CreateEvaluationJob", kWrite},
      {"sbora.v1.EvaluationService/GetEvaluationJob", kRead},
      {"sbora.v1.EvaluationService/ListEvaluationJobs", kRead},
      {"sbora.v1.EvaluationService/CancelEvaluationJob", kWrite},
      {"sbora.v1.EvaluationService/DeleteEvaluationJob", kWrite},
      {"sbora.v1.EvaluationService/Generate", kWrite},
      {"sbora.v1.TransferService/CreateUpload", kWrite | kWorker},
      {"sbora.v1.TransferService/GetUpload", kWrite | kWorker},
      {"sbora.v1.TransferService/WriteUpload", kWrite | kWorker},
      {"sbora.v1.TransferService/FinishUpload", kWrite | kWorker},
      {"sbora.v1.TransferService/GetDownload", kRead | kWorker},
      {"sbora.v1.TransferService/Download", kRead | kWorker},
      {"sbora.v1.AdminService/GetServerInfo", kRead | kWorker},
      {"sbora.v1.AdminService/ListWorkers", kRead},
      {"sbora.v1.AdminService/DrainWorker", kAdmin},
      {"google.longrunning.Operations/ListOperations", kRead},
      {"google.longrunning.Operations/GetOperation", kRead},
      {"google.longrunning.Operations/DeleteOperation", kWrite},
      {"google.longrunning.Operations/CancelOperation", kWrite},
      {"google.longrunning.Operations/WaitOperation", kRead},
      {"sbora.worker.v1.WorkerService/Synchronize", kAgent},
      {"sbora.worker.v1.WorkerService/CommitAttempt", kAgent},
  };
  return table;
}

std::string_view RoleName(unsigned role) {
  switch (static_cast<Role>(role)) {
    case Role::kViewer: return "viewer";
    case Role::kSubmitter: return "submitter";
    case Role::kWorker: return "worker";
    case Role::kAdmin: return "admin";
  }
  return "none";
}

StatusOr<std::map<std::string, unsigned, std::less<>>> ParseTokens(const std::string& text, const std::string& path) {
  std::map<std::string, unsigned, std::less<>> tokens;
  std::istringstream lines(text);
  std::string line;
  for (int number = 1; std::getline(lines, line); ++number) {
    std::istringstream words(line);
    std::string role_name, hash, more;
    if (!(words >> role_name) || role_name.starts_with('#')) continue;
    unsigned role = 0;
    for (const unsigned candidate : {kViewer, kSubmitter, kWorker, kAdmin}) {
      if (RoleName(candidate) == role_name) role = candidate;
    }
    if (role == 0 || !(words >> hash) || !IsSha256Hex(hash) || (words >> more)) {
      return InvalidArgument("BAD_TOKEN_FILE",
                             fmt::format("{}, line {}: expected `role sha256`, where role is admin, submitter, viewer or worker and "
                                         "sha256 is the token's SHA-256 in 64 lower-case hex characters",
                                         path, number));
    }
    tokens[hash] = role;
  }
  if (tokens.empty()) return InvalidArgument("BAD_TOKEN_FILE", fmt::format("{} holds no token; nobody could call", path));
  return tokens;
}

}  // namespace

unsigned RolesAllowed(std::string_view method) {
  const auto found = Table().find(method);
  return found == Table().end() ? 0 : found->second;
}

StatusOr<std::unique_ptr<Authenticator>> Authenticator::Create(const std::filesystem::path& token_file, const Clock& clock) {
  std::unique_ptr<Authenticator> authenticator(new Authenticator(token_file, clock));
  if (!authenticator->open()) SBORA_RETURN_IF_ERROR(authenticator->Load());
  return authenticator;
}

Status Authenticator::Load() {
  std::error_code error;
  const auto modified = std::filesystem::last_write_time(token_file_, error);
  if (error) return NotFound("TOKEN_FILE_UNREADABLE", fmt::format("--token-file {}: {}", token_file_.string(), error.message()));
  SBORA_ASSIGN_OR_RETURN(const std::string text, ReadFile(token_file_, kMaxTokenFileBytes));
  SBORA_ASSIGN_OR_RETURN(auto tokens, ParseTokens(text, token_file_.string()));
  MutexLock lock(mutex_);
  role_of_hash_ = std::move(tokens);
  loaded_time_ = modified;
  return OkStatus();
}

Status Authenticator::Authorize(std::string_view bearer_token, std::string_view method) {
  if (open()) return OkStatus();
  bool changed = false;
  {
    MutexLock lock(mutex_);
    if (clock_.Now() >= next_look_) {
      next_look_ = clock_.Now() + kLookEvery;
      std::error_code error;
      changed = std::filesystem::last_write_time(token_file_, error) != loaded_time_ && !error;
    }
  }
  if (changed) {
    const Status loaded = Load();
    if (!loaded.ok()) LogWarn("The token file cannot be read again; the tokens known before stay", {{"error", loaded.ToString()}});
  }
  if (bearer_token.empty()) {
    return Unauthenticated("TOKEN_MISSING", "this server asks for a bearer token: pass --token-file");
  }
  const std::string hash = Sha256Hex(bearer_token);
  MutexLock lock(mutex_);
  const auto found = role_of_hash_.find(hash);
  if (found == role_of_hash_.end()) return Unauthenticated("TOKEN_UNKNOWN", "this server does not know the bearer token");
  if ((RolesAllowed(method) & found->second) == 0) {
    return PermissionDenied("ROLE_NOT_ALLOWED", fmt::format("the role {} may not call {}", RoleName(found->second), method))
        .WithMetadata("role", std::string(RoleName(found->second)))
        .WithMetadata("method", std::string(method));
  }
  return OkStatus();
}

}  // namespace sbora::server
