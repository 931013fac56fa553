// Prints tokens/s of training steps (forward, backward, zeroing; no optimiser) on SmolLM2-135M's shapes with random
// weights: 4 samples of 150 tokens, rank 32 on q, k, v, up, down.
//   trainer_step_speed [sbora_fa|sbora_fb|none] [dropout] [supervised share in percent]
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <chrono>
#include <cstdio>
#include <ctime>
#include <cstdlib>
#include <string>

#include "core/r_index.h"
#include "worker/trainer/nn/llama.h"

namespace {

sbora::core::ModelConfig SmolLm2() {
  sbora::core::ModelConfig config;
  config.hidden_size = 576;
  config.num_layers = 30;
  config.num_heads = 9;
  config.num_kv_heads = 3;
  config.head_dim = 64;
  config.intermediate_size = 1536;
  config.vocab_size = 49152;
  config.max_position_embeddings = 2048;
  config.rms_norm_eps = 1e-5;
  config.rope_theta = 100000;
  config.tie_word_embeddings = true;
  return config;
}

}  // namespace

int main(int argc, char** argv) {
  using namespace sbora::trainer;  // NOLINT: one short program
  using sbora::core::AdapterMethod;
  using sbora::core::LinearModule;
  const std::string method_name = argc > 1 ? argv[1] : "sbora_fa";
  const double dropout = argc > 2 ? std::atof(argv[2]) : 0;
  const int64_t share = argc > 3 ? std::atoi(argv[3]) : 50;
  const auto config = SmolLm2();
  auto model = LlamaModel::Random(config, 1, {});
  AdapterOptions options{.method = method_name == "sbora_fb" ? AdapterMethod::kSboraFb : AdapterMethod::kSboraFa,
                         .rank = 32, .alpha = 64, .dropout = dropout, .modules = {}};
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    for (const LinearModule module : {LinearModule::kQ, LinearModule::kK, LinearModule::kV, LinearModule::kUp, LinearModule::kDown}) {
      const int64_t dim = sbora::core::IndexDim(options.method, sbora::core::LinearModuleShape(config, module));
      options.modules.push_back({.layer = layer, .module = module,
                                 .index = *sbora::core::DrawIndices(1, sbora::core::ModulePath(layer, module), dim, 32)});
    }
  }
  auto adapter = AdapterSet::Create(config, options, at::kCPU);
  PackedBatch batch;
  for (uint64_t n = 0; n < 4; ++n) {
    std::vector<int64_t> ids;
    std::vector<bool> supervised;
    for (int64_t i = 0; i < 150; ++i) {
      ids.push_back((i * 7919 + static_cast<int64_t>(n) * 104729) % config.vocab_size);
      supervised.push_back(i > 0 && i >= 150 - 150 * share / 100);
    }
    batch.Append(n, ids, supervised);
  }
  double best = 1e9;
  double best_cpu = 1e9;
  for (int64_t step = 0; step < 5; ++step) {
    const auto start = std::chrono::steady_clock::now();
    const std::clock_t cpu = std::clock();
    (*adapter)->ZeroGradients();
    const LossResult loss = (*model)->ForwardLoss(batch, adapter->get(), {.training = true, .seed = 1, .epoch = step});
    const double forward = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    loss.sum.backward();
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    const double cpu_seconds = static_cast<double>(std::clock() - cpu) / CLOCKS_PER_SEC;
    fmt::print("step {}: {:.3f} s (forward {:.3f}), cpu {:.3f} s, loss {:.4f}\n", step, seconds, forward, cpu_seconds,
               loss.sum.item<double>() / static_cast<double>(loss.count));
    best = std::min(best, seconds);
    best_cpu = std::min(best_cpu, cpu_seconds);
  }
  fmt::print("{} dropout {} threads {}: {:.0f} tokens/s; undisturbed on {} cores at most {:.0f}\n", method_name, dropout,
             at::get_num_threads(), 600 / best, at::get_num_threads(), 600 * at::get_num_threads() / best_cpu);
  return 0;
}
