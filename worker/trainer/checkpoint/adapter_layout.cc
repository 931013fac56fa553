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

StatusOr<core::TensorView> Expect(const core::SafetensorsFile& file, const std::string& name,
                                  const std::vector<int64_t>& shape) {
  if (!file.Contains(name)) return Mismatch(file.path(), name, "is missing");
  SBORA_ASSIGN_OR_RETURN(auto view, file.Tensor(name));
  if (view.shape != shape) {
    return Mismatch(file.path(), name, fmt::format("has shape [{}], expected [{}]", fmt::join(view.shape, ", "),
                                                   fmt::join(shape, ", ")));
  }
  return view;
}

bool Equal(std::span<const std::byte> a, std::span<const std::byte> b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size()) == 0;
}

}  // namespace

StatusOr<core::WrittenFile> WriteAdapterTensors(const std::filesystem::path& path, const AdapterLayout& layout,
                                                std::span<const float> parameters, core::DType dtype) {
  SBORA_CHECK(static_cast<int64_t>(parameters.size()) == layout.parameter_count, "{} parameters, layout of {}",
              parameters.size(), layout.parameter_count);
  struct Entry {
    core::TensorSpec spec;
    std::span<const float> floats;      // a factor or a frozen tensor
    std::span<const int32_t> integers;  // or an index
  };
  std::vector<Entry> entries;
  for (const auto& factor : layout.factors) {
    const auto size = static_cast<size_t>(Elements(factor.shape));
    entries.push_back({{factor.name, dtype, factor.shape}, parameters.subspan(static_cast<size_t>(factor.offset), size), {}});
  }
  for (const auto& frozen : layout.frozen) entries.push_back({{frozen.name, dtype, frozen.shape}, frozen.values, {}});
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

namespace {

/// `visit(factor, view)` for each factor; frozen tensors and indices are compared.
template <typename Visit>
Status VisitAdapterTensors(const std::filesystem::path& path, const AdapterLayout& layout, const Visit& visit) {
  SBORA_ASSIGN_OR_RETURN(const auto file, core::SafetensorsFile::Open(path));
  for (const auto& factor : layout.factors) {
    SBORA_ASSIGN_OR_RETURN(const auto view, Expect(file, factor.name, factor.shape));
    SBORA_RETURN_IF_ERROR(visit(factor, view));
  }
  for (const auto& frozen : layout.frozen) {
    SBORA_ASSIGN_OR_RETURN(const auto view, Expect(file, frozen.name, frozen.shape));
    std::vector<std::byte> expected(view.data.size());
    SBORA_RETURN_IF_ERROR(core::FromFloat(frozen.values, view.dtype, expected));
    if (!Equal(view.data, expected)) return Mismatch(path, frozen.name, "is frozen and holds other values than the job's");
  }
  for (const auto& index : layout.indices) {
    SBORA_ASSIGN_OR_RETURN(const auto view, Expect(file, index.name, {static_cast<int64_t>(index.values.size())}));
    if (view.dtype != core::DType::kI32 || !Equal(view.data, std::as_bytes(std::span(index.values)))) {
      return Mismatch(path, index.name, "holds other indices than the job's");
    }
  }
  return OkStatus();
}

}  // namespace

Status CheckAdapterTensors(const std::filesystem::path& path, const AdapterLayout& layout) {
  return VisitAdapterTensors(path, layout, [](const AdapterLayout::Factor&, const core::TensorView&) { return OkStatus(); });
}

Status ReadAdapterTensors(const std::filesystem::path& path, const AdapterLayout& layout, std::span<float> parameters) {
  SBORA_CHECK(static_cast<int64_t>(parameters.size()) == layout.parameter_count, "{} parameters, layout of {}",
              parameters.size(), layout.parameter_count);
  return VisitAdapterTensors(path, layout, [parameters](const AdapterLayout::Factor& factor, const core::TensorView& view) {
    const auto target = parameters.subspan(static_cast<size_t>(factor.offset), static_cast<size_t>(view.elements()));
    return core::ToFloat(view.dtype, view.data, target);
  });
}

}  // namespace sbora::trainer
