#include "worker/trainer/nn/layer_pass.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <iterator>

#include "worker/trainer/ops/adapter_linear.h"
#include "worker/trainer/ops/frozen_layers.h"
#include "worker/trainer/ops/recomputed.h"
#include "worker/trainer/ops/sbora_linear.h"

namespace sbora::trainer {
namespace {

at::Tensor Linear(const LayerPass& pass, int64_t number, core::LinearModule module, const at::Tensor& x_TI) {
  const auto layer = static_cast<size_t>(number);
  const auto position = static_cast<size_t>(module);
  const ops::LinearWeight& w_OI = pass.weights->layers[layer].linear[position];
  if (pass.gradients != nullptr) {
    return ops::TrainedLinear(x_TI, w_OI.Dense(), pass.GradientOf(pass.gradients->layers[layer].linear[position]));
  }
  const AdapterModule* adapted = pass.adapter == nullptr ? nullptr : pass.adapter->Find(number, module);
  if (adapted == nullptr) return ops::FrozenLinear(x_TI, w_OI, pass.input_gradient);
  return ops::AdapterLinear(x_TI, w_OI, *pass.adapter, *adapted, pass.dropout, pass.train);
}

at::Tensor RunLayer(const LayerPass& pass, int64_t number, const at::Tensor& input_TH) {
  using core::LinearModule;
  const LlamaWeights::Layer& layer = pass.weights->layers[static_cast<size_t>(number)];
  const double eps = pass.config->rms_norm_eps;
  const int64_t head_dim = pass.config->head_dim;
  at::Tensor attention_gradient_H;
  at::Tensor mlp_gradient_H;
  if (pass.gradients != nullptr) {
    const LlamaGradients::Layer& gradients = pass.gradients->layers[static_cast<size_t>(number)];
    attention_gradient_H = gradients.attention_norm_H;
    mlp_gradient_H = gradients.mlp_norm_H;
  }
  const auto linear = [&](LinearModule module, const at::Tensor& x_TI) { return Linear(pass, number, module, x_TI); };
  const at::Tensor n_TH = ops::RmsNorm(input_TH, layer.attention_norm_H, eps, attention_gradient_H);
  const at::Tensor q = ops::Rope(linear(LinearModule::kQ, n_TH), pass.cos_TD2, pass.sin_TD2, head_dim);
  const at::Tensor k = ops::Rope(linear(LinearModule::kK, n_TH), pass.cos_TD2, pass.sin_TD2, head_dim);
  const at::Tensor v = linear(LinearModule::kV, n_TH);
  const at::Tensor o_TH = linear(LinearModule::kO, pass.attend(number, q, k, v));
  const auto [h_TH, m_TH] = ops::AddRmsNorm(input_TH, o_TH, layer.mlp_norm_H, eps, mlp_gradient_H);
  const at::Tensor gate_TF = linear(LinearModule::kGate, m_TH);
  const at::Tensor up_TF = linear(LinearModule::kUp, m_TH);
  return h_TH + linear(LinearModule::kDown, ops::SwiGlu(gate_TF, up_TF));
}

bool TrainsIn(const LayerPass& pass, int64_t layer) {
  if (pass.gradients != nullptr || pass.input_gradient) return true;
  return pass.adapter != nullptr &&
         std::any_of(std::begin(core::kAllLinearModules), std::end(core::kAllLinearModules),
                     [&](core::LinearModule module) { return pass.adapter->Find(layer, module) != nullptr; });
}

}  // namespace

at::Tensor RunLayers(const std::shared_ptr<const LayerPass>& pass, at::Tensor h_TH) {
  for (int64_t layer = 0; layer < pass->config->num_layers; ++layer) {
    if (pass->recompute) {
      h_TH = ops::Recomputed(h_TH, TrainsIn(*pass, layer),
                             [pass, layer](const at::Tensor& input_TH) { return RunLayer(*pass, layer, input_TH); });
    } else {
      h_TH = RunLayer(*pass, layer, h_TH);
    }
    if (*pass->layer_done) (*pass->layer_done)();
  }
  return h_TH;
}

}  // namespace sbora::trainer
