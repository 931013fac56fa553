#include "worker/trainer/session/inference_session.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include "common/check.h"
#include "common/status_macros.h"
#include "core/full_checkpoint.h"
#include "worker/trainer/nn/generate.h"
#include "worker/trainer/nn/llama.h"
#include "worker/trainer/session/adapter_binding.h"
#include "worker/trainer/session/base_model.h"
#include "worker/trainer/session/torch_runtime.h"

namespace sbora::trainer {

struct InferenceSession::Impl {
  std::unique_ptr<LlamaModel> model;
  std::unique_ptr<AdapterSet> adapter;  // null for the base model and for a checkpoint of full fine-tuning
  TaskObserver* observer = nullptr;
};

namespace {

// Of one pass of scoring, so that memory and the time between two looks for a stop stay bounded.
constexpr int64_t kMaxScoredTokens = 4096;

Status Stopped() { return Cancelled("TASK_STOPPED", "a stop was asked for"); }

Status CheckSample(const ScoredSample& sample, size_t number, const core::ModelConfig& config) {
  if (sample.ids.empty()) return InvalidArgument("SAMPLE_EMPTY", fmt::format("sample {} has no token", number));
  if (std::ssize(sample.ids) > config.max_position_embeddings) {
    return InvalidArgument("SAMPLE_TOO_LONG", fmt::format("sample {} has {} tokens, the model reads at most {}", number,
                                                          sample.ids.size(), config.max_position_embeddings));
  }
  for (const int64_t id : sample.ids) {
    if (id >= 0 && id < config.vocab_size) continue;
    return InvalidArgument("TOKEN_OUT_OF_RANGE", fmt::format("sample {} holds token {}, the vocabulary has {}", number,
                                                             id, config.vocab_size));
  }
  return OkStatus();
}

/// Of the adapter, or of the checkpoint that full fine-tuning left.
StatusOr<std::optional<core::AdapterConfig>> AdapterOf(const InferenceSession::Options& options) {
  if (options.adapter_dir.empty()) return std::optional<core::AdapterConfig>();
  SBORA_ASSIGN_OR_RETURN(core::AdapterConfig config, core::ReadAdapterConfig(options.adapter_dir));
  return std::optional<core::AdapterConfig>(std::move(config));
}

StatusOr<core::BaseQuantization> QuantizationOf(const InferenceSession::Options& options,
                                                const std::optional<core::AdapterConfig>& adapter) {
  if (!adapter) return options.quantization ? *options.quantization : HeldBy(options.model_dir);
  const core::BaseQuantization& trained = adapter->base_quantization;
  if (!options.quantization || *options.quantization == trained) return trained;
  return FailedPrecondition("BASE_QUANTIZATION_MISMATCH",
                            fmt::format("the adapter was trained on its base held as {}, the task asks for {}",
                                        core::Describe(trained), core::Describe(*options.quantization)));
}

std::vector<bool> WithoutFirst(std::vector<bool> supervised) {
  if (!supervised.empty()) supervised.front() = false;
  return supervised;
}

}  // namespace

InferenceSession::InferenceSession(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
InferenceSession::~InferenceSession() = default;

const core::ModelConfig& InferenceSession::config() const { return impl_->model->config(); }

StatusOr<std::unique_ptr<InferenceSession>> InferenceSession::Load(const Options& options, TaskObserver& observer) {
  return Guarded([&]() -> StatusOr<std::unique_ptr<InferenceSession>> {
    SBORA_ASSIGN_OR_RETURN(const TorchPlan plan, SetUpTorch(options.device));
    auto impl = std::make_unique<Impl>();
    impl->observer = &observer;
    BaseRequest base{.model_dir = options.model_dir, .nf4_dir = options.nf4_dir, .base_hash = options.base_hash,
                     .quantization = {}};
    SBORA_ASSIGN_OR_RETURN(const auto config, AdapterOf(options));
    SBORA_ASSIGN_OR_RETURN(base.quantization, QuantizationOf(options, config));
    const bool whole = config && config->method == core::AdapterMethod::kFull;
    if (whole) {
      SBORA_RETURN_IF_ERROR(core::OpenFullCheckpoint(options.adapter_dir, options.base_hash).status());
      base.model_dir = options.adapter_dir;
    }
    SBORA_ASSIGN_OR_RETURN(impl->model, LoadBase(base, plan, observer));
    if (config && !whole) {
      SBORA_ASSIGN_OR_RETURN(impl->adapter, LoadAdapter(options.adapter_dir, impl->model->config(), options.base_hash,
                                                        plan.device));
    }
    return std::unique_ptr<InferenceSession>(new InferenceSession(std::move(impl)));
  });
}

StatusOr<std::vector<std::vector<int64_t>>> InferenceSession::Generate(
    const std::vector<std::vector<int64_t>>& prompts, const GenerationSettings& settings,
    const std::function<void(int64_t done)>& on_batch) {
  return Guarded([&]() -> StatusOr<std::vector<std::vector<int64_t>>> {
    const at::NoGradGuard no_grad;
    std::vector<std::vector<int64_t>> answers;
    const auto batch_size = static_cast<size_t>(std::max<int64_t>(1, settings.batch_size));
    for (size_t first = 0; first < prompts.size(); first += batch_size) {
      const size_t last = std::min(prompts.size(), first + batch_size);
      const std::vector<std::vector<int64_t>> batch(prompts.begin() + static_cast<std::ptrdiff_t>(first),
                                                    prompts.begin() + static_cast<std::ptrdiff_t>(last));
      const GenerateOptions options{.max_new_tokens = settings.max_new_tokens,
                                    .eos_ids = settings.eos_ids,
                                    .temperature = settings.temperature,
                                    .top_k = settings.top_k,
                                    .top_p = settings.top_p,
                                    .seed = settings.seed,
                                    .first_prompt = static_cast<int64_t>(first),
                                    .batch_size = settings.batch_size,
                                    .num_beams = settings.num_beams,
                                    .on_step = [&](int64_t) { return !impl_->observer->StopRequested(); }};
      SBORA_ASSIGN_OR_RETURN(auto generations, trainer::Generate(*impl_->model, impl_->adapter.get(), batch, options));
      if (impl_->observer->StopRequested()) return Stopped();
      for (auto& generation : generations) answers.push_back(std::move(generation.ids));
      on_batch(static_cast<int64_t>(last));
    }
    return answers;
  });
}

StatusOr<std::vector<std::vector<double>>> InferenceSession::NextTokenLogProbabilities(
    std::span<const std::vector<int64_t>> prompts, std::span<const std::vector<int64_t>> choices, int64_t batch_size,
    const std::function<void(int64_t done)>& on_batch) {
  return Guarded([&]() -> StatusOr<std::vector<std::vector<double>>> {
    SBORA_CHECK(prompts.size() == choices.size(), "{} prompts, {} lists of choices", prompts.size(), choices.size());
    std::vector<std::vector<double>> all;
    const auto step = static_cast<size_t>(std::max<int64_t>(1, batch_size));
    for (size_t first = 0; first < prompts.size();) {
      if (impl_->observer->StopRequested()) return Stopped();
      size_t last = first;
      PackedBatch batch;
      std::vector<int64_t> rows;
      for (; last < std::min(prompts.size(), first + step); ++last) {
        if (last > first && batch.tokens() + std::ssize(prompts[last]) > kMaxScoredTokens) break;
        SBORA_RETURN_IF_ERROR(CheckSample({prompts[last], {}}, last, config()));
        batch.Append(last, prompts[last]);
        rows.push_back(batch.tokens() - 1);
      }
      const at::Tensor logits_BV = impl_->model->Logits(batch, rows, impl_->adapter.get());
      SBORA_RETURN_IF_ERROR(CheckFiniteLogits(logits_BV));
      const at::Tensor log_BV = at::log_softmax(logits_BV, 1).cpu();
      for (size_t i = first; i < last; ++i) {
        const float* log_V = log_BV.const_data_ptr<float>() + static_cast<int64_t>(i - first) * log_BV.size(1);
        std::vector<double>& of_prompt = all.emplace_back();
        for (const int64_t id : choices[i]) of_prompt.push_back(double{log_V[id]});
      }
      first = last;
      on_batch(static_cast<int64_t>(last));
    }
    return all;
  });
}

StatusOr<LossTotal> InferenceSession::AnswerLoss(std::span<const ScoredSample> samples, int64_t batch_size,
                                                 const std::function<void(int64_t done)>& on_batch) {
  return Guarded([&]() -> StatusOr<LossTotal> {
    const at::NoGradGuard no_grad;
    LossTotal total;
    const auto step = static_cast<size_t>(std::max<int64_t>(1, batch_size));
    for (size_t first = 0; first < samples.size();) {
      if (impl_->observer->StopRequested()) return Stopped();
      size_t last = first;
      PackedBatch batch;
      for (; last < std::min(samples.size(), first + step); ++last) {
        const ScoredSample& sample = samples[last];
        if (last > first && batch.tokens() + std::ssize(sample.ids) > kMaxScoredTokens) break;
        SBORA_RETURN_IF_ERROR(CheckSample(sample, last, config()));
        batch.Append(last, sample.ids, WithoutFirst(sample.supervised));
      }
      if (!batch.supervised_rows.empty()) {
        const LossResult loss = impl_->model->ForwardLoss(batch, impl_->adapter.get(), {.training = false});
        total.sum += loss.sum.item<double>();
        total.tokens += loss.count;
        if (!std::isfinite(total.sum)) {
          return FailedPrecondition("NON_FINITE_LOSS", "the loss of the references is NaN or infinite: the weights of the model, or the "
                                                       "adapter's, are damaged; import the model again, or use another adapter");
        }
      }
      first = last;
      on_batch(static_cast<int64_t>(last));
    }
    return total;
  });
}

}  // namespace sbora::trainer
