#include "core/gguf.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <optional>
#include <utility>

#include "common/status_macros.h"

namespace sbora::core {
namespace {

constexpr uint64_t kMaxKeys = 65'536;
constexpr uint64_t kMaxTensors = 262'144;
constexpr uint64_t kMaxNameBytes = 65'535;
constexpr uint64_t kMaxStringBytes = 16 << 20;
constexpr uint64_t kMaxArrayElements = 16 << 20;
constexpr uint32_t kMaxDimensions = 4;
constexpr int64_t kMaxAlignment = 1 << 20;

enum class ValueType : uint32_t {
  kU8 = 0, kI8 = 1, kU16 = 2, kI16 = 3, kU32 = 4, kI32 = 5, kF32 = 6, kBool = 7, kString = 8, kArray = 9, kU64 = 10,
  kI64 = 11, kF64 = 12,
};

/// Bytes of a fixed-size value; 0 for strings, arrays and unknown types.
size_t ScalarSize(uint32_t type) {
  constexpr size_t kSizes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
  return type < std::size(kSizes) ? kSizes[type] : 0;
}

/// A bounds-checked walk over the file's front matter.
class Cursor {
 public:
  Cursor(std::span<const std::byte> bytes, std::string file) : bytes_(bytes), file_(std::move(file)) {}

  size_t position() const { return position_; }
  size_t remaining() const { return bytes_.size() - position_; }

  Status Malformed(std::string_view what) const {
    return InvalidArgument("GGUF_MALFORMED", fmt::format("{}: {} at byte {}", file_, what, position_));
  }

  template <typename T>
  StatusOr<T> Read(std::string_view what) {
    if (remaining() < sizeof(T)) return Truncated(what);
    T value;
    std::memcpy(&value, bytes_.data() + position_, sizeof(T));
    position_ += sizeof(T);
    return value;
  }

  StatusOr<std::string> ReadString(std::string_view what, uint64_t max_bytes) {
    SBORA_ASSIGN_OR_RETURN(const uint64_t size, Read<uint64_t>(what));
    if (size > max_bytes) return Malformed(fmt::format("{} of {} bytes exceeds {}", what, size, max_bytes));
    if (size > remaining()) return Truncated(what);
    std::string text(reinterpret_cast<const char*>(bytes_.data()) + position_, size);
    position_ += size;
    return text;
  }

 private:
  Status Truncated(std::string_view what) const {
    return InvalidArgument("GGUF_TRUNCATED",
                           fmt::format("{}: the file ends inside {} at byte {}", file_, what, position_));
  }

  std::span<const std::byte> bytes_;
  std::string file_;
  size_t position_ = 0;
};

template <typename T>
StatusOr<GgufValue> ReadInt(Cursor& cursor, std::string_view key) {
  SBORA_ASSIGN_OR_RETURN(const T value, cursor.Read<T>(key));
  if constexpr (std::is_same_v<T, uint64_t>) {
    if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      return cursor.Malformed(fmt::format("\"{}\" = {} exceeds 63 bits", key, value));
    }
  }
  return GgufValue(static_cast<int64_t>(value));
}

StatusOr<GgufValue> ReadScalar(Cursor& cursor, uint32_t type, std::string_view key) {
  switch (static_cast<ValueType>(type)) {
    case ValueType::kU8: return ReadInt<uint8_t>(cursor, key);
    case ValueType::kI8: return ReadInt<int8_t>(cursor, key);
    case ValueType::kU16: return ReadInt<uint16_t>(cursor, key);
    case ValueType::kI16: return ReadInt<int16_t>(cursor, key);
    case ValueType::kU32: return ReadInt<uint32_t>(cursor, key);
    case ValueType::kI32: return ReadInt<int32_t>(cursor, key);
    case ValueType::kU64: return ReadInt<uint64_t>(cursor, key);
    case ValueType::kI64: return ReadInt<int64_t>(cursor, key);
    case ValueType::kF32: {
      SBORA_ASSIGN_OR_RETURN(const float value, cursor.Read<float>(key));
      return GgufValue(static_cast<double>(value));
    }
    case ValueType::kF64: {
      SBORA_ASSIGN_OR_RETURN(const double value, cursor.Read<double>(key));
      return GgufValue(value);
    }
    case ValueType::kBool: {
      SBORA_ASSIGN_OR_RETURN(const uint8_t value, cursor.Read<uint8_t>(key));
      if (value > 1) return cursor.Malformed(fmt::format("\"{}\" is a boolean of value {}", key, value));
      return GgufValue(value == 1);
    }
    case ValueType::kString: {
      SBORA_ASSIGN_OR_RETURN(std::string value, cursor.ReadString(key, kMaxStringBytes));
      return GgufValue(std::move(value));
    }
    case ValueType::kArray: break;
  }
  return cursor.Malformed(fmt::format("\"{}\" has the unknown value type {}", key, type));
}

template <typename T>
StatusOr<GgufValue> ReadElements(Cursor& cursor, uint32_t type, uint64_t count, std::string_view key) {
  std::vector<T> elements;
  elements.reserve(count);
  for (uint64_t i = 0; i < count; ++i) {
    SBORA_ASSIGN_OR_RETURN(GgufValue value, ReadScalar(cursor, type, key));
    if constexpr (std::is_same_v<T, int64_t>) {
      elements.push_back(std::holds_alternative<bool>(value) ? int64_t{std::get<bool>(value)} : std::get<int64_t>(value));
    } else {
      elements.push_back(std::move(std::get<T>(value)));
    }
  }
  return GgufValue(GgufArray(std::move(elements)));
}

StatusOr<GgufValue> ReadValue(Cursor& cursor, std::string_view key) {
  SBORA_ASSIGN_OR_RETURN(const uint32_t type, cursor.Read<uint32_t>(key));
  if (static_cast<ValueType>(type) != ValueType::kArray) return ReadScalar(cursor, type, key);
  SBORA_ASSIGN_OR_RETURN(const uint32_t element, cursor.Read<uint32_t>(key));
  SBORA_ASSIGN_OR_RETURN(const uint64_t count, cursor.Read<uint64_t>(key));
  const bool text = static_cast<ValueType>(element) == ValueType::kString;
  const size_t size = text ? 8 : ScalarSize(element);
  if (size == 0) return cursor.Malformed(fmt::format("\"{}\" is an array of type {}, which is not read", key, element));
  if (count > kMaxArrayElements || count > cursor.remaining() / size) {
    return cursor.Malformed(fmt::format("\"{}\" claims {} elements; {} bytes are left and the limit is {}", key, count,
                                        cursor.remaining(), kMaxArrayElements));
  }
  if (text) return ReadElements<std::string>(cursor, element, count, key);
  const auto kind = static_cast<ValueType>(element);
  if (kind == ValueType::kF32 || kind == ValueType::kF64) return ReadElements<double>(cursor, element, count, key);
  return ReadElements<int64_t>(cursor, element, count, key);
}

struct BlockLayout {
  int64_t elements;
  int64_t bytes;
};

std::optional<BlockLayout> LayoutOf(uint32_t type) {
  switch (static_cast<GgmlType>(type)) {
    case GgmlType::kF32: return BlockLayout{1, 4};
    case GgmlType::kF16:
    case GgmlType::kBF16: return BlockLayout{1, 2};
    case GgmlType::kQ4_0: return BlockLayout{32, 18};
    case GgmlType::kQ4_1: return BlockLayout{32, 20};
    case GgmlType::kQ5_0: return BlockLayout{32, 22};
    case GgmlType::kQ5_1: return BlockLayout{32, 24};
    case GgmlType::kQ8_0: return BlockLayout{32, 34};
  }
  return std::nullopt;
}

struct TensorHeader {
  GgufTensor tensor;
  uint64_t offset = 0;
  int64_t bytes = 0;  ///< -1 when the type is not supported
};

StatusOr<TensorHeader> ReadTensorHeader(Cursor& cursor) {
  TensorHeader header;
  SBORA_ASSIGN_OR_RETURN(header.tensor.name, cursor.ReadString("a tensor name", kMaxNameBytes));
  const std::string& name = header.tensor.name;
  SBORA_ASSIGN_OR_RETURN(const uint32_t dimensions, cursor.Read<uint32_t>("a tensor's rank"));
  if (dimensions == 0 || dimensions > kMaxDimensions) {
    return cursor.Malformed(fmt::format("tensor \"{}\" has {} dimensions, 1 to {} are allowed", name, dimensions,
                                        kMaxDimensions));
  }
  int64_t elements = 1;
  for (uint32_t i = 0; i < dimensions; ++i) {
    SBORA_ASSIGN_OR_RETURN(const int64_t extent, cursor.Read<int64_t>("a tensor's shape"));
    if (extent <= 0 || __builtin_mul_overflow(elements, extent, &elements)) {
      return cursor.Malformed(fmt::format("the shape of tensor \"{}\" is empty or overflows", name));
    }
    header.tensor.shape.insert(header.tensor.shape.begin(), extent);
  }
  SBORA_ASSIGN_OR_RETURN(header.tensor.type, cursor.Read<uint32_t>("a tensor's type"));
  SBORA_ASSIGN_OR_RETURN(header.offset, cursor.Read<uint64_t>("a tensor's offset"));
  const auto layout = LayoutOf(header.tensor.type);
  if (!layout) {
    header.bytes = -1;
    return header;
  }
  if (header.tensor.shape.back() % layout->elements != 0 ||
      __builtin_mul_overflow(elements / layout->elements, layout->bytes, &header.bytes)) {
    return cursor.Malformed(fmt::format("rows of {} elements of tensor \"{}\" are no whole blocks of {}",
                                        header.tensor.shape.back(), name, GgmlTypeName(header.tensor.type)));
  }
  return header;
}

Status PlaceTensors(std::vector<TensorHeader>& headers, std::span<const std::byte> data, uint64_t alignment,
                    const std::string& file) {
  std::vector<const TensorHeader*> order;
  for (TensorHeader& header : headers) {
    if (header.offset % alignment != 0) {
      return InvalidArgument("GGUF_MALFORMED", fmt::format("{}: tensor \"{}\" at offset {} is not aligned to {}", file,
                                                           header.tensor.name, header.offset, alignment));
    }
    const auto bytes = static_cast<uint64_t>(std::max<int64_t>(header.bytes, 0));
    if (header.offset > data.size() || bytes > data.size() - header.offset) {
      return InvalidArgument("GGUF_TRUNCATED", fmt::format("{}: tensor \"{}\" needs {} bytes at {}, the data has {}", file,
                                                           header.tensor.name, bytes, header.offset, data.size()));
    }
    if (header.bytes >= 0) header.tensor.data = data.subspan(header.offset, bytes);
    order.push_back(&header);
  }
  std::sort(order.begin(), order.end(), [](const auto* a, const auto* b) { return a->offset < b->offset; });
  for (size_t i = 1; i < order.size(); ++i) {
    if (order[i]->offset < order[i - 1]->offset + order[i - 1]->tensor.data.size()) {
      return InvalidArgument("GGUF_MALFORMED", fmt::format("{}: tensors \"{}\" and \"{}\" overlap", file,
                                                           order[i - 1]->tensor.name, order[i]->tensor.name));
    }
  }
  return OkStatus();
}

template <typename T>
StatusOr<const T*> Get(const std::map<std::string, GgufValue, std::less<>>& metadata, std::string_view key,
                       std::string_view wanted) {
  const auto it = metadata.find(key);
  if (it == metadata.end()) return NotFound("GGUF_KEY_MISSING", fmt::format("the GGUF metadata lacks \"{}\"", key));
  const auto* value = std::get_if<T>(&it->second);
  if (value == nullptr) return InvalidArgument("GGUF_KEY_TYPE", fmt::format("GGUF metadata \"{}\" is no {}", key, wanted));
  return value;
}

template <typename T>
StatusOr<const std::vector<T>*> GetArray(const std::map<std::string, GgufValue, std::less<>>& metadata,
                                         std::string_view key, std::string_view wanted) {
  SBORA_ASSIGN_OR_RETURN(const GgufArray* array, Get<GgufArray>(metadata, key, wanted));
  const auto* values = std::get_if<std::vector<T>>(array);
  if (values == nullptr) return InvalidArgument("GGUF_KEY_TYPE", fmt::format("GGUF metadata \"{}\" is no {}", key, wanted));
  return values;
}

}  // namespace

int64_t GgufTensor::elements() const {
  int64_t count = 1;
  for (const int64_t extent : shape) count *= extent;
  return count;
}

StatusOr<GgufFile> GgufFile::Open(const std::filesystem::path& path) {
  GgufFile file;
  SBORA_ASSIGN_OR_RETURN(file.file_, MappedFile::Open(path));
  const auto bytes = file.file_.bytes();
  Cursor cursor(bytes, path.string());
  SBORA_ASSIGN_OR_RETURN(const uint32_t magic, cursor.Read<uint32_t>("the magic"));
  if (magic != 0x46554747u) return cursor.Malformed("no GGUF magic");
  SBORA_ASSIGN_OR_RETURN(const uint32_t version, cursor.Read<uint32_t>("the version"));
  if (version != 2 && version != 3) {
    return Unimplemented("GGUF_VERSION", fmt::format("{}: GGUF version {}; little-endian versions 2 and 3 are read",
                                                     path.string(), version));
  }
  SBORA_ASSIGN_OR_RETURN(const uint64_t tensor_count, cursor.Read<uint64_t>("the tensor count"));
  SBORA_ASSIGN_OR_RETURN(const uint64_t key_count, cursor.Read<uint64_t>("the key count"));
  if (tensor_count > kMaxTensors || key_count > kMaxKeys) {
    return cursor.Malformed(fmt::format("{} tensors and {} keys exceed {} and {}", tensor_count, key_count, kMaxTensors,
                                        kMaxKeys));
  }
  for (uint64_t i = 0; i < key_count; ++i) {
    SBORA_ASSIGN_OR_RETURN(std::string key, cursor.ReadString("a key", kMaxNameBytes));
    SBORA_ASSIGN_OR_RETURN(GgufValue value, ReadValue(cursor, key));
    if (!file.metadata_.emplace(key, std::move(value)).second) {
      return cursor.Malformed(fmt::format("key \"{}\" appears twice", key));
    }
  }
  int64_t alignment = 32;
  if (file.Has("general.alignment")) {
    SBORA_ASSIGN_OR_RETURN(alignment, file.Int("general.alignment"));
    if (alignment < 8 || alignment > kMaxAlignment || (alignment & (alignment - 1)) != 0) {
      return cursor.Malformed(fmt::format("general.alignment = {} is no power of two in [8, {}]", alignment, kMaxAlignment));
    }
  }
  std::vector<TensorHeader> headers;
  for (uint64_t i = 0; i < tensor_count; ++i) {
    SBORA_ASSIGN_OR_RETURN(TensorHeader header, ReadTensorHeader(cursor));
    headers.push_back(std::move(header));
  }
  const auto unit = static_cast<uint64_t>(alignment);
  const size_t data_begin = std::min(bytes.size(), (cursor.position() + unit - 1) / unit * unit);
  SBORA_RETURN_IF_ERROR(PlaceTensors(headers, bytes.subspan(data_begin), unit, path.string()));
  std::map<std::string_view, int> seen;
  for (TensorHeader& header : headers) file.tensors_.push_back(std::move(header.tensor));
  for (const GgufTensor& tensor : file.tensors_) {
    if (++seen[tensor.name] > 1) return cursor.Malformed(fmt::format("tensor \"{}\" appears twice", tensor.name));
  }
  return file;
}

const GgufTensor* GgufFile::Find(std::string_view name) const {
  const auto it = std::find_if(tensors_.begin(), tensors_.end(), [&](const GgufTensor& t) { return t.name == name; });
  return it == tensors_.end() ? nullptr : &*it;
}

StatusOr<int64_t> GgufFile::Int(std::string_view key) const {
  SBORA_ASSIGN_OR_RETURN(const int64_t* value, Get<int64_t>(metadata_, key, "integer"));
  return *value;
}
StatusOr<double> GgufFile::Float(std::string_view key) const {
  if (const auto integer = Int(key); integer.ok()) return static_cast<double>(*integer);
  SBORA_ASSIGN_OR_RETURN(const double* value, Get<double>(metadata_, key, "number"));
  return *value;
}
StatusOr<bool> GgufFile::Bool(std::string_view key) const {
  SBORA_ASSIGN_OR_RETURN(const bool* value, Get<bool>(metadata_, key, "boolean"));
  return *value;
}
StatusOr<std::string> GgufFile::String(std::string_view key) const {
  SBORA_ASSIGN_OR_RETURN(const std::string* value, Get<std::string>(metadata_, key, "string"));
  return *value;
}
StatusOr<const std::vector<std::string>*> GgufFile::Strings(std::string_view key) const {
  return GetArray<std::string>(metadata_, key, "array of strings");
}
StatusOr<const std::vector<int64_t>*> GgufFile::Ints(std::string_view key) const {
  return GetArray<int64_t>(metadata_, key, "array of integers");
}
StatusOr<const std::vector<double>*> GgufFile::Floats(std::string_view key) const {
  return GetArray<double>(metadata_, key, "array of floats");
}

}  // namespace sbora::core
