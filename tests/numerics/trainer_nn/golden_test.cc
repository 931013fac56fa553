// Our model against files that transformers and PEFT wrote (scripts/numerics/make_reference.py): logits within 1e-3,
// losses within 1e-3, SBoRA gradients within 1e-5 (relative to the largest) of LoRA with a frozen one-hot factor, LoRA
// and DoRA gradients within 1e-5 of PEFT's own, all weights' gradients and three AdamW steps of them within 1e-5 of
// transformers with torch.optim.AdamW, and the same answers of beam search.
#include <ATen/ATen.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <string>

#include "core/adapter.h"
#include "core/safetensors.h"
#include "worker/trainer/nn/generate.h"
#include "worker/trainer/nn/llama.h"
#include "worker/trainer/optim/adamw.h"

namespace sbora::trainer {
namespace {

class Golden {
 public:
  explicit Golden(const std::filesystem::path& path) : file_(Open(path)) {}

  at::Tensor Floats(const std::string& name) const { return Read(name, core::DType::kF32, at::kFloat); }
  std::vector<int32_t> Ints(const std::string& name) const {
    const at::Tensor tensor = Read(name, core::DType::kI32, at::kInt);
    const auto* data = tensor.const_data_ptr<int32_t>();
    return {data, data + tensor.numel()};
  }

 private:
  static core::SafetensorsFile Open(const std::filesystem::path& path) {
    auto file = core::SafetensorsFile::Open(path);
    SBORA_CHECK(file.ok(), "{}", file.status().ToString());
    return std::move(file).value();
  }
  at::Tensor Read(const std::string& name, core::DType dtype, at::ScalarType type) const {
    auto view = file_.Tensor(name);
    SBORA_CHECK(view.ok() && view->dtype == dtype, "{}: {}", name, view.ok() ? "dtype" : view.status().ToString());
    at::Tensor tensor = at::empty(view->shape, type);
    std::memcpy(tensor.mutable_data_ptr(), view->data.data(), view->data.size());
    return tensor;
  }
  core::SafetensorsFile file_;
};

double MaxDifference(const at::Tensor& a, const at::Tensor& b) {
  EXPECT_EQ(a.sizes(), b.sizes());
  return (a - b).abs().max().item<double>();
}

/// Lists laid end to end, as lists.
std::vector<std::vector<int64_t>> Cut(const std::vector<int32_t>& ids, const std::vector<int32_t>& lengths) {
  std::vector<std::vector<int64_t>> lists;
  auto next = ids.begin();
  for (const int32_t length : lengths) {
    lists.emplace_back(next, next + length);
    next += length;
  }
  return lists;
}

class GoldenTest : public ::testing::TestWithParam<std::string> {
 protected:
  GoldenTest()
      : dir_(std::filesystem::path(SBORA_SOURCE_DIR) / "tests/data/golden" / GetParam()),
        golden_(dir_ / "golden.safetensors") {
    auto model = LlamaModel::Load(dir_, {});
    SBORA_CHECK(model.ok(), "{}", model.status().ToString());
    model_ = std::move(model).value();
    const std::vector<int32_t> ids = golden_.Ints("ids");
    auto next = ids.begin();
    for (const int32_t length : golden_.Ints("lengths")) {
      batch_.Append(batch_.sample_ids.size(), {next, next + length});
      next += length;
    }
    for (int64_t i = 0; i < batch_.tokens(); ++i) rows_.push_back(i);
  }

  std::unique_ptr<AdapterSet> LoadAdapter(core::AdapterMethod method) const {
    const std::string prefix(core::AdapterMethodName(method));
    AdapterOptions options{.method = method, .rank = 4, .alpha = 6, .dropout = 0};
    for (int64_t layer = 0; layer < model_->config().num_layers; ++layer) {
      for (const core::LinearModule module : core::kAllLinearModules) {
        options.modules.push_back({.layer = layer, .module = module,
                                   .index = golden_.Ints(fmt::format("{}.{}.index", prefix, core::ModulePath(layer, module)))});
      }
    }
    auto adapter = AdapterSet::Create(model_->config(), options, at::kCPU);
    SBORA_CHECK(adapter.ok(), "{}", adapter.status().ToString());
    for (const AdapterModule& module : (*adapter)->modules()) {
      at::Tensor factor = module.tensors[0].value;  // SBoRA trains one
      factor.copy_(golden_.Floats(fmt::format("{}.{}.factor", prefix, module.name)));
    }
    return std::move(adapter).value();
  }

  /// LoRA or DoRA with the values that PEFT had, which names tensors as our artifact does.
  std::unique_ptr<AdapterSet> LoadPeft(core::AdapterMethod method) const {
    AdapterOptions options{.method = method, .rank = 4, .alpha = 6};
    for (int64_t layer = 0; layer < model_->config().num_layers; ++layer) {
      for (const core::LinearModule module : core::kAllLinearModules) {
        options.modules.push_back({.layer = layer, .module = module});
      }
    }
    auto adapter = AdapterSet::Create(model_->config(), options, at::kCPU);
    SBORA_CHECK(adapter.ok(), "{}", adapter.status().ToString());
    for (const AdapterModule& module : (*adapter)->modules()) {
      for (const AdapterTensor& tensor : module.tensors) {
        at::Tensor value = tensor.value;
        value.copy_(golden_.Floats(fmt::format("{}.{}", core::AdapterMethodName(method), tensor.spec.name)));
      }
    }
    return std::move(adapter).value();
  }

  std::filesystem::path dir_;
  Golden golden_;
  std::unique_ptr<LlamaModel> model_;
  PackedBatch batch_;
  std::vector<int64_t> rows_;
};

TEST_P(GoldenTest, BaseLogitsAndLossEqualTransformers) {
  EXPECT_LT(MaxDifference(model_->Logits(batch_, rows_, nullptr), golden_.Floats("logits")), 1e-3);
  EXPECT_NEAR(model_->ForwardLoss(batch_, nullptr, {}).sum.item<double>(), golden_.Floats("loss").item<double>(), 1e-3);
}

TEST_P(GoldenTest, SboraEqualsPeftLoraWithAFrozenOneHotFactor) {
  for (const auto method : {core::AdapterMethod::kSboraFa, core::AdapterMethod::kSboraFb}) {
    const std::string prefix(core::AdapterMethodName(method));
    SCOPED_TRACE(prefix);
    const auto adapter = LoadAdapter(method);
    EXPECT_LT(MaxDifference(model_->Logits(batch_, rows_, adapter.get()), golden_.Floats(prefix + ".logits")), 1e-3);
    const LossResult loss = model_->ForwardLoss(batch_, adapter.get(), {.training = true, .seed = 0, .epoch = 0});
    EXPECT_NEAR(loss.sum.item<double>(), golden_.Floats(prefix + ".loss").item<double>(), 1e-3);
    // As training does: the mean over the supervised tokens.
    (loss.sum / loss.count).backward();
    for (const AdapterModule& module : adapter->modules()) {
      const at::Tensor expected = golden_.Floats(fmt::format("{}.{}.gradient", prefix, module.name)) / loss.count;
      EXPECT_LT(MaxDifference(module.tensors[0].gradient, expected), 1e-5) << module.name;
      EXPECT_GT(expected.abs().max().item<double>(), 1e-3) << module.name;
    }
  }
}

TEST_P(GoldenTest, BeamSearchEqualsTransformers) {
  const Golden golden(dir_ / "beams.safetensors");
  const std::vector<std::vector<int64_t>> prompts = Cut(golden.Ints("prompts"), golden.Ints("prompt_lengths"));
  const std::vector<int32_t> ends = golden.Ints("end_tokens");
  int64_t stopped = 0;
  for (const int64_t beams : {2, 4}) {
    const auto expected =
        Cut(golden.Ints(fmt::format("beams{}.answers", beams)), golden.Ints(fmt::format("beams{}.lengths", beams)));
    for (const int64_t batch : {1, 3}) {
      const auto found = Generate(*model_, nullptr, prompts,
                                  {.max_new_tokens = golden.Ints("max_new_tokens")[0],
                                   .eos_ids = {ends.begin(), ends.end()},
                                   .batch_size = batch,
                                   .num_beams = beams});
      ASSERT_TRUE(found.ok()) << found.status().ToString();
      for (size_t i = 0; i < prompts.size(); ++i) {
        EXPECT_EQ((*found)[i].ids, expected[i]) << beams << " beams, batches of " << batch << ", prompt " << i;
        stopped += (*found)[i].finish == FinishReason::kStop ? 1 : 0;
      }
    }
  }
  EXPECT_GT(stopped, 0);  // an end token was met, not the limit alone
}

class PeftGoldenTest : public GoldenTest {};

TEST_P(PeftGoldenTest, LoraAndDoraEqualPeft) {
  for (const auto method : {core::AdapterMethod::kLora, core::AdapterMethod::kDora}) {
    const std::string prefix(core::AdapterMethodName(method));
    SCOPED_TRACE(prefix);
    const auto adapter = LoadPeft(method);
    const at::Tensor adapted = model_->Logits(batch_, rows_, adapter.get());
    EXPECT_LT(MaxDifference(adapted, golden_.Floats(prefix + ".logits")), 1e-3);
    EXPECT_GT(MaxDifference(adapted, golden_.Floats("logits")), 0.1);
    const LossResult loss = model_->ForwardLoss(batch_, adapter.get(), {.training = true, .seed = 0, .epoch = 0});
    EXPECT_NEAR(loss.sum.item<double>(), golden_.Floats(prefix + ".loss").item<double>(), 1e-3);
    (loss.sum / loss.count).backward();
    for (const AdapterModule& module : adapter->modules()) {
      for (const AdapterTensor& tensor : module.tensors) {
        const at::Tensor expected = golden_.Floats(fmt::format("{}.{}.gradient", prefix, tensor.spec.name)) / loss.count;
        EXPECT_LT(MaxDifference(tensor.gradient, expected), 1e-5) << tensor.spec.name;
        EXPECT_GT(expected.abs().max().item<double>(), 1e-4) << tensor.spec.name;
      }
    }
    auto merged = LlamaModel::Load(dir_, {});
    ASSERT_TRUE(merged.ok()) << merged.status();
    for (const AdapterModule& module : adapter->modules()) {
      at::Tensor weight = (*merged)->Weight(module.layer, module.module);
      weight.copy_(adapter->Merged(module, weight));
    }
    EXPECT_LT(MaxDifference((*merged)->Logits(batch_, rows_, nullptr), golden_.Floats(prefix + ".merged_logits")), 1e-3);
  }
}

class FullGoldenTest : public GoldenTest {};

TEST_P(FullGoldenTest, AllGradientsAndThreeAdamWStepsEqualTransformers) {
  const Golden golden(dir_ / "full.safetensors");
  const auto full = model_->TrainAllWeights();
  ASSERT_TRUE(full.ok()) << full.status();
  AdamW optimizer((*full)->parameters(), {.weight_decay = 1.0});  // as in make_reference.py, which says why
  const at::Tensor losses = golden.Floats("losses");
  for (int64_t step = 0; step < losses.numel(); ++step) {
    (*full)->ZeroGradients();
    const LossResult loss = model_->ForwardLoss(batch_, nullptr, {.training = true});
    EXPECT_NEAR(loss.sum.item<double>() / static_cast<double>(loss.count), losses[step].item<double>(), 1e-5);
    (loss.sum / loss.count).backward();
    if (step == 0) {
      for (const FullWeights::Entry& entry : (*full)->entries()) {
        const at::Tensor expected = golden.Floats("gradient." + entry.spec.name);
        EXPECT_LT(MaxDifference((*full)->Gradient(entry), expected), 1e-5) << entry.spec.name;
        EXPECT_GT(expected.abs().max().item<double>(), 1e-4) << entry.spec.name;
      }
    }
    optimizer.Step((*full)->parameters(), (*full)->gradients(), loss.sum, /*learning_rate=*/1e-4, /*max_gradient_norm=*/1.0);
  }
  EXPECT_LT(losses[2].item<double>(), losses[0].item<double>());
  for (const FullWeights::Entry& entry : (*full)->entries()) {
    EXPECT_LT(MaxDifference((*full)->Value(entry), golden.Floats("weight." + entry.spec.name)), 1e-5) << entry.spec.name;
  }
}

INSTANTIATE_TEST_SUITE_P(Heads, FullGoldenTest, ::testing::Values("plain", "tied_linear"),
                         [](const auto& info) { return info.param; });

INSTANTIATE_TEST_SUITE_P(Plain, PeftGoldenTest, ::testing::Values("plain"), [](const auto& info) { return info.param; });

INSTANTIATE_TEST_SUITE_P(Variants, GoldenTest, ::testing::Values("plain", "tied_linear", "llama3"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace sbora::trainer
