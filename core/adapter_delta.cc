#include "core/adapter_delta.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "common/status_macros.h"

namespace sbora::core {
namespace {

bool SameBits(float a, float b) { return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b); }

/// Rounds the changed elements of a row into `out`; all others keep their bytes.
Status StoreChanged(std::span<const float> base_I, std::span<const float> sum_I, DType dtype,
                    std::span<std::byte> out) {
  const auto size = static_cast<size_t>(DTypeSize(dtype));
  for (size_t i = 0; i < base_I.size();) {
    if (SameBits(base_I[i], sum_I[i])) {
      ++i;
      continue;
    }
    size_t end = i + 1;
    while (end < base_I.size() && !SameBits(base_I[end], sum_I[end])) ++end;
    SBORA_RETURN_IF_ERROR(FromFloat(sum_I.subspan(i, end - i), dtype, out.subspan(i * size, (end - i) * size)));
    i = end;
  }
  return OkStatus();
}

}  // namespace

StatusOr<AdapterDelta> AdapterDelta::Load(const AdapterFolder& adapter, int64_t layer, LinearModule module,
                                          double weight) {
  const AdapterConfig& config = adapter.config();
  AdapterDelta delta;
  delta.method_ = config.method;
  delta.weight_ = static_cast<float>(weight);
  // At weight 1 this is the plain scale, bit for bit.
  const bool dora = config.method == AdapterMethod::kDora;
  const double scale = config.ScaleOf(layer, module);
  delta.scale_ = static_cast<float>(dora ? scale : weight * scale);
  if (UsesIndices(config.method)) {
    SBORA_ASSIGN_OR_RETURN(delta.idx_R_, adapter.Indices(layer, module));
    SBORA_ASSIGN_OR_RETURN(delta.factor_, adapter.Floats(FactorTensorName(config.method, layer, module)));
    if (config.method == AdapterMethod::kSboraFa) return delta;
    const ModuleShape shape = LinearModuleShape(config.base_config, module);
    delta.factor_row_O_.assign(static_cast<size_t>(shape.out_features), -1);
    for (size_t r = 0; r < delta.idx_R_.size(); ++r) {
      delta.factor_row_O_[static_cast<size_t>(delta.idx_R_[r])] = static_cast<int64_t>(r);
    }
    return delta;
  }
  SBORA_ASSIGN_OR_RETURN(delta.a_RI_, adapter.Floats(PeftTensorName(layer, module, "lora_A.weight")));
  SBORA_ASSIGN_OR_RETURN(delta.b_OR_, adapter.Floats(PeftTensorName(layer, module, "lora_B.weight")));
  if (dora) {
    SBORA_ASSIGN_OR_RETURN(delta.magnitude_O_, adapter.Floats(PeftTensorName(layer, module, "lora_magnitude_vector")));
  }
  return delta;
}

bool AdapterDelta::TouchesRow(size_t row) const {
  return method_ != AdapterMethod::kSboraFb || factor_row_O_[row] >= 0;
}

void AdapterDelta::AddRow(size_t row, std::span<const float> base_I, bool first, std::span<float> sum_I) const {
  if (method_ == AdapterMethod::kSboraFa) {
    const float* b_R = factor_.data() + row * idx_R_.size();
    for (size_t r = 0; r < idx_R_.size(); ++r) sum_I[static_cast<size_t>(idx_R_[r])] += scale_ * b_R[r];
  } else if (method_ == AdapterMethod::kSboraFb) {
    if (factor_row_O_[row] < 0) return;
    const float* a_I = factor_.data() + static_cast<size_t>(factor_row_O_[row]) * sum_I.size();
    for (size_t i = 0; i < sum_I.size(); ++i) sum_I[i] += scale_ * a_I[i];
  } else {
    AddDense(row, base_I, first, sum_I);
  }
}

void AdapterDelta::AddDense(size_t row, std::span<const float> base_I, bool first, std::span<float> sum_I) const {
  const size_t in_features = sum_I.size();
  const size_t rank = a_RI_.size() / in_features;
  std::vector<float> delta_I(in_features, 0.0f);
  for (size_t r = 0; r < rank; ++r) {
    const float b = b_OR_[row * rank + r];
    for (size_t i = 0; i < in_features; ++i) delta_I[i] += b * a_RI_[r * in_features + i];
  }
  if (magnitude_O_.empty()) {
    for (size_t i = 0; i < in_features; ++i) sum_I[i] += scale_ * delta_I[i];
    return;
  }
  double square = 0.0;
  for (size_t i = 0; i < in_features; ++i) {
    delta_I[i] = base_I[i] + scale_ * delta_I[i];
    square += static_cast<double>(delta_I[i]) * delta_I[i];
  }
  const auto factor = static_cast<float>(magnitude_O_[row] / std::sqrt(square));
  for (size_t i = 0; i < in_features; ++i) {
    const float merged = delta_I[i] * factor;
    sum_I[i] = first && weight_ == 1.0f ? merged : sum_I[i] + weight_ * (merged - base_I[i]);
  }
}

Status AddDeltas(std::span<const AdapterDelta> deltas, const TensorView& base, std::span<std::byte> out) {
  const auto out_features = static_cast<size_t>(base.shape[0]);
  const auto in_features = static_cast<size_t>(base.shape[1]);
  const size_t row_bytes = in_features * static_cast<size_t>(DTypeSize(base.dtype));
  std::vector<float> base_I(in_features), sum_I(in_features);
  for (size_t row = 0; row < out_features; ++row) {
    const auto touches = [row](const AdapterDelta& delta) { return delta.TouchesRow(row); };
    if (std::none_of(deltas.begin(), deltas.end(), touches)) continue;
    SBORA_RETURN_IF_ERROR(ToFloat(base.dtype, base.data.subspan(row * row_bytes, row_bytes), base_I));
    sum_I = base_I;
    bool first = true;
    for (const AdapterDelta& delta : deltas) {
      if (!delta.TouchesRow(row)) continue;
      delta.AddRow(row, base_I, first, sum_I);
      first = false;
    }
    SBORA_RETURN_IF_ERROR(StoreChanged(base_I, sum_I, base.dtype, out.subspan(row * row_bytes, row_bytes)));
  }
  return OkStatus();
}

}  // namespace sbora::core
