#include "worker/trainer/session/bench_session.h"

#include <ATen/DeviceAccelerator.h>
#include <ATen/Parallel.h>

#include <memory>
#include <utility>
#include <vector>

#include "common/clock.h"
#include "common/file.h"
#include "common/process_memory.h"
#include "common/status_macros.h"
#include "core/region_draw.h"
#include "worker/trainer/session/batch_source.h"
#include "worker/trainer/session/quiet_observer.h"
#include "worker/trainer/session/torch_runtime.h"
#include "worker/trainer/session/train_loop.h"
#include "worker/trainer/session/trainee.h"

namespace sbora::trainer {
namespace {

constexpr int64_t kMaxConfigBytes = 1 << 20;
constexpr uint64_t kWeightSeed = 1;

/// Times the steps after the warm-up.
class Stopwatch : public QuietObserver {
 public:
  Stopwatch(int64_t warmup_steps, BenchReport& report) : warmup_steps_(warmup_steps), report_(report) {}

  void OnMetrics(const StepMetrics& metrics) override {
    if (metrics.step == 1) report_.first_loss = metrics.loss;
    report_.last_loss = metrics.loss;
    if (metrics.step == warmup_steps_) {
      started_ = SystemClock().Now();
      tokens_before_ = metrics.trained_tokens;
      return;
    }
    if (metrics.step < warmup_steps_) return;
    report_.steps = metrics.step - warmup_steps_;
    report_.tokens = metrics.trained_tokens - tokens_before_;
    report_.seconds = std::chrono::duration<double>(SystemClock().Now() - started_).count();
    report_.tokens_per_second = static_cast<double>(report_.tokens) / report_.seconds;
  }

 private:
  const int64_t warmup_steps_;
  BenchReport& report_;
  MonotonicTime started_ = SystemClock().Now();
  int64_t tokens_before_ = 0;
};

StatusOr<std::vector<ModuleIndices>> Draw(const core::ModelConfig& config, const core::AdapterSpec& adapter) {
  std::vector<ModuleIndices> indices;
  if (!core::UsesIndices(adapter.method)) return indices;
  SBORA_ASSIGN_OR_RETURN(core::RegionSet regions, core::DrawRegions(config, "", adapter, {}));
  for (core::Region& region : regions) indices.push_back({std::move(region.module), std::move(region.indices)});
  return indices;
}

bool HasWeights(const std::filesystem::path& dir) {
  std::error_code error;
  return std::filesystem::exists(dir / "model.safetensors", error) ||
         std::filesystem::exists(dir / "model.safetensors.index.json", error);
}

StatusOr<std::unique_ptr<LlamaModel>> OpenModel(const BenchRequest& request, const TorchPlan& plan) {
  const std::filesystem::path& dir = request.model_dir;
  const LlamaModel::Options options{.device = plan.device, .dtype = plan.dtype, .quantization = request.quantization};
  if (HasWeights(dir)) return LlamaModel::Load(dir, options);
  SBORA_ASSIGN_OR_RETURN(const std::string text, ReadFile(dir / "config.json", kMaxConfigBytes));
  SBORA_ASSIGN_OR_RETURN(const auto config, core::ParseHfConfig(text));
  return LlamaModel::Random(config, kWeightSeed, options);
}

void ForgetPeak(at::Device device) {
  if (!device.is_cpu()) at::accelerator::resetPeakStats(device.index());
}

int64_t PeakDeviceBytes(at::Device device) {
  if (device.is_cpu()) return 0;
  constexpr auto kAll = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);
  return at::accelerator::getDeviceStats(device.index()).allocated_bytes[kAll].peak;
}

StatusOr<std::unique_ptr<Trainee>> MakeTrainee(const BenchRequest& request, const core::JobSpec& spec, LlamaModel& model) {
  if (request.frozen) return Trainee::Nothing(model);
  SBORA_ASSIGN_OR_RETURN(const auto indices, Draw(model.config(), spec.adapter));
  const core::AdapterConfig config = core::AdapterConfigOf(spec, model.config(), "", "");
  return Trainee::Create(model, spec.adapter, indices, config, {}, request.form);
}

StatusOr<BenchReport> Bench(const BenchRequest& request) {
  SBORA_ASSIGN_OR_RETURN(const TorchPlan plan, SetUpTorch(request.device));
  SBORA_ASSIGN_OR_RETURN(const auto model, OpenModel(request, plan));
  ForgetPeak(plan.device);
  core::JobSpec spec;
  spec.adapter = request.adapter;
  spec.training.batch_size = spec.training.micro_batch_size = request.micro_batch;
  spec.training.max_steps = request.warmup_steps + request.steps;
  spec.training.gradient_checkpointing = request.gradient_checkpointing;
  spec.training.optimizer = request.optimizer;
  spec.checkpoint_every_seconds = 0;
  SBORA_ASSIGN_OR_RETURN(const auto data,
                         BatchSource::Open(request.token_cache, spec.training, model->config().vocab_size));
  SBORA_ASSIGN_OR_RETURN(const auto trainee, MakeTrainee(request, spec, *model));
  const auto optimizer = MakeOptimizer(spec.training, *trainee);
  BenchReport report;
  Stopwatch stopwatch(request.warmup_steps, report);
  TrainLoop loop(spec, {.model = model.get(),
                        .adapter = trainee->adapter(),
                        .trained = &trainee->trained(),
                        .optimizer = optimizer.get(),
                        .data = data.get(),
                        .observer = &stopwatch});
  SBORA_RETURN_IF_ERROR(loop.Run().status());
  report.trainable_parameters = trainee->trained().parameter_count();
  report.form = trainee->form();
  report.frozen = request.frozen;
  report.weight_bytes = model->WeightBytes();
  report.threads = at::get_num_threads();
  report.random_weights = !HasWeights(request.model_dir);
  report.peak_memory_bytes = PeakResidentBytes();
  report.peak_device_bytes = PeakDeviceBytes(plan.device);
  return report;
}

}  // namespace

StatusOr<BenchReport> RunBench(const BenchRequest& request) {
  return Guarded([&] { return Bench(request); });
}

}  // namespace sbora::trainer
