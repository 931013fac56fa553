/// Adapters of the tiny model in a folder, with seeded factors, for the tests of merges, regions and patches.
#pragma once

#include <cstring>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "common/check.h"
#include "core/adapter.h"
#include "core/model_folder.h"
#include "core/region_draw.h"
#include "tests/unit/core/tiny_model.h"

namespace sbora::core::testing {

struct TinyAdapterOptions {
  AdapterMethod method = AdapterMethod::kSboraFa;
  int64_t rank = 3;
  double alpha = 6;
  std::vector<LinearModule> targets = {LinearModule::kQ, LinearModule::kK, LinearModule::kDown};
  bool share_indices = false;
  std::vector<RegionHolder> avoid = {};
  AdapterPattern pattern = {};
};

/// Writes adapter `name` of the model in `base_dir` to `dir`; the factors depend on `name`, the indices on `name` and
/// `avoid`. Answers with its regions.
inline RegionHolder WriteTinyAdapter(const std::filesystem::path& dir, const std::filesystem::path& base_dir,
                                     const std::string& name, const TinyAdapterOptions& options = {}) {
  const auto base = ModelFolder::Open(base_dir);
  SBORA_CHECK(base.ok(), "{}", base.status().ToString());
  AdapterSpec spec;
  spec.method = options.method;
  spec.rank = options.rank;
  spec.target_modules = options.targets;
  spec.share_indices = options.share_indices;
  spec.pattern = options.pattern;
  spec.index_seed = PhiloxStream(DeriveKey("tiny adapter", 0, name)).Below(uint64_t{1} << 32);
  const std::string hash = base->ComputeBaseHash();
  const auto regions = DrawRegions(base->config(), hash, spec, options.avoid);
  SBORA_CHECK(regions.ok(), "{}", regions.status().ToString());

  const AdapterConfig config{.method = options.method,
                             .rank = options.rank,
                             .alpha = options.alpha,
                             .dropout = 0,
                             .target_modules = options.targets,
                             .seed = spec.index_seed,
                             .index_generator_version = UsesIndices(options.method) ? 1 : 0,
                             .artifact_dtype = DType::kF32,
                             .base_model = "tiny",
                             .base_hash = hash,
                             .base_config = base->config(),
                             .base_quantization = {},
                             .pattern = options.pattern};
  std::vector<std::vector<std::byte>> data;
  const auto specs = ExpectedAdapterTensors(config);
  for (const TensorSpec& tensor : specs) {
    data.push_back(SeededBytes({name + "/" + tensor.name, DType::kF32, tensor.shape}));
    for (const Region& region : *regions) {
      if (tensor.name != region.module + ".sbora_index") continue;
      std::memcpy(data.back().data(), region.indices.data(), data.back().size());
    }
  }
  std::vector<TensorToWrite> tensors;
  for (size_t i = 0; i < specs.size(); ++i) tensors.push_back({specs[i], data[i]});
  std::filesystem::create_directories(dir);
  SBORA_CHECK(WriteSafetensors(dir / kAdapterModelFile, tensors, AdapterMetadata(config)).ok(), "tensors of {}", name);
  SBORA_CHECK(WriteFileAtomic(dir / kAdapterConfigFile, ToJson(config)).ok(), "config of {}", name);
  return {name, *regions};
}

}  // namespace sbora::core::testing
