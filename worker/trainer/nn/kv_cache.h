/// Keys and values of a ragged batch during generation: row b holds lengths()[b] tokens, left-aligned.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace sbora::trainer {

/// Made by LlamaModel::NewCache. Capacity grows by itself. Threading: one thread at a time.
class KvCache {
 public:
  KvCache(int64_t layers, int64_t batch, int64_t kv_heads, int64_t head_dim, int64_t capacity, at::TensorOptions options);

  int64_t batch() const { return static_cast<int64_t>(lengths_.size()); }
  const std::vector<int64_t>& lengths() const { return lengths_; }
  int64_t max_length() const;
  int64_t capacity() const { return capacity_; }

  /// The cache becomes these rows, in this order: finished sequences leave the batch; a row named twice is copied, as
  /// beams that part need it. Costs a copy of the cache unless nothing changes.
  void Keep(const std::vector<int64_t>& rows);

  /// For the model only.
  at::Tensor& keys(int64_t layer) { return keys_[static_cast<size_t>(layer)]; }      ///< [B, Hkv, capacity, D]
  at::Tensor& values(int64_t layer) { return values_[static_cast<size_t>(layer)]; }  ///< [B, Hkv, capacity, D]
  void Reserve(int64_t capacity);
  void SetLength(int64_t row, int64_t length) { lengths_[static_cast<size_t>(row)] = length; }

 private:
  int64_t capacity_;
  std::vector<at::Tensor> keys_;
  std::vector<at::Tensor> values_;
  std::vector<int64_t> lengths_;
};

}  // namespace sbora::trainer
