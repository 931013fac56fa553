/// Builds GGUF files byte by byte, also broken ones.
#pragma once

#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace sbora::core::testing {

class GgufBuilder {
 public:
  GgufBuilder& Counts(uint64_t tensors, uint64_t keys) {
    counts_ = {tensors, keys};
    return *this;
  }
  GgufBuilder& RawKey(std::string_view key, uint32_t type, std::string_view value) {
    keys_ += Text(key) + Le(type) + std::string(value);
    ++key_count_;
    return *this;
  }
  GgufBuilder& Int(std::string_view key, uint32_t value) { return RawKey(key, 4, Le(value)); }
  GgufBuilder& Float(std::string_view key, float value) { return RawKey(key, 6, Le(value)); }
  GgufBuilder& Bool(std::string_view key, bool value) { return RawKey(key, 7, std::string(1, value ? 1 : 0)); }
  GgufBuilder& String(std::string_view key, std::string_view value) { return RawKey(key, 8, Text(value)); }
  GgufBuilder& Strings(std::string_view key, const std::vector<std::string>& values) {
    std::string body = Le(uint32_t{8}) + Le(uint64_t{values.size()});
    for (const auto& value : values) body += Text(value);
    return RawKey(key, 9, body);
  }
  GgufBuilder& Ints(std::string_view key, const std::vector<int32_t>& values) {
    std::string body = Le(uint32_t{5}) + Le(uint64_t{values.size()});
    for (const auto value : values) body += Le(value);
    return RawKey(key, 9, body);
  }
  GgufBuilder& Floats(std::string_view key, const std::vector<float>& values) {
    std::string body = Le(uint32_t{6}) + Le(uint64_t{values.size()});
    for (const auto value : values) body += Le(value);
    return RawKey(key, 9, body);
  }
  /// `extents` in GGUF's order: fastest first.
  GgufBuilder& Tensor(std::string_view name, uint32_t type, const std::vector<int64_t>& extents, std::string_view data) {
    data_.append((32 - data_.size() % 32) % 32, '\0');
    tensors_ += Text(name) + Le(static_cast<uint32_t>(extents.size()));
    for (const auto extent : extents) tensors_ += Le(extent);
    tensors_ += Le(type) + Le(uint64_t{data_.size()});
    data_ += data;
    ++tensor_count_;
    return *this;
  }
  std::string Build() const {
    const auto counts = counts_.value_or(std::pair{tensor_count_, key_count_});
    std::string out = "GGUF" + Le(uint32_t{3}) + Le(counts.first) + Le(counts.second) + keys_ + tensors_;
    if (!data_.empty()) out.append((32 - out.size() % 32) % 32, '\0');
    return out + data_;
  }

 private:
  template <typename T>
  static std::string Le(T value) {
    std::string bytes(sizeof(T), '\0');
    std::memcpy(bytes.data(), &value, sizeof(T));
    return bytes;
  }
  static std::string Text(std::string_view text) { return Le(uint64_t{text.size()}) + std::string(text); }

  std::optional<std::pair<uint64_t, uint64_t>> counts_;
  std::string keys_, tensors_, data_;
  uint64_t key_count_ = 0;
  uint64_t tensor_count_ = 0;
};

}  // namespace sbora::core::testing
