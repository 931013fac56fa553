/// One training run in this process, from a prepared token cache to a finished adapter folder. The torch-free border of
/// the trainer: no LibTorch type or exception crosses it.
///
///     SBORA_ASSIGN_OR_RETURN(const TrainOutcome outcome, RunTraining(request, observer));
///     if (outcome.stopped) ...   // a stop was asked for; the newest checkpoint holds the state
///
/// Of several ranks each runs this with the same request but for `gang`, in a process of its own. Only rank 0 writes output and
/// checkpoints; all return when it has. They must not differ in anything else (RANKS_DISAGREE).
/// Goes on from the newest valid checkpoint of its run, if there is one; a folder that is not valid is named in a
/// CHECKPOINT_REJECTED event and passed over. A run that was stopped, killed and resumed any number of times leaves the
/// same adapter bytes as one that was not, on one kind of machine with one thread count. A resumed run takes the thread
/// count of its checkpoint; where it cannot (fewer cores, another count in the spec, other ranks, another device, dtype or form)
/// it goes on and says so in a RESUMED_DIFFERENTLY event.
/// A COMPUTE_FORM event says how the adapted layers are computed (core/compute_form.h); the base's files are only read.
/// Errors: those of loading (model, caches, adapter); FAILED_PRECONDITION NON_FINITE (the checkpoints stay),
/// CHECKPOINT_OTHER_RUN; RESOURCE_EXHAUSTED OOM_GPU, OOM_HOST, NO_SPACE; UNIMPLEMENTED for what spec or device asks in
/// vain; INTERNAL TORCH_ERROR; of several ranks those of ProcessGroup, WORLD_SIZE and RANKS_DISAGREE.
/// Threading: one run at a time in a process; LibTorch's settings (threads, determinism) are set for good.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "common/status.h"
#include "core/job_spec.h"
#include "worker/trainer/session/device.h"
#include "worker/trainer/session/task_observer.h"

namespace sbora::trainer {

/// The region of one module, as stored with the job.
struct ModuleIndices {
  std::string module;          ///< core::ModulePath
  std::vector<int32_t> index;  ///< [r] ascending
};

struct TrainRequest {
  core::JobSpec spec;                  ///< resolved against the model
  std::vector<ModuleIndices> indices;  ///< SBoRA: one for each layer and target module; else none
  std::string base_hash;
  std::filesystem::path model_dir;
  std::filesystem::path nf4_dir;  ///< the base in NF4, when spec.quantization asks for it
  std::filesystem::path token_cache;
  std::filesystem::path validation_cache;  ///< empty: no validation
  std::filesystem::path output_dir;        ///< receives the artifact
  std::filesystem::path checkpoint_dir;
  std::vector<std::filesystem::path> resume_from;  ///< folders that are a checkpoint each; besides those in checkpoint_dir
  DevicePlan device;
  GangPlace gang;
};

struct TrainOutcome {
  bool stopped = false;  ///< ended by a stop, after a checkpoint; nothing is in output_dir
  int64_t steps = 0;
  int64_t trained_tokens = 0;
  double final_loss = 0;
  std::optional<double> validation_loss;  ///< of the weights that were kept
  int64_t kept_step = 0;
  double seconds = 0;  ///< of training, over all attempts
  double supervised_share = 0;    ///< of the data's tokens
  int64_t peak_memory_bytes = 0;  ///< of this process (rank 0), loading included
};

StatusOr<TrainOutcome> RunTraining(const TrainRequest& request, TaskObserver& observer);

}  // namespace sbora::trainer
