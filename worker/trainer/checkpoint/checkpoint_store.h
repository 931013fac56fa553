/// Checkpoints of a run: folders `ckpt-<step>` that are complete or not there.
///
///     CheckpointStore store(dir, layout, optimizer.StateLayout(), run_hash);
///     LoadReport report = store.LoadNewest({input_dir});
///     if (report.checkpoint) {
///       ... store.Read(*report.checkpoint, {parameters, moments, &best}) ... go on at report.checkpoint->state.step ...
///     }
///     SBORA_ASSIGN_OR_RETURN(const std::string folder, store.Save(state, {parameters, moments, best}));
///
/// A folder holds adapter.safetensors (all that is trained, under its final names, float32), optimizer.safetensors (the
/// optimiser's own tensors, with AdamW `m` and `v`: [P] float32), best_adapter.safetensors when a best was kept,
/// state.json (cursor, threads, device), and manifest.json with size and SHA-256 of each, written last. All is written
/// and fsynced under a temporary name, renamed, the parent fsynced, and read back before an older checkpoint goes. No
/// generator state exists: order and masks are functions of the step.
/// With full fine-tuning a checkpoint is three times the model: nothing here copies what is saved or read as a whole.
/// Errors are Statuses; a failed Save leaves the older checkpoints. Threading: one thread at a time.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "common/status.h"
#include "worker/trainer/checkpoint/adapter_layout.h"

namespace sbora::trainer {

/// What computes. The same build adds up in the same order only where all of this is the same.
struct ComputePlace {
  int64_t ranks = 1;
  int64_t threads = 0;      ///< of the CPU, of each rank; 0: not known
  std::string device = {};  ///< "cpu" or "cuda"
  std::string dtype = {};   ///< of activations: "float32" or "bfloat16"
  std::string form = {};    ///< core::ComputeFormName; early versions had "plain" alone

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

/// A verified folder: sizes, hashes, and the tensors that this run has.
struct FoundCheckpoint {
  std::filesystem::path folder;
  TrainState state;
  bool has_best = false;
};

/// What a checkpoint keeps.
struct CheckpointContents {
  std::span<const float> parameters;                  ///< [P]
  std::vector<std::span<const std::byte>> optimizer;  ///< as the store's optimiser layout
  std::span<const float> best;                        ///< [P], or empty
};

/// Where it goes on a resume.
struct CheckpointTarget {
  std::span<float> parameters;                  ///< [P]
  std::vector<std::span<std::byte>> optimizer;  ///< as the store's optimiser layout
  std::vector<float>* best = nullptr;           ///< becomes [P], or empty
};

struct RejectedCheckpoint {
  std::filesystem::path folder;
  Status why;
};

struct LoadReport {
  std::optional<FoundCheckpoint> checkpoint;  ///< the newest valid one
  std::vector<RejectedCheckpoint> rejected;    ///< newer ones that were not used, newest first
};

class CheckpointStore {
 public:
  /// `optimizer`: the tensors of optimizer.safetensors. `run_hash` identifies spec, data and base: a checkpoint of another
  /// run is rejected. Keeps the newest `keep`. `alive` is called often while files are read and hashed, which takes minutes
  /// for the checkpoints of full fine-tuning.
  CheckpointStore(std::filesystem::path directory, AdapterLayout layout, std::vector<core::TensorSpec> optimizer,
                  std::string run_hash, std::function<void()> alive = {}, int keep = 2);

  /// Returns the folder's name, durable and verified.
  /// Errors: RESOURCE_EXHAUSTED NO_SPACE and other file system errors; DATA_LOSS when the read-back differs.
  StatusOr<std::string> Save(const TrainState& state, const CheckpointContents& contents);

  /// Looks at this store's folders and at `others` (folders that are one checkpoint each).
  LoadReport LoadNewest(const std::vector<std::filesystem::path>& others) const;

  /// Errors: NOT_FOUND, DATA_LOSS, INVALID_ARGUMENT naming the file; FAILED_PRECONDITION CHECKPOINT_OTHER_RUN.
  StatusOr<FoundCheckpoint> Verify(const std::filesystem::path& folder) const;

  /// REQUIRED: `found` is this store's. Errors: those of reading; the target is half written then.
  Status Read(const FoundCheckpoint& found, const CheckpointTarget& target) const;

  /// Bytes that one checkpoint takes, rounded up.
  int64_t PredictedBytes(bool with_best) const;

 private:
  Status Fill(const std::filesystem::path& folder, const TrainState& state, const CheckpointContents& contents) const;
  void RemoveOld(int64_t newest_step) const;

  std::filesystem::path directory_;
  AdapterLayout layout_;
  std::vector<core::TensorSpec> optimizer_;
  std::string run_hash_;
  std::function<void()> alive_;
  int keep_;
};

}  // namespace sbora::trainer
