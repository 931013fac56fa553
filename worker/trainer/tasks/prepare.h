/// Builds the token caches of a training run. Torch-free.
#pragma once

#include <filesystem>
#include <vector>

#include "common/status.h"
#include "core/job_spec.h"
#include "data/dataset_reader.h"
#include "worker/trainer/session/task_observer.h"

namespace sbora::trainer {

struct PrepareRequest {
  core::JobSpec spec;
  std::filesystem::path model_dir;
  std::filesystem::path dataset;             ///< file, or a folder that holds one file; empty for a mixture
  std::filesystem::path validation_dataset;  ///< the same; empty for none
  data::DatasetFormat dataset_format = data::DatasetFormat::kAuto;
  data::DatasetFormat validation_format = data::DatasetFormat::kAuto;  ///< of validation_dataset
  /// Of a mixture: files, or folders that hold one file, and formats; as many as spec.datasets and in its order.
  std::vector<std::filesystem::path> mixture;
  std::vector<data::DatasetFormat> mixture_formats;
  std::filesystem::path token_cache_dir;       ///< receives `<key>.train.tokens`
  std::filesystem::path validation_cache_dir;  ///< receives `<key>.validation.tokens` when there is validation data
};

/// Errors: those of data::BuildTokenCache; NOT_FOUND INPUT_MISSING, INVALID_ARGUMENT INPUT_AMBIGUOUS for a folder without
/// or with several files; CANCELLED when a stop is asked for.
Status PrepareTokenCaches(const PrepareRequest& request, TaskObserver& observer);

/// The one regular file of `path` (or `path` itself when it is a file) whose name ends with `suffix`.
/// Errors: NOT_FOUND INPUT_MISSING, INVALID_ARGUMENT INPUT_AMBIGUOUS naming folder and files.
StatusOr<std::filesystem::path> OnlyFile(const std::filesystem::path& path, std::string_view suffix = {});

}  // namespace sbora::trainer
