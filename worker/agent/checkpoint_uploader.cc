#include "worker/agent/checkpoint_uploader.h"

#include <fmt/format.h>
#include <pthread.h>
#include <unistd.h>

#include <algorithm>

#include "common/clock.h"
#include "common/logging.h"
#include "common/status_macros.h"
#include "worker/agent/cache.h"

namespace sbora::agent {
namespace fs = std::filesystem;

StatusOr<std::vector<fs::path>> PlainFiles(const fs::path& folder) {
  std::vector<fs::path> files;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    SBORA_RETURN_IF_ERROR(CheckFileName(it->path().filename().string()));
    if (it->is_symlink(error) || !it->is_regular_file(error)) {
      return InvalidArgument("BAD_FILE_NAME", fmt::format("{} is not a plain file", it->path().string()));
    }
    files.push_back(it->path());
  }
  if (error) return FromErrno(error.value(), fmt::format("reading {}", folder.string()));
  std::sort(files.begin(), files.end());
  return files;
}

CheckpointUploader::CheckpointUploader(CheckpointUploaderOptions options, TransferClient& transfer, ReportQueue& reports,
                                       AgentMetrics& metrics)
    : options_(std::move(options)), transfer_(transfer), reports_(reports), metrics_(metrics),
      thread_([this](const std::stop_token& stop) { Run(stop); }) {}

CheckpointUploader::~CheckpointUploader() { thread_.request_stop(); }

void CheckpointUploader::Offer(const trainer::v1::CheckpointWritten& checkpoint) {
  Item item{.checkpoint = checkpoint, .folder = {}};
  {
    MutexLock lock(mutex_);
    item.folder = options_.staging / fmt::format("{}-{}", ++offered_, checkpoint.step());
  }
  std::error_code error;
  fs::create_directories(item.folder, error);
  Status status = CheckFileName(checkpoint.directory());
  if (status.ok()) {
    auto files = PlainFiles(options_.checkpoints / checkpoint.directory());
    status = files.ok() ? OkStatus() : files.status();
    for (size_t i = 0; status.ok() && i < files->size(); ++i) {
      const fs::path target = item.folder / (*files)[i].filename();
      if (::link((*files)[i].c_str(), target.c_str()) != 0) status = FromErrno(errno, "linking a checkpoint");
    }
  }
  if (!status.ok()) {
    LogWarn("checkpoint not uploaded", {{"step", checkpoint.step()}, {"error", status.ToString()}});
    metrics_.AddCheckpointFailure("upload");
    fs::remove_all(item.folder, error);
    return;
  }
  {
    MutexLock lock(mutex_);
    if (waiting_) fs::remove_all(waiting_->folder, error);
    waiting_ = std::move(item);
  }
  changed_.notify_all();
}

bool CheckpointUploader::Flush(const std::stop_token& stop) {
  MutexLock lock(mutex_);
  return changed_.wait(lock, stop, [&]() SBORA_REQUIRES(mutex_) { return !busy_ && !waiting_; });
}

void CheckpointUploader::Run(const std::stop_token& stop) {
  pthread_setname_np(pthread_self(), "uploader");
  const LogScope scope(options_.log_fields);
  while (true) {
    Item item;
    {
      MutexLock lock(mutex_);
      if (!changed_.wait(lock, stop, [&]() SBORA_REQUIRES(mutex_) { return waiting_.has_value(); })) return;
      item = *std::move(waiting_);
      waiting_.reset();
      busy_ = true;
    }
    if (const Status status = Upload(item, stop); !status.ok() && !stop.stop_requested()) {
      LogWarn("checkpoint not uploaded; the next one will be tried",
              {{"step", item.checkpoint.step()}, {"error", status.ToString()}});
      metrics_.AddCheckpointFailure(status.reason() == "NO_SPACE" ? "no_space" : "upload");
    }
    std::error_code error;
    fs::remove_all(item.folder, error);
    {
      MutexLock lock(mutex_);
      busy_ = false;
    }
    changed_.notify_all();
  }
}

Status CheckpointUploader::Upload(const Item& item, const std::stop_token& stop) {
  const MonotonicTime start = SystemClock().Now();
  SBORA_ASSIGN_OR_RETURN(const auto files, PlainFiles(item.folder));
  worker::v1::CheckpointReport report;
  report.set_step(item.checkpoint.step());
  if (item.checkpoint.has_validation_loss()) report.set_validation_loss(item.checkpoint.validation_loss());
  int64_t bytes = 0;
  for (const fs::path& path : files) {
    SBORA_ASSIGN_OR_RETURN(v1::File file, transfer_.Upload(options_.project, path, path.filename().string(), stop));
    bytes += file.size_bytes();
    *report.add_files() = std::move(file);
  }
  reports_.Add(std::move(report));
  metrics_.AddCheckpoint(std::chrono::duration<double>(SystemClock().Now() - start).count(), bytes);
  metrics_.AddTransferred("upload", bytes);
  return OkStatus();
}

}  // namespace sbora::agent
