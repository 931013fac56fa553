#include "core/safetensors.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <utility>

#include "common/status_macros.h"

namespace sbora::core {
namespace {

static_assert(std::endian::native == std::endian::little, "files are little-endian and read without swapping");

using Json = nlohmann::json;

/// Extents times element size with overflow and sign checks; nothing on failure.
std::optional<int64_t> CheckedBytes(const std::vector<int64_t>& shape, int64_t element_size) {
  int64_t bytes = element_size;
  for (const int64_t extent : shape) {
    if (extent < 0 || __builtin_mul_overflow(bytes, extent, &bytes)) return std::nullopt;
  }
  return bytes;
}

/// Builds the header while parsing, so that duplicate keys and depth are seen: nlohmann's DOM keeps the last duplicate.
/// The grammar accepted is exactly {name: {dtype, shape, data_offsets}, "__metadata__": {string: string}}.
class HeaderParser : public nlohmann::json_sax<Json> {
 public:
  struct Entry {
    std::string name;
    std::optional<std::string> dtype;
    std::optional<std::vector<int64_t>> shape;
    std::optional<std::vector<int64_t>> offsets;
  };

  const std::string& error() const { return error_; }
  std::vector<Entry>& entries() { return entries_; }
  std::map<std::string, std::string>& metadata() { return metadata_; }

  bool start_object(size_t /*elements*/) override {
    if (depth_ == 0 || (depth_ == 1 && !in_array_)) {
      ++depth_;
      if (depth_ == 2 && !in_metadata_) entries_.push_back({.name = key_, .dtype = {}, .shape = {}, .offsets = {}});
      return true;
    }
    return Fail("an object stands where none is allowed");
  }
  bool end_object() override {
    --depth_;
    if (depth_ == 1) in_metadata_ = false;
    return true;
  }
  bool key(string_t& name) override {
    if (depth_ == 1) {
      if (!names_.insert(name).second) return Fail(fmt::format("\"{}\" appears twice", name));
      in_metadata_ = name == "__metadata__";
    }
    key_ = name;
    return true;
  }
  bool start_array(size_t /*elements*/) override {
    if (depth_ != 2 || in_array_ || in_metadata_) return Fail("an array stands where none is allowed");
    Entry& entry = entries_.back();
    auto& target = key_ == "shape" ? entry.shape : entry.offsets;
    if ((key_ != "shape" && key_ != "data_offsets") || target.has_value()) return Unexpected();
    target.emplace();
    array_ = &*target;
    in_array_ = true;
    return true;
  }
  bool end_array() override {
    in_array_ = false;
    return true;
  }
  bool number_unsigned(number_unsigned_t value) override {
    if (!in_array_ || value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) return Unexpected();
    array_->push_back(static_cast<int64_t>(value));
    return true;
  }
  bool string(string_t& value) override {
    if (in_array_ || depth_ != 2) return Unexpected();
    if (in_metadata_) {
      if (!metadata_.emplace(key_, value).second) return Fail(fmt::format("metadata \"{}\" appears twice", key_));
      return true;
    }
    if (key_ != "dtype" || entries_.back().dtype.has_value()) return Unexpected();
    entries_.back().dtype = value;
    return true;
  }
  bool null() override { return Unexpected(); }
  bool boolean(bool /*value*/) override { return Unexpected(); }
  bool number_integer(number_integer_t /*value*/) override { return Unexpected(); }
  bool number_float(number_float_t /*value*/, const string_t& /*text*/) override { return Unexpected(); }
  bool binary(binary_t& /*value*/) override { return Unexpected(); }
  bool parse_error(size_t position, const std::string& /*token*/, const nlohmann::detail::exception& /*why*/) override {
    return Fail(fmt::format("the header is no JSON at byte {}", position + 8));
  }

 private:
  bool Fail(std::string message) {
    error_ = std::move(message);
    return false;
  }
  bool Unexpected() { return Fail(fmt::format("unexpected value at \"{}\"", key_.substr(0, 200))); }

  int depth_ = 0;
  bool in_metadata_ = false;
  bool in_array_ = false;
  std::string key_;
  std::vector<int64_t>* array_ = nullptr;
  std::set<std::string> names_;
  std::vector<Entry> entries_;
  std::map<std::string, std::string> metadata_;
  std::string error_;
};

Status Malformed(const std::filesystem::path& path, std::string_view what) {
  return InvalidArgument("SAFETENSORS_MALFORMED", fmt::format("{}: {}", path.string(), what));
}

StatusOr<TensorView> ToView(const std::filesystem::path& path, const HeaderParser::Entry& entry,
                            std::span<const std::byte> data) {
  if (!entry.dtype || !entry.shape || !entry.offsets || entry.offsets->size() != 2) {
    return Malformed(path, fmt::format("tensor \"{}\" lacks dtype, shape or two data_offsets", entry.name));
  }
  auto dtype = ParseDType(*entry.dtype);
  if (!dtype.ok()) return Malformed(path, fmt::format("tensor \"{}\": {}", entry.name, dtype.status().message()));
  const int64_t begin = (*entry.offsets)[0];
  const int64_t end = (*entry.offsets)[1];
  const auto bytes = CheckedBytes(*entry.shape, DTypeSize(*dtype));
  if (!bytes || begin > end || *bytes != end - begin) {
    return Malformed(path, fmt::format("tensor \"{}\": {} of its shape does not fill bytes [{}, {})", entry.name,
                                       *entry.dtype, begin, end));
  }
  if (end > static_cast<int64_t>(data.size())) {
    return InvalidArgument("SAFETENSORS_TRUNCATED", fmt::format("{}: tensor \"{}\" ends at data byte {}, the file has {}",
                                                                path.string(), entry.name, end, data.size()));
  }
  return TensorView{.name = entry.name, .dtype = *dtype, .shape = *entry.shape,
                    .data = data.subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin))};
}

/// Ranges must tile the data section: no hole, no overlap, no byte behind the last.
Status CheckTiling(const std::filesystem::path& path, const std::vector<TensorView>& tensors,
                   std::span<const std::byte> data) {
  std::vector<std::pair<const std::byte*, size_t>> order(tensors.size());
  for (size_t i = 0; i < tensors.size(); ++i) order[i] = {tensors[i].data.data(), i};
  std::sort(order.begin(), order.end(), [&](const auto& a, const auto& b) {
    if (a.first != b.first) return a.first < b.first;
    return tensors[a.second].data.size() < tensors[b.second].data.size();  // empty tensors first
  });
  const std::byte* cursor = data.data();
  for (const auto& [begin, index] : order) {
    if (begin != cursor) {
      return Malformed(path, fmt::format("tensor \"{}\" {} its neighbour in the data section", tensors[index].name,
                                         begin > cursor ? "leaves a hole after" : "overlaps"));
    }
    cursor += tensors[index].data.size();
  }
  if (cursor != data.data() + data.size()) {
    return Malformed(path, fmt::format("{} bytes follow the last tensor", data.data() + data.size() - cursor));
  }
  return OkStatus();
}

}  // namespace

int64_t TensorView::elements() const { return static_cast<int64_t>(data.size()) / DTypeSize(dtype); }

StatusOr<int64_t> TensorBytes(const TensorSpec& spec) {
  const auto bytes = CheckedBytes(spec.shape, DTypeSize(spec.dtype));
  if (!bytes) {
    return InvalidArgument("TENSOR_TOO_LARGE", fmt::format("tensor \"{}\": the shape overflows 63 bits of bytes or is "
                                                           "negative", spec.name));
  }
  return *bytes;
}

StatusOr<SafetensorsFile> SafetensorsFile::Open(const std::filesystem::path& path) {
  SafetensorsFile file;
  file.path_ = path;
  SBORA_ASSIGN_OR_RETURN(file.file_, MappedFile::Open(path));
  const auto bytes = file.file_.bytes();
  if (bytes.size() < 8) {
    return InvalidArgument("SAFETENSORS_TRUNCATED", fmt::format("{}: {} bytes are no safetensors file", path.string(),
                                                                bytes.size()));
  }
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, bytes.data(), 8);
  if (header_bytes > static_cast<uint64_t>(kMaxSafetensorsHeaderBytes)) {
    return Malformed(path, fmt::format("its header claims {} bytes, the limit is {}", header_bytes,
                                       kMaxSafetensorsHeaderBytes));
  }
  if (header_bytes > bytes.size() - 8) {
    return InvalidArgument("SAFETENSORS_TRUNCATED", fmt::format("{}: its header claims {} bytes, {} are there",
                                                                path.string(), header_bytes, bytes.size() - 8));
  }
  const auto* text = reinterpret_cast<const char*>(bytes.data()) + 8;
  if (header_bytes == 0 || text[0] != '{') return Malformed(path, "the header does not begin with '{'");
  HeaderParser parser;
  if (!Json::sax_parse(text, text + header_bytes, &parser)) return Malformed(path, parser.error());

  const auto data = bytes.subspan(8 + header_bytes);
  file.tensors_.reserve(parser.entries().size());
  for (const auto& entry : parser.entries()) {
    SBORA_ASSIGN_OR_RETURN(TensorView view, ToView(path, entry, data));
    file.tensors_.push_back(std::move(view));
  }
  SBORA_RETURN_IF_ERROR(CheckTiling(path, file.tensors_, data));
  std::sort(file.tensors_.begin(), file.tensors_.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  file.metadata_ = std::move(parser.metadata());
  return file;
}

bool SafetensorsFile::Contains(std::string_view name) const { return Tensor(name).ok(); }

StatusOr<TensorView> SafetensorsFile::Tensor(std::string_view name) const {
  const auto it = std::lower_bound(tensors_.begin(), tensors_.end(), name,
                                   [](const TensorView& view, std::string_view key) { return view.name < key; });
  if (it == tensors_.end() || it->name != name) {
    return NotFound("TENSOR_NOT_FOUND", fmt::format("{} holds no tensor \"{}\"", path_.string(), name));
  }
  return *it;
}

void SafetensorsFile::Evict() const {
  const auto bytes = file_.bytes();
  if (!bytes.empty()) ::madvise(const_cast<std::byte*>(bytes.data()), bytes.size(), MADV_DONTNEED);
}

}  // namespace sbora::core
