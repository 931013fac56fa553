#include "worker/trainer/nn/kv_cache.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <numeric>

namespace sbora::trainer {

KvCache::KvCache(int64_t layers, int64_t batch, int64_t kv_heads, int64_t head_dim, int64_t capacity,
                 at::TensorOptions options)
    : capacity_(capacity), lengths_(static_cast<size_t>(batch), 0) {
  for (int64_t layer = 0; layer < layers; ++layer) {
    // Zeros: positions beyond a row's length are masked, but must not hold NaN.
    keys_.push_back(at::zeros({batch, kv_heads, capacity, head_dim}, options));
    values_.push_back(at::zeros({batch, kv_heads, capacity, head_dim}, options));
  }
}

int64_t KvCache::max_length() const { return lengths_.empty() ? 0 : *std::max_element(lengths_.begin(), lengths_.end()); }

void KvCache::Keep(const std::vector<int64_t>& rows) {
  std::vector<int64_t> unchanged(lengths_.size());
  std::iota(unchanged.begin(), unchanged.end(), int64_t{0});
  if (rows == unchanged) return;
  at::NoGradGuard no_grad;
  std::vector<int64_t> lengths;
  lengths.reserve(rows.size());
  for (const int64_t row : rows) lengths.push_back(lengths_.at(static_cast<size_t>(row)));
  lengths_ = std::move(lengths);
  const at::Tensor index = at::tensor(rows, at::kLong);
  for (auto* side : {&keys_, &values_}) {
    for (at::Tensor& tensor : *side) tensor = tensor.index_select(0, index.to(tensor.device()));
  }
}

void KvCache::Reserve(int64_t capacity) {
  if (capacity <= capacity_) return;
  at::NoGradGuard no_grad;
  const int64_t grown = std::max(capacity, capacity_ + capacity_ / 2);
  for (auto* side : {&keys_, &values_}) {
    for (at::Tensor& tensor : *side) {
      at::Tensor larger = at::zeros({tensor.size(0), tensor.size(1), grown, tensor.size(3)}, tensor.options());
      larger.narrow(2, 0, capacity_).copy_(tensor);
      tensor = std::move(larger);
    }
  }
  capacity_ = grown;
}

}  // namespace sbora::trainer
