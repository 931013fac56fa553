/// How the trainer's flat float32 vector of parameters maps to named tensors: those of adapter_model.safetensors
/// (core::ModuleTensors), or with full fine-tuning those of the model. Used by the artifact and by checkpoints alike, so
/// that each checkpoint's adapter can be opened like a finished one.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "common/status.h"
#include "core/dtype.h"
#include "core/safetensors.h"

namespace sbora::trainer {

struct AdapterLayout {
  struct Factor {
    std::string name;
    std::vector<int64_t> shape;
    int64_t offset = 0;          ///< of its first element in the flat vector; row-major and contiguous from there
  };
  /// Not trained, but part of the adapter: LoRA's A where it is frozen.
  struct Frozen {
    std::string name;
    std::vector<int64_t> shape;
    std::vector<float> values;
  };
  struct Index {
    std::string name;            ///< core::IndexTensorName
    std::vector<int32_t> values;
  };
  std::vector<Factor> factors;
  std::vector<Frozen> frozen;
  std::vector<Index> indices;
  std::map<std::string, std::string> metadata;  ///< core::AdapterMetadata
  int64_t parameter_count = 0;                  ///< length of the flat vector; the factors cover it
};

/// Writes all tensors, ascending by name, factors and frozen ones rounded to `dtype` (F32 or BF16), the indices as I32.
/// Errors: those of SafetensorsWriter. REQUIRED: parameters.size() == layout.parameter_count.
StatusOr<core::WrittenFile> WriteAdapterTensors(const std::filesystem::path& path, const AdapterLayout& layout,
                                                std::span<const float> parameters, core::DType dtype);

/// Whether ReadAdapterTensors would succeed, without reading the factors. Errors: as that.
Status CheckAdapterTensors(const std::filesystem::path& path, const AdapterLayout& layout);

/// Fills `parameters` ([parameter_count]) from a file that WriteAdapterTensors made.
/// Errors: those of SafetensorsFile::Open; INVALID_ARGUMENT ADAPTER_TENSOR_MISMATCH when a tensor is missing, has
/// another shape, or holds other indices or frozen values than `layout`.
Status ReadAdapterTensors(const std::filesystem::path& path, const AdapterLayout& layout, std::span<float> parameters);

}  // namespace sbora::trainer
