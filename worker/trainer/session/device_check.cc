#include "worker/trainer/session/device_check.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/check.h"
#include "core/counter_rng.h"
#include "core/r_index.h"
#include "worker/trainer/nn/llama.h"
#include "worker/trainer/optim/adamw.h"
#include "worker/trainer/optim/adamw8bit.h"

namespace sbora::trainer {
namespace {

constexpr uint64_t kSeed = 20240707;
constexpr double kAlpha = 12;
constexpr double kDropout = 0.25;

struct Case {
  core::AdapterMethod method;
  core::Quantization quantization;
};

/// Grouped heads, sizes that are no powers of two, and wide enough for each of the kernels' vector paths.
core::ModelConfig SmallConfig() {
  core::ModelConfig config;
  config.hidden_size = 96;
  config.num_layers = 2;
  config.num_heads = 6;
  config.num_kv_heads = 2;
  config.head_dim = 16;
  config.intermediate_size = 136;
  config.vocab_size = 101;
  config.max_position_embeddings = 64;
  config.rms_norm_eps = 1e-5;
  config.tie_word_embeddings = true;
  return config;
}

/// `count` values in [-0.1, 0.1), the same everywhere.
at::Tensor Values(const std::string& name, at::IntArrayRef shape) {
  at::Tensor values = at::empty(shape, at::kFloat);
  const core::PhiloxKey key = core::DeriveKey("sbora.device_check.v1", kSeed, name);
  auto* out = values.mutable_data_ptr<float>();
  for (int64_t i = 0; i < values.numel(); ++i) {
    const core::PhiloxCounter words = core::Philox4x32({static_cast<uint32_t>(i), 0, 0, 0}, key);
    out[i] = (static_cast<float>(words[0] >> 8) / 16777216.0f - 0.5f) * 0.2f;
  }
  return values;
}

PackedBatch SmallBatch(const core::ModelConfig& config) {
  PackedBatch batch;
  uint64_t sample = 0;
  for (const int64_t length : {17, 1, 30, 9}) {
    std::vector<int64_t> ids;
    for (int64_t i = 0; i < length; ++i) ids.push_back((i * 37 + length * 11) % config.vocab_size);
    batch.Append(sample++, ids);
  }
  return batch;
}

/// Vectors of sample_mul need a multiple of 8: FA takes its vectorised kernels, FB the others.
int64_t RankOf(core::AdapterMethod method) { return method == core::AdapterMethod::kSboraFb ? 6 : 8; }

std::unique_ptr<AdapterSet> SmallAdapter(const core::ModelConfig& config, const LlamaModel& model, core::AdapterMethod method) {
  const int64_t rank = RankOf(method);
  AdapterOptions options{.method = method, .rank = rank, .alpha = kAlpha, .dropout = kDropout};
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    for (const core::LinearModule module : core::kAllLinearModules) {
      options.modules.push_back({.layer = layer, .module = module});
      if (!core::UsesIndices(method)) continue;
      const int64_t dim = core::IndexDim(method, core::LinearModuleShape(config, module));
      options.modules.back().index = core::DrawIndices(kSeed, core::ModulePath(layer, module), dim, rank).value();
    }
  }
  auto adapter = AdapterSet::Create(config, options, model.device()).value();
  const Status ready = adapter->Initialize(kSeed, [&](int64_t layer, core::LinearModule module) { return model.Weight(layer, module); });
  SBORA_CHECK(ready.ok(), "{}", ready.ToString());
  for (const AdapterModule& module : adapter->modules()) {  // zeros would hide half of the gradients
    for (const AdapterTensor& tensor : module.tensors) {
      if (tensor.spec.role == core::TensorRole::kMagnitude) continue;
      at::Tensor value = tensor.value;
      value.copy_(Values(tensor.spec.name, value.sizes()));
    }
  }
  return adapter;
}

struct Outcome {
  double loss = 0;
  std::vector<at::Tensor> gradients;  // one of each module, float64 on the host
};

Outcome Run(const Case& which, const DeviceAndDtype& place) {
  const core::ModelConfig config = SmallConfig();
  LlamaModel::Options options{.device = place.device, .dtype = place.dtype};
  options.quantization = {.kind = which.quantization, .double_quantization = true};
  const auto model = LlamaModel::Random(config, kSeed, options).value();
  const auto adapter = SmallAdapter(config, *model, which.method);
  const LossResult loss = model->ForwardLoss(SmallBatch(config), adapter.get(), {.training = true, .seed = kSeed, .epoch = 1});
  loss.sum.backward();
  Outcome outcome{.loss = loss.sum.item<double>(), .gradients = {}};
  for (const AdapterModule& module : adapter->modules()) {
    outcome.gradients.push_back(adapter->gradients().narrow(0, module.offset, module.size).to(at::kCPU, at::kDouble));
  }
  return outcome;
}

constexpr int64_t kUpdated = 3000;   // elements: three blocks of 8-bit moments and more, and float32 ones
constexpr int64_t kPageSize = 1024;  // of them
constexpr int64_t kIn8Bits = 2500;   // of them
constexpr int kOptimizerSteps = 3;

std::unique_ptr<Optimizer> SmallOptimizer(bool in_8_bits, bool paged, const at::Tensor& parameters) {
  const AdamWOptions options{.weight_decay = 0.01};
  const int64_t page = paged ? kPageSize : 0;
  if (!in_8_bits) return std::make_unique<AdamW>(parameters, options, page);
  std::vector<AdamW8Bit::Part> parts{{.offset = 0, .size = kIn8Bits}, {.offset = kIn8Bits, .size = kUpdated - kIn8Bits}};
  return std::make_unique<AdamW8Bit>(parameters, options, std::move(parts), /*min_elements=*/kIn8Bits, page);
}

/// What a few clipped steps change, float64 on the host.
at::Tensor Updates(bool in_8_bits, bool paged, at::Device device) {
  const at::Tensor start = Values("parameters", {kUpdated}).to(device);
  const at::Tensor parameters = start.clone();
  const auto optimizer = SmallOptimizer(in_8_bits, paged, parameters);
  for (int step = 0; step < kOptimizerSteps; ++step) {
    const at::Tensor gradients = Values(fmt::format("gradients.{}", step), {kUpdated}).to(device);
    optimizer->Step(parameters, gradients, at::zeros({}, start.options()), /*learning_rate=*/1e-2, /*max_gradient_norm=*/1);
  }
  return (parameters - start).to(at::kCPU, at::kDouble);
}

double Distance(const at::Tensor& found, const at::Tensor& expected) {
  return (found - expected).norm().item<double>() / expected.norm().item<double>();
}

/// Infinite where a value is not finite: NaN would compare as no difference.
double Finite(double value) { return std::isfinite(value) ? value : std::numeric_limits<double>::infinity(); }

}  // namespace

DeviceDifference DeviceTolerance(at::ScalarType dtype) {
  constexpr double kUpdate = 1e-4;
  if (dtype == at::kFloat) return {.loss = 1e-5, .gradient = 1e-3, .update = kUpdate};
  return {.loss = 1e-2, .gradient = 0.1, .update = kUpdate};
}

DeviceDifference CompareDevices(const DeviceAndDtype& reference, const DeviceAndDtype& place) {
  using core::AdapterMethod;
  using core::Quantization;
  DeviceDifference worst;
  for (const Case& which : {Case{AdapterMethod::kSboraFa, Quantization::kNone}, Case{AdapterMethod::kSboraFb, Quantization::kNone},
                            Case{AdapterMethod::kLora, Quantization::kNone}, Case{AdapterMethod::kDora, Quantization::kNf4},
                            Case{AdapterMethod::kSboraFa, Quantization::kNf4}}) {
    const Outcome expected = Run(which, reference);
    const Outcome found = Run(which, place);
    worst.loss = std::max(worst.loss, Finite(std::abs(found.loss - expected.loss) / std::abs(expected.loss)));
    for (size_t m = 0; m < expected.gradients.size(); ++m) {
      worst.gradient = std::max(worst.gradient, Finite(Distance(found.gradients[m], expected.gradients[m])));
    }
  }
  for (const bool in_8_bits : {false, true}) {
    const at::Tensor expected = Updates(in_8_bits, /*paged=*/false, reference.device);
    for (const bool paged : {false, true}) {
      worst.update = std::max(worst.update, Finite(Distance(Updates(in_8_bits, paged, place.device), expected)));
    }
  }
  return worst;
}

Status CheckDevice(const DeviceAndDtype& reference, const DeviceAndDtype& place) {
  const DeviceDifference found = CompareDevices(reference, place);
  const DeviceDifference limit = DeviceTolerance(place.dtype);
  if (found.loss <= limit.loss && found.gradient <= limit.gradient && found.update <= limit.update) return OkStatus();
  return Internal("DEVICE_CHECK_FAILED",
                  fmt::format("{} in {} does not compute what the CPU computes: loss differs by {:.2g} (limit {:.2g}), "
                              "gradients by {:.2g} (limit {:.2g}) on a small model, optimizer steps by {:.2g} (limit {:.2g}); "
                              "check driver and hardware, or use device cpu",
                              place.device.str(), c10::toString(place.dtype), found.loss, limit.loss, found.gradient,
                              limit.gradient, found.update, limit.update));
}

Status CheckDevice(const DeviceAndDtype& place) {
  return CheckDevice({.device = at::kCPU, .dtype = place.dtype}, place);
}

}  // namespace sbora::trainer
