#include "worker/trainer/checkpoint/adapter_layout.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>
#include <numeric>

#include "common/check.h"
#include "common/status_macros.h"

namespace sbora::trainer {
namespace {

int64_t Elements(const std::vector<int64_t>& shape) {
  return std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
}

Status Mismatch(const std::filesystem::path& path, std::string_view tensor, std::string_view what) {
  return InvalidArgument("ADAPTER_TENSOR_MISMATCH", fmt::format("{}: tensor {} {}", path.string(), tensor, what))
      .WithMetadata("tensor", std::string(tensor));
}

}  // namespace

StatusOr<core::WrittenFile> WriteAdapterTensors(const std::filesystem::path& path, const AdapterLayout& layout,
                                                std::span<const float> parameters, core::DType dtype) {
  SBORA_CHECK(static_cast<int64_t>(parameters.size()) == layout.parameter_count, "{} parameters, layout of {}",
              parameters.size(), layout.parameter_count);
  struct Entry {
    core::TensorSpec spec;
    std::span<const float> floats;      // a factor
    std::span<const int32_t> integers;  // or an index
  };
  std::vector<Entry> entries;
  for (const auto& factor : layout.factors) {
    const auto size = static_cast<size_t>(Elements(factor.shape));
    entries.push_back({{factor.name, dtype, factor.shape}, parameters.subspan(static_cast<size_t>(factor.offset), size), {}});
  }
  for (const auto& index : layout.indices) {
    entries.push_back({{index.name, core::DType::kI32, {static_cast<int64_t>(index.values.size())}}, {}, index.values});
  }
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) { return a.spec.name < b.spec.name; });

  std::vector<core::TensorSpec> specs;
  for (const auto& entry : entries) specs.push_back(entry.spec);
  SBORA_ASSIGN_OR_RETURN(auto writer, core::SafetensorsWriter::Create(path, std::move(specs), layout.metadata));
  std::vector<std::byte> rounded;
  for (const auto& entry : entries) {
    if (entry.floats.empty()) {
      SBORA_RETURN_IF_ERROR(writer.Append(std::as_bytes(entry.integers)));
      continue;
    }
    rounded.resize(entry.floats.size() * static_cast<size_t>(core::DTypeSize(dtype)));
    SBORA_RETURN_IF_ERROR(core::FromFloat(entry.floats, dtype, rounded));
    SBORA_RETURN_IF_ERROR(writer.Append(rounded));
  }
  return writer.Finish();
}

Status ReadAdapterTensors(const std::filesystem::path& path, const AdapterLayout& layout, std::span<float> parameters) {
  SBORA_CHECK(static_cast<int64_t>(parameters.size()) == layout.parameter_count, "{} parameters, layout of {}",
              parameters.size(), layout.parameter_count);
  SBORA_ASSIGN_OR_RETURN(const auto file, core::SafetensorsFile::Open(path));
  for (const auto& factor : layout.factors) {
    if (!file.Contains(factor.name)) return Mismatch(path, factor.name, "is missing");
    SBORA_ASSIGN_OR_RETURN(const auto view, file.Tensor(factor.name));
    if (view.shape != factor.shape) {
      return Mismatch(path, factor.name, fmt::format("has shape [{}], expected [{}]", fmt::join(view.shape, ", "),
                                                     fmt::join(factor.shape, ", ")));
    }
    const auto target = parameters.subspan(static_cast<size_t>(factor.offset), static_cast<size_t>(view.elements()));
    SBORA_RETURN_IF_ERROR(core::ToFloat(view.dtype, view.data, target));
  }
  for (const auto& index : layout.indices) {
    if (!file.Contains(index.name)) return Mismatch(path, index.name, "is missing");
    SBORA_ASSIGN_OR_RETURN(const auto view, file.Tensor(index.name));
    const auto expected = std::as_bytes(std::span(index.values));
    if (view.dtype != core::DType::kI32 || view.data.size() != expected.size() ||
        std::memcmp(view.data.data(), expected.data(), expected.size()) != 0) {
      return Mismatch(path, index.name, "holds other indices than the job's");
    }
  }
  return OkStatus();
}

}  // namespace sbora::trainer
