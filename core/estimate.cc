#include "core/estimate.h"

#include <algorithm>
#include <functional>
#include <numeric>
#include <vector>

#include "common/check.h"
#include "core/compute_form.h"

namespace sbora::core {
namespace {

constexpr int64_t kFloatBytes = 4;
constexpr int64_t kLargestMomentBytes = 2 * kFloatBytes;  // of an element: m and v in float32
constexpr int64_t kChunkRows = 128;  // ops::ChunkedCrossEntropy's default
constexpr int64_t kIndexCopies = 2;  // a host vector and a tensor
// NF4: a nibble a weight, one 8-bit scale for 64 weights, one float32 for 256 scales (and one offset a tensor).
constexpr double kNf4BytesPerWeight = 0.5 + 4.0 / 64;
constexpr double kNf4DoubleBytesPerWeight = 0.5 + 1.0 / 64 + 4.0 / (64 * 256);  // scales quantised again

bool IsTrained(const AdapterSpec& adapter, int64_t layer, LinearModule module) {
  return adapter.method == AdapterMethod::kFull || IsTarget(adapter.placement(), layer, module);
}

/// Walks the layers as LlamaModel does, knowing which tensors require a gradient: what comes before the first adapted
/// module is not differentiated.
///
/// visit.BeginLayer(), visit.Norm(grad), visit.Linear(layer, module, x_grad, x_kept_already) -> true when the whole input is now kept,
/// visit.Attention(grad), visit.SwiGlu(grad).
template <typename Visit>
void WalkLayers(const ModelConfig& model, const AdapterSpec& adapter, Visit& visit) {
  bool grad = adapter.method == AdapterMethod::kFull;  // of the residual stream
  for (int64_t layer = 0; layer < model.num_layers; ++layer) {
    const auto linear = [&](LinearModule module, bool x_grad, bool& x_kept) {
      x_kept |= visit.Linear(layer, module, x_grad, x_kept);
      return x_grad || IsTrained(adapter, layer, module);
    };
    visit.BeginLayer();
    visit.Norm(grad);
    bool x_kept = false;
    bool attention_grad = false;
    for (const LinearModule m : {LinearModule::kQ, LinearModule::kK, LinearModule::kV}) {
      attention_grad |= linear(m, grad, x_kept);
    }
    visit.Attention(attention_grad);
    bool out_kept = attention_grad;  // attention keeps its output, which is o's input
    grad |= linear(LinearModule::kO, attention_grad, out_kept);
    visit.Norm(grad);
    x_kept = false;
    bool mlp_grad = false;
    for (const LinearModule m : {LinearModule::kGate, LinearModule::kUp}) mlp_grad |= linear(m, grad, x_kept);
    visit.SwiGlu(mlp_grad);
    x_kept = false;
    grad |= linear(LinearModule::kDown, mlp_grad, x_kept);
  }
}

/// Bytes a token.
struct KeptBytes {
  const ModelConfig& model;
  const AdapterSpec& adapter;
  int64_t element;
  int64_t bytes = 0;
  int64_t layer_start = 0;
  int64_t largest_layer = 0;  // of those that a BeginLayer follows

  void BeginLayer() {
    largest_layer = std::max(largest_layer, bytes - layer_start);
    layer_start = bytes;
  }
  void Norm(bool grad) {
    if (grad) bytes += model.hidden_size * element + kFloatBytes;
  }
  void Attention(bool grad) {
    if (!grad) return;
    const int64_t query = model.num_heads * model.head_dim;
    const int64_t key = model.num_kv_heads * model.head_dim;
    bytes += (2 * query + 2 * key) * element + model.num_heads * kFloatBytes;
  }
  void SwiGlu(bool grad) {
    if (grad) bytes += 2 * model.intermediate_size * element;
  }
  bool Linear(int64_t layer, LinearModule module, bool, bool x_kept) {
    if (!IsTrained(adapter, layer, module)) return false;
    const ModuleShape shape = LinearModuleShape(model, module);
    const int64_t rank = RankOf(adapter.placement(), layer, module);
    if (adapter.method == AdapterMethod::kSboraFa) {
      bytes += rank * element;
      return false;
    }
    if (adapter.frozen_a != FrozenFactor::kNone) {  // its gradient alone would need the input
      bytes += rank * element;
      return false;
    }
    if (!x_kept) bytes += shape.in_features * element;
    const bool low_rank = adapter.method == AdapterMethod::kLora || adapter.method == AdapterMethod::kDora;
    if (low_rank) bytes += rank * element;
    if (adapter.method == AdapterMethod::kDora) bytes += shape.out_features * element;
    return true;
  }
};

/// Multiply-adds a token of the linear layers.
struct LinearFlops {
  const ModelConfig& model;
  const AdapterSpec& adapter;
  bool recompute;  // a second forward pass
  double multiply_adds = 0;
  double attention_passes = 0;  // layers, a backward pass counted as 2.5 forward passes

  void BeginLayer() {}
  void Norm(bool) {}
  void SwiGlu(bool) {}
  void Attention(bool grad) { attention_passes += (grad ? 3.5 : 1.0) + (recompute ? 1.0 : 0.0); }
  bool Linear(int64_t layer, LinearModule module, bool x_grad, bool) {
    const ModuleShape shape = LinearModuleShape(model, module);
    const auto d = static_cast<double>(shape.out_features);
    const auto k = static_cast<double>(shape.in_features);
    const auto r = static_cast<double>(RankOf(adapter.placement(), layer, module));
    const double passes = (x_grad ? 2 : 1) + (recompute ? 1 : 0);  // forward, input gradient, forward again
    multiply_adds += passes * d * k;
    if (!IsTrained(adapter, layer, module)) return false;
    switch (adapter.method) {
      case AdapterMethod::kSboraFa: multiply_adds += (passes + 1) * d * r; break;
      case AdapterMethod::kSboraFb: multiply_adds += (passes + 1) * k * r; break;
      case AdapterMethod::kDora:
        if (adapter.dropout > 0) multiply_adds += passes * d * k;  // the masked input has a product of its own
        [[fallthrough]];
      case AdapterMethod::kLora:
        multiply_adds += (recompute ? 4 : 3) * d * r + (passes + (adapter.frozen_a == FrozenFactor::kNone ? 1 : 0)) * k * r;
        break;
      case AdapterMethod::kFull: multiply_adds += d * k; break;
    }
    return false;
  }
};

int64_t WeightBytes(const ModelConfig& model, const JobSpec& spec, int64_t element) {
  if (spec.quantization == Quantization::kNone) return ParameterCount(model) * element;
  int64_t linear = 0;
  for (const LinearModule module : kAllLinearModules) {
    const ModuleShape shape = LinearModuleShape(model, module);
    linear += shape.out_features * shape.in_features * model.num_layers;
  }
  const double per_weight = spec.double_quantization ? kNf4DoubleBytesPerWeight : kNf4BytesPerWeight;
  return static_cast<int64_t>(static_cast<double>(linear) * per_weight) + (ParameterCount(model) - linear) * element;
}

int64_t ScratchBytes(const ModelConfig& model, const JobSpec& spec, const StepLoad& load, int64_t element) {
  // Logits of one chunk, which become their gradient, or the gradients of gate, up and their product in the last block.
  int64_t loss = std::min(kChunkRows, load.supervised_tokens) * model.vocab_size * element;
  if (spec.adapter.method == AdapterMethod::kFull) {  // the head's gradient, until the backward pass takes it over
    loss += model.vocab_size * model.hidden_size * kFloatBytes;
  }
  const int64_t mlp = load.tokens * (4 * model.intermediate_size + 2 * model.hidden_size) * element;
  int64_t scratch = std::max(loss, mlp);
  if (spec.adapter.dropout > 0 && spec.adapter.method != AdapterMethod::kSboraFa) {
    scratch += 2 * load.tokens * model.intermediate_size * kFloatBytes;  // the mask of all features, and x times it
  }
  if (spec.quantization == Quantization::kNf4) {
    scratch += std::max(model.intermediate_size, model.num_heads * model.head_dim) * model.hidden_size * element;
  }
  return scratch;
}

}  // namespace

OperationCounts LinearOperations(AdapterMethod method, const ModuleShape& shape, int64_t rank) {
  const auto [d, k] = shape;
  const int64_t r = rank;
  OperationCounts counts{.multiplications = d * k, .additions = d * (k - 1)};
  switch (method) {
    case AdapterMethod::kSboraFa:
      counts.multiplications += d * r;
      counts.additions += d * (r - 1) + d;
      break;
    case AdapterMethod::kSboraFb:
      counts.multiplications += k * r;
      counts.additions += r * (k - 1) + r;
      break;
    case AdapterMethod::kDora: counts.multiplications += d; [[fallthrough]];
    case AdapterMethod::kLora:
      counts.multiplications += (k + d) * r;
      counts.additions += r * (k - 1) + d * (r - 1) + d;
      break;
    case AdapterMethod::kFull: break;
  }
  return counts;
}

int64_t OptimizerBytes(const ModelConfig& model, const AdapterSpec& adapter, OptimizerKind optimizer) {
  int64_t bytes = 0;
  const auto add = [&](const std::vector<int64_t>& shape) {
    const int64_t elements = std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
    const bool in_8_bits = optimizer == OptimizerKind::kAdamW8Bit && elements >= kMin8BitElements;
    const int64_t blocks = (elements + k8BitBlock - 1) / k8BitBlock;
    bytes += 2 * (in_8_bits ? elements + blocks * kFloatBytes : elements * kFloatBytes);
  };
  if (adapter.method == AdapterMethod::kFull) {
    for (const TensorSpec& spec : ExpectedTensors(model)) add(spec.shape);
    return bytes;
  }
  for (const AdaptedModule& each : AdaptedModules(model, adapter.placement())) {
    const AdapterForm form{adapter.method, each.rank, adapter.frozen_a};
    for (const ModuleTensor& tensor : ModuleTensors(form, each.layer, each.module, LinearModuleShape(model, each.module))) {
      if (tensor.trained) add(tensor.shape);
    }
  }
  return bytes;
}

StepLoad FullLoad(const JobSpec& spec, bool cuda) {
  const int64_t tokens = spec.training.micro_batch_size * spec.data.cutoff_tokens;
  return {.cuda = cuda, .tokens = tokens, .supervised_tokens = tokens, .samples = spec.training.micro_batch_size,
          .gradient_checkpointing = spec.training.gradient_checkpointing};
}

int64_t KeptActivationBytes(const ModelConfig& model, const AdapterSpec& adapter, const StepLoad& load,
                            int64_t element_bytes) {
  KeptBytes kept{.model = model, .adapter = adapter, .element = element_bytes};
  WalkLayers(model, adapter, kept);
  kept.BeginLayer();  // ends the last one
  if (load.gradient_checkpointing) {
    // Each layer's input; and all that one layer keeps, whose first norm shares that input.
    const int64_t input = model.hidden_size * element_bytes;
    const bool shared = model.num_layers > 1 || adapter.method == AdapterMethod::kFull;
    kept.bytes = model.num_layers * input + kept.largest_layer - (shared ? input : 0);
  }
  const int64_t angles = load.tokens * model.head_dim * kFloatBytes;  // cosines and sines, head_dim / 2 each
  // The last norm keeps its input, the loss the gradient of its own.
  const int64_t head = load.supervised_tokens * (2 * model.hidden_size * element_bytes + kFloatBytes);
  return load.tokens * kept.bytes + angles + head;
}

MemoryEstimate EstimateMemory(const ModelConfig& model, const JobSpec& spec, const StepLoad& load) {
  const AdapterSpec& adapter = spec.adapter;
  const bool full = adapter.method == AdapterMethod::kFull;  // float32 on every device
  const int64_t element = load.cuda && !full && spec.compute_dtype != ComputeDtype::kFloat32 ? 2 : kFloatBytes;
  const std::vector<AdaptedModule> modules = full ? std::vector<AdaptedModule>() : AdaptedModules(model, adapter.placement());
  const auto count = [&](FrozenFactor frozen) {
    return full ? ParameterCount(model) : TrainableParameters(adapter.method, modules, frozen);
  };
  const int64_t trained = count(adapter.frozen_a);
  MemoryEstimate memory;
  memory.weights = WeightBytes(model, spec, element);
  const int64_t stored = count(FrozenFactor::kNone);  // a frozen A included
  memory.adapter = full ? 0 : stored * kFloatBytes;   // the weights themselves are trained
  if (UsesIndices(adapter.method)) {
    for (const AdaptedModule& each : modules) {
      memory.adapter += kIndexCopies * each.rank * static_cast<int64_t>(sizeof(int32_t));
    }
  }
  const ComputeFormFacts facts{.method = adapter.method, .dropout = adapter.dropout,
                               .quantized_base = spec.quantization != Quantization::kNone, .float32 = element == kFloatBytes};
  if (ChooseComputeForm(facts) == ComputeForm::kMerged) memory.adapter += trained * kFloatBytes;  // W0's region, as large
  if (spec.keep_best) memory.adapter += trained * kFloatBytes;
  memory.gradients = trained * kFloatBytes;
  memory.optimizer = OptimizerBytes(model, adapter, spec.training.optimizer);
  if (load.cuda && spec.training.paged_optimizer) {
    memory.optimizer = std::min(memory.optimizer, 2 * kPageElements * kLargestMomentBytes);
  }
  memory.activations = KeptActivationBytes(model, adapter, load, element);
  memory.scratch = ScratchBytes(model, spec, load, element);
  if (load.cuda) return memory;
  memory.runtime = kCpuRuntimeBytes;
  memory.loading = WeightBytes(model, spec, DTypeSize(model.dtype)) + memory.weights + memory.runtime;
  return memory;
}

double EstimateFlops(const ModelConfig& model, const AdapterSpec& adapter, const StepLoad& load) {
  SBORA_CHECK(load.samples > 0, "a micro-batch of {} samples", load.samples);
  LinearFlops linear{.model = model, .adapter = adapter, .recompute = load.gradient_checkpointing};
  WalkLayers(model, adapter, linear);
  const auto tokens = static_cast<double>(load.tokens);
  const double length = tokens / static_cast<double>(load.samples);
  const auto query = static_cast<double>(model.num_heads * model.head_dim);
  // Scores and their product with v over the half of the context that is before a token: 2 * query * length / 2.
  const double attention = linear.attention_passes * query * length;
  const double head = 2.0 * static_cast<double>(model.vocab_size) * static_cast<double>(model.hidden_size);
  const double full_head = adapter.method == AdapterMethod::kFull ? 1.5 * head : head;
  return 2.0 * (tokens * (linear.multiply_adds + attention) + static_cast<double>(load.supervised_tokens) * full_head);
}

}  // namespace sbora::core
