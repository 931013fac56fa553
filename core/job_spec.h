/// A fine-tuning job's specification, checked. There is one way to get one from outside: core/proto/convert.h. Everything
/// that holds a JobSpec may trust it; every default is filled in.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"
#include "core/adapter.h"
#include "core/model_config.h"

namespace sbora::core {

enum class PromptTemplate { kAuto, kAlpaca, kLlmAdapters, kPlain, kChat };
enum class LossOn { kResponse, kAll };
enum class CutoffPolicy { kTruncate, kDrop, kReject };
enum class OptimizerKind { kAdamW, kAdamW8Bit };
enum class Schedule { kConstant, kLinear, kCosine };
enum class DeviceKind { kAuto, kCpu, kCuda };
enum class ComputeDtype { kAuto, kFloat32, kBFloat16 };

struct AdapterSpec {
  AdapterMethod method = AdapterMethod::kSboraFa;
  int64_t rank = 32;    ///< 0 with kFull
  double alpha = 64.0;  ///< default 2 * rank; 0 with kFull
  double dropout = 0.0;
  std::vector<LinearModule> target_modules;  ///< distinct, in kAllLinearModules order
  uint64_t index_seed = 42;                  ///< of the index vectors, or of A as it is drawn
  bool rank_stabilized = false;
  FrozenFactor frozen_a = FrozenFactor::kNone;
  bool share_indices = false;               ///< q, k, v share one index vector, gate and up another; FA only
  std::vector<std::string> disjoint_from;   ///< adapters or jobs, as written; the coordinator resolves them to adapters
  bool disjoint_from_all = false;           ///< every adapter and unended job of the project on this base
  AdapterPattern pattern = {};              ///< ranks and alphas by module, adapted layers

  /// Borrows from this spec.
  AdapterPlacement placement() const { return {target_modules, rank, alpha, pattern}; }
};

struct DataSpec {
  PromptTemplate prompt_template = PromptTemplate::kAuto;
  LossOn loss_on = LossOn::kResponse;
  int64_t cutoff_tokens = 0;  ///< 0 until resolved against the model: the smaller of 512 and its context
  CutoffPolicy cutoff_policy = CutoffPolicy::kTruncate;
  int64_t source_cutoff_tokens = 0;
  int64_t target_cutoff_tokens = 0;
  int64_t validation_samples = 0;
};

struct TrainingSpec {
  double epochs = 1.0;
  int64_t max_steps = 0;
  int64_t batch_size = 16;       ///< samples
  int64_t micro_batch_size = 4;  ///< samples
  double learning_rate = 2e-4;
  Schedule schedule = Schedule::kLinear;
  int64_t warmup_steps = 0;
  double weight_decay = 0.0;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
  double max_gradient_norm = 1.0;
  uint64_t seed = 42;
  int64_t epoch_samples = 0;      ///< of a mixture; 0: as many as its data sets hold
  bool group_by_length = false;
  OptimizerKind optimizer = OptimizerKind::kAdamW;
  bool paged_optimizer = false;         ///< state on the host, in pages on the GPU; without effect on the CPU
  bool gradient_checkpointing = false;  ///< compute each layer again in the backward pass instead of keeping it
};

struct JobSpec {
  std::string model;    ///< as the user wrote it; the coordinator resolves it to a full name
  std::string dataset;                   ///< empty for a mixture
  std::vector<std::string> datasets;     ///< of a mixture, distinct; empty for one data set
  std::vector<double> dataset_weights;   ///< one for each of `datasets`, or empty: by their sizes
  std::string validation_dataset;
  Quantization quantization = Quantization::kNone;
  bool double_quantization = true;  ///< of NF4's scales; without effect otherwise
  AdapterSpec adapter;
  DataSpec data;
  TrainingSpec training;
  int64_t validate_every_steps = 0;
  bool keep_best = false;
  int64_t checkpoint_every_steps = 0;
  double checkpoint_every_seconds = 60.0;
  int64_t ranks = 1;
  DeviceKind device = DeviceKind::kAuto;
  ComputeDtype compute_dtype = ComputeDtype::kAuto;
  int64_t threads = 0;
  int64_t priority = 0;
  double max_queue_seconds = 0.0;
  double max_attempt_seconds = 0.0;
  double max_total_seconds = 0.0;
};

/// Makes it full fine-tuning, which has no rank, no scale and no choice of modules: rank and alpha are 0, targets all
/// seven, whatever stood there.
void TrainAllWeights(AdapterSpec& adapter);

/// What the job trains against.
BaseQuantization BaseQuantizationOf(const JobSpec& spec);

/// What adapter_config.json will say of the adapter that this trains, with how the base is held. Factors are float32.
AdapterConfig AdapterConfigOf(const JobSpec& spec, const ModelConfig& base, std::string base_model, std::string base_hash);

/// Trained elements; kFull: all weights of the model.
int64_t TrainableParameters(const ModelConfig& base, const AdapterSpec& adapter);

/// Ranges and combinations that need no model. All problems at once: INVALID_ARGUMENT INVALID_SPEC with one violation
/// for each, field paths as in FineTuningSpec (for example "spec.adapter.rank").
Status CheckJobSpec(const JobSpec& spec);

/// That the spec holds the base as the model's own files do, where those are quantised. Errors: INVALID_ARGUMENT
/// INVALID_SPEC for spec.quantization and spec.double_quantization, and for spec.adapter.method full on such a model.
Status CheckHeldAs(const BaseQuantization& model, const JobSpec& spec);

/// Fills in what depends on the model (cutoff_tokens), then checks rank against each target's width and the cutoff
/// against the context. Errors: as CheckJobSpec.
Status ResolveAgainstModel(const ModelConfig& model, JobSpec& spec);

}  // namespace sbora::core
