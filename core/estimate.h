/// What a fine-tuning job costs, from configurations alone: exact counts, memory by part, floating-point operations.
///
///     SBORA_RETURN_IF_ERROR(ResolveAgainstModel(model, spec));
///     const MemoryEstimate memory = EstimateMemory(model, spec, {.cuda = false, .tokens = 2048, .supervised_tokens = 900});
///     const double seconds = EstimateFlops(model, spec.adapter, load) / measured_flops_per_second;
///
/// Counts are exact. Memory follows what the trainer's operations keep (worker/trainer/ops/*.h says it for each) and was
/// measured on CPUs only; time needs a rate that a finished job has measured (docs/adr/0008). Bounds are constants below.
/// Threading: pure functions. REQUIRED: a spec that passed CheckJobSpec and ResolveAgainstModel.
#pragma once

#include <cstdint>

#include "core/job_spec.h"
#include "core/model_config.h"

namespace sbora::core {

/// Measured, float32, 2 threads: docs/benchmarks/estimate_cpu_202611.md has every run.
inline constexpr int64_t kCpuRuntimeBytes = int64_t{170} << 20;  ///< of a trainer on 8 tokens of a model of 3 million
inline constexpr double kMemoryErrorPercent = 15;  ///< of the peak, SBoRA on float32 bases; seen: -5 to +7
inline constexpr double kTimeErrorPercent = 80;    ///< the machine's changing load; under a steady one 22
/// Models whose parameter counts differ by more than this factor say nothing about each other's speed.
inline constexpr double kTimeSizeRatio = 4;

/// Of one linear layer with its adapter, forward, for one token (arXiv 2407.05413, Table 2). AdapterScale is not
/// counted, as in the paper.
struct OperationCounts {
  int64_t multiplications = 0;
  int64_t additions = 0;

  bool operator==(const OperationCounts&) const = default;
};
/// LoRA, SBoRA-FA and -FB are the paper's rows. DoRA is not in the table: LoRA's and d multiplications by m / norm (the
/// norms cost once per step, not per token). Full fine-tuning is the frozen layer alone.
OperationCounts LinearOperations(AdapterMethod method, const ModuleShape& shape, int64_t rank);

/// Of OptimizerKind::kAdamW8Bit, as in bitsandbytes: smaller tensors keep float32 moments; elements with one scale.
inline constexpr int64_t kMin8BitElements = 4096;
inline constexpr int64_t k8BitBlock = 256;
/// Elements of a page of TrainingSpec::paged_optimizer; a GPU holds two pages' state at a time.
inline constexpr int64_t kPageElements = int64_t{4} << 20;
/// Bytes of the optimiser's state: two float32 moments, or those in 8 bits with a scale each for every block.
int64_t OptimizerBytes(const ModelConfig& model, const AdapterSpec& adapter, OptimizerKind optimizer);

/// What one forward and backward pass works on.
struct StepLoad {
  bool cuda = false;              ///< bfloat16 weights and activations unless the spec says float32, or full; else float32
  int64_t tokens = 0;             ///< of one micro-batch
  int64_t supervised_tokens = 0;  ///< of those, rows that reach the head
  int64_t samples = 0;            ///< of one micro-batch; attention stays within each
  bool gradient_checkpointing = false;  ///< each layer's input is kept, and one layer's operations at a time
};

/// The largest micro-batch that a spec allows: micro_batch_size samples of cutoff_tokens, every token supervised.
StepLoad FullLoad(const JobSpec& spec, bool cuda);

/// Bytes of one rank. Parts add up to `peak`, which is at the end of the forward pass; while loading, the weights are
/// there twice (mapped file and tensors), which may be more.
struct MemoryEstimate {
  int64_t weights = 0;      ///< frozen, or all with full fine-tuning; NF4 as the spec asks for it
  int64_t adapter = 0;      ///< float32 factors, index vectors; W0's region where the adapter is merged
                            ///< (core/compute_form.h); what keep_best keeps of all that is trained
  int64_t gradients = 0;    ///< float32, of what is trained
  int64_t optimizer = 0;    ///< OptimizerBytes, or of them what a paged optimiser has on the GPU
  int64_t activations = 0;  ///< kept for the backward pass
  int64_t scratch = 0;      ///< largest transient: logits of a chunk, or the last MLP's backward pass
  int64_t runtime = 0;      ///< the program itself: code, allocator, threads. 0 on CUDA: not measured
  int64_t loading = 0;      ///< while weights are read: file pages, weights, runtime

  int64_t training() const { return weights + adapter + gradients + optimizer + activations + scratch + runtime; }
  int64_t peak() const { return training() > loading ? training() : loading; }
};
MemoryEstimate EstimateMemory(const ModelConfig& model, const JobSpec& spec, const StepLoad& load);

/// Most bytes that the operations of one micro-batch keep for its backward pass at a time. Part of EstimateMemory, apart for tests: FA
/// keeps r columns of each adapted input, FB the whole input (shared by q, k, v and by gate, up), LoRA the input and x A^T (with a frozen A
/// the latter alone),
/// DoRA also the unscaled output, full fine-tuning every input.
int64_t KeptActivationBytes(const ModelConfig& model, const AdapterSpec& adapter, const StepLoad& load,
                            int64_t element_bytes);

/// Floating-point operations (a multiply-add is two) of one micro-batch, forward (twice with gradient checkpointing, the
/// head once) and backward: frozen products and their
/// input gradients, adapter products, causal attention within samples of equal length, the head on supervised tokens.
double EstimateFlops(const ModelConfig& model, const AdapterSpec& adapter, const StepLoad& load);

}  // namespace sbora::core
