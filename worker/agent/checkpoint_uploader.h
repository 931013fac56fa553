/// Uploads checkpoints beside the training: one at a time, the newest wins, nothing waits for it but Flush().
#pragma once

#include <condition_variable>
#include <filesystem>
#include <optional>
#include <stop_token>
#include <string>
#include <thread>

#include "common/grpc/transfer_client.h"
#include "common/logging.h"
#include "common/mutex.h"
#include "sbora/trainer/v1/trainer.pb.h"
#include "worker/agent/agent_metrics.h"
#include "worker/agent/report_queue.h"

namespace sbora::agent {

struct CheckpointUploaderOptions {
  std::string project;
  std::filesystem::path checkpoints;  // where the trainer writes
  std::filesystem::path staging;      // links to what waits for its upload; the trainer may delete its own
  std::vector<LogField> log_fields;   // of the attempt, for the uploader's own lines
};

/// Thread-safe. The references must outlive it. Destructor: gives up what is under way.
class CheckpointUploader {
 public:
  CheckpointUploader(CheckpointUploaderOptions options, TransferClient& transfer, ReportQueue& reports,
                     AgentMetrics& metrics);
  ~CheckpointUploader();

  /// Links the checkpoint's files aside and returns; an older one that still waits is dropped.
  void Offer(const trainer::v1::CheckpointWritten& checkpoint);
  /// Waits until nothing waits or moves, or until `stop`. False when stopped.
  bool Flush(const std::stop_token& stop);

 private:
  struct Item {
    trainer::v1::CheckpointWritten checkpoint;
    std::filesystem::path folder;
  };

  void Run(const std::stop_token& stop);
  Status Upload(const Item& item, const std::stop_token& stop);

  const CheckpointUploaderOptions options_;
  TransferClient& transfer_;
  ReportQueue& reports_;
  AgentMetrics& metrics_;
  Mutex mutex_;
  std::condition_variable_any changed_;
  std::optional<Item> waiting_ SBORA_GUARDED_BY(mutex_);
  bool busy_ SBORA_GUARDED_BY(mutex_) = false;
  int64_t offered_ SBORA_GUARDED_BY(mutex_) = 0;
  std::jthread thread_;
};

/// The plain files of a folder, by name; InvalidArgument BAD_FILE_NAME for anything else in it.
StatusOr<std::vector<std::filesystem::path>> PlainFiles(const std::filesystem::path& folder);

}  // namespace sbora::agent
