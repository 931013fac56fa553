/// Checkpoints of a run: folders `ckpt-<step>` that are complete or not there.
///
///     CheckpointStore store(dir, layout, run_hash);
///     LoadReport report = store.LoadNewest({input_dir});
///     if (report.checkpoint) { ... go on at report.checkpoint->state.step ... }
///     SBORA_ASSIGN_OR_RETURN(const std::string folder, store.Save(state, parameters, m, v, best));
///
/// A folder holds adapter.safetensors (as the artifact, float32), optimizer.safetensors (`m`, `v`: [P] float32),
/// best_adapter.safetensors when a best was kept, state.json (cursor, threads, device), and manifest.json with size and SHA-256 of
/// each, written last. All is written and fsynced under a temporary name, renamed, the parent fsynced, and read back
/// before an older checkpoint goes. No generator state exists: order and masks are functions of the step.
/// Errors are Statuses; a failed Save leaves the older checkpoints. Threading: one thread at a time.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "common/status.h"
#include "worker/trainer/checkpoint/adapter_layout.h"

namespace sbora::trainer {

/// What computes. The same build adds up in the same order only where all of this is the same.
struct ComputePlace {
  int64_t threads = 0;      ///< of the CPU; 0: not known
  std::string device = {};  ///< "cpu" or "cuda"
  std::string dtype = {};   ///< of activations: "float32" or "bfloat16"

  bool operator==(const ComputePlace&) const = default;
};

/// Where a run stands. All that is needed to go on bit-identically beside parameters and moments.
struct TrainState {
  int64_t step = 0;            ///< optimizer steps done; the next one has this number
  double epoch = 0;            ///< passes over the data done, for people
  int64_t trained_tokens = 0;
  double seconds = 0;          ///< of training, over all attempts
  double last_loss = 0;        ///< of step - 1
  std::optional<double> last_validation_loss;
  int64_t last_validation_step = 0;
  std::optional<double> best_validation_loss;
  int64_t best_step = 0;
  ComputePlace place = {};  ///< of step - 1; not known in checkpoints of early versions

  bool operator==(const TrainState&) const = default;
};

struct LoadedCheckpoint {
  std::filesystem::path folder;
  TrainState state;
  std::vector<float> parameters;       ///< [P]
  std::vector<float> first_moment;     ///< [P]
  std::vector<float> second_moment;    ///< [P]
  std::vector<float> best_parameters;  ///< [P], or empty
};

struct RejectedCheckpoint {
  std::filesystem::path folder;
  Status why;
};

struct LoadReport {
  std::optional<LoadedCheckpoint> checkpoint;  ///< the newest valid one
  std::vector<RejectedCheckpoint> rejected;    ///< newer ones that were not used, newest first
};

class CheckpointStore {
 public:
  /// `run_hash` identifies spec, data and base: a checkpoint of another run is rejected. Keeps the newest `keep`.
  CheckpointStore(std::filesystem::path directory, AdapterLayout layout, std::string run_hash, int keep = 2);

  /// Returns the folder's name, durable and verified. `best` is empty or [P].
  /// Errors: RESOURCE_EXHAUSTED NO_SPACE and other file system errors; DATA_LOSS when the read-back differs.
  StatusOr<std::string> Save(const TrainState& state, std::span<const float> parameters,
                             std::span<const float> first_moment, std::span<const float> second_moment,
                             std::span<const float> best);

  /// Looks at this store's folders and at `others` (folders that are one checkpoint each).
  LoadReport LoadNewest(const std::vector<std::filesystem::path>& others) const;

  /// Reads and verifies one folder. Errors: NOT_FOUND, DATA_LOSS, INVALID_ARGUMENT naming the file; FAILED_PRECONDITION
  /// CHECKPOINT_OTHER_RUN.
  StatusOr<LoadedCheckpoint> Load(const std::filesystem::path& folder) const;

  /// Bytes that one checkpoint takes, rounded up.
  int64_t PredictedBytes(bool with_best) const;

 private:
  Status Fill(const std::filesystem::path& folder, const TrainState& state, std::span<const float> parameters,
              std::span<const float> first_moment, std::span<const float> second_moment,
              std::span<const float> best) const;
  void RemoveOld(int64_t newest_step) const;

  std::filesystem::path directory_;
  AdapterLayout layout_;
  std::string run_hash_;
  int keep_;
};

}  // namespace sbora::trainer
