#include "core/gguf_writer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>
#include <set>
#include <utility>

#include "common/status_macros.h"
#include "core/dtype.h"
#include "core/hashed_file.h"

namespace sbora::core {
namespace {

constexpr int64_t kAlignment = 32;  // GGUF's default; files that use it need no key
constexpr size_t kBlock = 32;
constexpr size_t kQ8BlockBytes = 34;
constexpr float kMaxHalf = 65504.0f;
constexpr float kHalfOverflow = 65520.0f;  // rounds to infinity from here on

constexpr uint32_t kTypeUint32 = 4, kTypeInt32 = 5, kTypeFloat32 = 6, kTypeBool = 7, kTypeString = 8, kTypeArray = 9;

template <typename T>
void Put(std::string& out, T value) {
  char bytes[sizeof(T)];
  std::memcpy(bytes, &value, sizeof(T));
  out.append(bytes, sizeof(T));
}

void PutText(std::string& out, std::string_view text) {
  Put(out, uint64_t{text.size()});
  out += text;
}

struct Layout {
  int64_t elements;
  int64_t bytes;
};

std::optional<Layout> LayoutOf(GgmlType type) {
  switch (type) {
    case GgmlType::kF32: return Layout{1, 4};
    case GgmlType::kF16: return Layout{1, 2};
    case GgmlType::kQ8_0: return Layout{static_cast<int64_t>(kBlock), static_cast<int64_t>(kQ8BlockBytes)};
    case GgmlType::kQ4_0: case GgmlType::kQ4_1: case GgmlType::kQ5_0: case GgmlType::kQ5_1: case GgmlType::kBF16: break;
  }
  return std::nullopt;
}

Status TypeUnsupported(GgmlType type) {
  return Unimplemented("GGML_TYPE_UNSUPPORTED", fmt::format("ggml type {} is not written; F32, F16 and Q8_0 are",
                                                            GgmlTypeName(static_cast<uint32_t>(type))));
}

Status RowLength(std::string_view what, int64_t length) {
  return InvalidArgument("GGUF_ROW_LENGTH", fmt::format("{} has rows of {} values; Q8_0 holds blocks of {} only. Export as F16",
                                                        what, length, kBlock));
}

Status ValueRange(float value, std::string_view limit) {
  return FailedPrecondition("GGUF_VALUE_RANGE", fmt::format("the value {} cannot be held: {}", value, limit));
}

Status EncodeHalf(std::span<const float> values, std::byte* out) {
  for (const float value : values) {
    if (!(std::abs(value) < kHalfOverflow)) {
      return ValueRange(value, fmt::format("F16 ends at {}; import the base with smaller weights, or use Q8_0", kMaxHalf));
    }
    const uint16_t bits = FloatToF16(value);
    std::memcpy(out, &bits, sizeof(bits));
    out += sizeof(bits);
  }
  return OkStatus();
}

Status EncodeQ8Block(const float* values, std::byte* out) {
  float largest = 0.0f;
  for (size_t i = 0; i < kBlock; ++i) {
    if (!std::isfinite(values[i])) return ValueRange(values[i], "weights must be finite");
    largest = std::max(largest, std::abs(values[i]));
  }
  const float d = largest / 127.0f;
  if (d >= kHalfOverflow) return ValueRange(largest, fmt::format("the scale of a Q8_0 block ends at {}", kMaxHalf));
  const float inverse = d == 0.0f || !std::isfinite(1.0f / d) ? 0.0f : 1.0f / d;
  const uint16_t scale = FloatToF16(d);
  std::memcpy(out, &scale, sizeof(scale));
  for (size_t i = 0; i < kBlock; ++i) {
    out[sizeof(scale) + i] = static_cast<std::byte>(static_cast<int8_t>(std::round(values[i] * inverse)));
  }
  return OkStatus();
}

StatusOr<int64_t> CountElements(const GgufTensorSpec& spec) {
  int64_t count = spec.shape.empty() ? 0 : 1;
  for (const int64_t extent : spec.shape) {
    if (extent <= 0 || __builtin_mul_overflow(count, extent, &count) || count > (int64_t{1} << 59)) {
      return InvalidArgument("TENSOR_TOO_LARGE", fmt::format("tensor \"{}\" is empty or too large", spec.name));
    }
  }
  return count;
}

int64_t Aligned(int64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

}  // namespace

void GgufMetadata::Key(std::string_view key, uint32_t type) {
  PutText(bytes_, key);
  Put(bytes_, type);
  ++size_;
}

void GgufMetadata::String(std::string_view key, std::string_view value) {
  Key(key, kTypeString);
  PutText(bytes_, value);
}
void GgufMetadata::Uint32(std::string_view key, uint32_t value) {
  Key(key, kTypeUint32);
  Put(bytes_, value);
}
void GgufMetadata::Float32(std::string_view key, float value) {
  Key(key, kTypeFloat32);
  Put(bytes_, value);
}
void GgufMetadata::Bool(std::string_view key, bool value) {
  Key(key, kTypeBool);
  Put(bytes_, static_cast<uint8_t>(value ? 1 : 0));
}
void GgufMetadata::Strings(std::string_view key, const std::vector<std::string>& values) {
  Key(key, kTypeArray);
  Put(bytes_, kTypeString);
  Put(bytes_, uint64_t{values.size()});
  for (const std::string& value : values) PutText(bytes_, value);
}
void GgufMetadata::Int32s(std::string_view key, const std::vector<int32_t>& values) {
  Key(key, kTypeArray);
  Put(bytes_, kTypeInt32);
  Put(bytes_, uint64_t{values.size()});
  for (const int32_t value : values) Put(bytes_, value);
}
void GgufMetadata::Float32s(std::string_view key, const std::vector<float>& values) {
  Key(key, kTypeArray);
  Put(bytes_, kTypeFloat32);
  Put(bytes_, uint64_t{values.size()});
  for (const float value : values) Put(bytes_, value);
}

Status EncodeGgml(GgmlType type, std::span<const float> values, std::vector<std::byte>& out) {
  const auto layout = LayoutOf(type);
  if (!layout) return TypeUnsupported(type);
  const auto count = static_cast<int64_t>(values.size());
  if (count % layout->elements != 0) return RowLength("the input", count);
  const size_t begin = out.size();
  out.resize(begin + static_cast<size_t>(count / layout->elements * layout->bytes));
  if (type == GgmlType::kF16) return EncodeHalf(values, out.data() + begin);
  if (type == GgmlType::kQ8_0) {
    for (size_t block = 0; block < values.size() / kBlock; ++block) {
      SBORA_RETURN_IF_ERROR(EncodeQ8Block(values.data() + block * kBlock, out.data() + begin + block * kQ8BlockBytes));
    }
    return OkStatus();
  }
  for (const float value : values) {
    if (!std::isfinite(value)) return ValueRange(value, "weights must be finite");
  }
  if (!values.empty()) std::memcpy(out.data() + begin, values.data(), values.size_bytes());
  return OkStatus();
}

struct GgufWriter::Impl {
  explicit Impl(const std::filesystem::path& path) : file(path) {}

  HashedFile file;
  std::vector<GgufTensorSpec> tensors;
  std::vector<int64_t> elements;  // of each tensor
  size_t tensor = 0;              // being appended to
  int64_t appended = 0;           // elements of it
  int64_t data_begin = 0;         // in the file
  std::vector<std::byte> encoded;

  Status Pad() {
    const int64_t size = file.written_bytes() - data_begin;
    return file.Write(std::string(static_cast<size_t>(Aligned(size) - size), '\0'));
  }
};

GgufWriter::GgufWriter(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
GgufWriter::~GgufWriter() = default;

StatusOr<std::unique_ptr<GgufWriter>> GgufWriter::Create(const std::filesystem::path& path, const GgufMetadata& metadata,
                                                         std::vector<GgufTensorSpec> tensors) {
  auto impl = std::make_unique<Impl>(path);
  std::string header = "GGUF";
  Put(header, uint32_t{3});
  Put(header, uint64_t{tensors.size()});
  Put(header, metadata.size());
  header += metadata.bytes();
  std::set<std::string_view> names;
  int64_t offset = 0;
  for (const GgufTensorSpec& spec : tensors) {
    if (!names.insert(spec.name).second) {
      return InvalidArgument("TENSOR_DUPLICATE", fmt::format("tensor \"{}\" is declared twice", spec.name));
    }
    const auto layout = LayoutOf(spec.type);
    if (!layout) return TypeUnsupported(spec.type).WithContext(fmt::format("tensor \"{}\"", spec.name));
    SBORA_ASSIGN_OR_RETURN(const int64_t elements, CountElements(spec));
    if (elements == 0 || spec.shape.back() % layout->elements != 0) {
      return RowLength(fmt::format("tensor \"{}\"", spec.name), spec.shape.empty() ? 0 : spec.shape.back());
    }
    impl->elements.push_back(elements);
    PutText(header, spec.name);
    Put(header, static_cast<uint32_t>(spec.shape.size()));
    for (size_t i = spec.shape.size(); i > 0; --i) Put(header, spec.shape[i - 1]);
    Put(header, static_cast<uint32_t>(spec.type));
    Put(header, static_cast<uint64_t>(offset));
    offset = Aligned(offset + elements / layout->elements * layout->bytes);
  }
  impl->data_begin = Aligned(static_cast<int64_t>(header.size()));
  header.resize(static_cast<size_t>(impl->data_begin), '\0');
  impl->tensors = std::move(tensors);
  SBORA_RETURN_IF_ERROR(impl->file.Open());
  SBORA_RETURN_IF_ERROR(impl->file.Write(header));
  return std::unique_ptr<GgufWriter>(new GgufWriter(std::move(impl)));
}

Status GgufWriter::Append(std::span<const float> values) {
  const auto count = static_cast<int64_t>(values.size());
  if (count == 0) return OkStatus();
  const int64_t due = impl_->tensor < impl_->tensors.size() ? impl_->elements[impl_->tensor] - impl_->appended : 0;
  if (count > due) {
    return OutOfRange("TENSOR_DATA_EXCESS", fmt::format("{}: {} values appended, {} are due", impl_->file.path().string(),
                                                        count, due));
  }
  const GgufTensorSpec& spec = impl_->tensors[impl_->tensor];
  impl_->encoded.clear();
  const Status status = EncodeGgml(spec.type, values, impl_->encoded);
  if (!status.ok()) return status.WithContext(fmt::format("tensor \"{}\"", spec.name));
  SBORA_RETURN_IF_ERROR(impl_->file.Write(impl_->encoded));
  impl_->appended += count;
  if (count < due) return OkStatus();
  ++impl_->tensor;
  impl_->appended = 0;
  return impl_->Pad();
}

StatusOr<WrittenFile> GgufWriter::Finish() {
  if (impl_->tensor != impl_->tensors.size()) {
    return FailedPrecondition("TENSOR_DATA_MISSING", fmt::format("{}: {} of {} tensors written", impl_->file.path().string(),
                                                                 impl_->tensor, impl_->tensors.size()));
  }
  return impl_->file.Finish();
}

}  // namespace sbora::core
