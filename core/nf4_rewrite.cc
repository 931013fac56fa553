#include "core/nf4_rewrite.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "common/status_macros.h"

namespace sbora::core {
namespace {

namespace fs = std::filesystem;

struct ModulePlace {
  int64_t layer = 0;
  LinearModule module = LinearModule::kQ;
};

/// All linear layers by ModulePath.
std::map<std::string, ModulePlace> Places(const ModelConfig& config) {
  std::map<std::string, ModulePlace> places;
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    for (const LinearModule module : kAllLinearModules) places[ModulePath(layer, module)] = {layer, module};
  }
  return places;
}

/// The weights of a model, edited on demand.
class EditedModel {
 public:
  EditedModel(const Nf4ModelFolder& model, const Nf4Edits& edits)
      : model_(model), edits_(edits), places_(Places(model.config().model)) {}

  bool Edits(const std::string& module) const { return !module.empty() && edits_.contains(module); }

  ModuleShape Shape(const std::string& module) const {
    return LinearModuleShape(model_.config().model, places_.at(module).module);
  }

  std::vector<TensorSpec> Specs(const std::string& module) const {
    const Nf4Edit& edit = edits_.at(module);
    return Nf4PartSpecs(module, Shape(module), model_.config().double_quantization, std::ssize(edit.row_index),
                        std::ssize(edit.column_index));
  }

  /// The tensors of an edited weight; valid until the next call.
  StatusOr<std::vector<TensorToWrite>> Tensors(const std::string& module) {
    const ModulePlace& place = places_.at(module);
    SBORA_ASSIGN_OR_RETURN(Nf4Parts before, model_.Weight(place.layer, place.module));
    auto after = edits_.at(module).apply(std::move(before));
    if (!after.ok()) return after.status().WithContext(module);
    parts_ = *std::move(after);
    return Nf4Tensors(module, Shape(module), parts_);
  }

 private:
  const Nf4ModelFolder& model_;
  const Nf4Edits& edits_;
  const std::map<std::string, ModulePlace> places_;
  Nf4Parts parts_;
};

/// The shards of `model` with the tensors of edited weights in the place of the old ones.
std::vector<ShardPlan> PlanOf(const Nf4ModelFolder& model, const EditedModel& edited) {
  std::vector<ShardPlan> plans;
  for (const SafetensorsFile& shard : model.shards()) {
    std::vector<TensorView> views = shard.tensors();
    std::sort(views.begin(), views.end(), [](const auto& a, const auto& b) { return a.data.data() < b.data.data(); });
    ShardPlan plan{.name = shard.path().filename().string(), .tensors = {}};
    for (const TensorView& view : views) {
      const std::string module = LinearModuleOfTensor(view.name);
      if (!edited.Edits(module)) {
        plan.tensors.push_back({view.name, view.dtype, view.shape});
      } else if (view.name.ends_with(".nf4_codes")) {
        for (TensorSpec& spec : edited.Specs(module)) plan.tensors.push_back(std::move(spec));
      }
    }
    plans.push_back(std::move(plan));
  }
  return plans;
}

}  // namespace

StatusOr<ExportedFolder> RewriteNf4Model(const Nf4ModelFolder& model, const Nf4Edits& edits, Nf4Config result,
                                         const fs::path& text_dir, const fs::path& out_dir,
                                         const RewriteProgress& options) {
  SBORA_RETURN_IF_ERROR(RequireEmptyFolder(out_dir));
  EditedModel edited(model, edits);
  std::vector<TensorToWrite> tensors;  // of the weight that is being written
  const TensorSource source = [&](const TensorSpec& spec, const ByteSink& sink) -> Status {
    const std::string module = LinearModuleOfTensor(spec.name);
    if (!edited.Edits(module)) {
      SBORA_ASSIGN_OR_RETURN(const TensorView view, model.Tensor(spec.name));
      return sink(view.data);
    }
    if (spec.name.ends_with(".nf4_codes")) {
      SBORA_ASSIGN_OR_RETURN(tensors, edited.Tensors(module));
    }
    const auto found = std::find_if(tensors.begin(), tensors.end(), [&](const auto& t) { return t.spec.name == spec.name; });
    SBORA_CHECK(found != tensors.end(), "an edit left {} out", spec.name);
    return sink(found->data);
  };
  SBORA_ASSIGN_OR_RETURN(auto files, WritePlannedShards(out_dir, PlanOf(model, edited), source,
                                                        {.progress = options.progress, .cancelled = options.cancelled}));
  for (const SafetensorsFile& shard : model.shards()) shard.Evict();
  if (result.merged()) {
    // Of what was written, so that the hash speaks of the files that will be used.
    SBORA_ASSIGN_OR_RETURN(result.merged_hash, HashOfNf4Shards(out_dir, [&] {
                             if (options.progress) options.progress(0, 1);
                           }));
  }
  SBORA_ASSIGN_OR_RETURN(WrittenFile config, WriteSmallFile(out_dir / "config.json", ToJson(result)));
  files.push_back(std::move(config));
  if (!result.merged()) SBORA_RETURN_IF_ERROR(WriteNf4Manifest(out_dir, files));
  SBORA_ASSIGN_OR_RETURN(auto texts, CopyTextFiles(text_dir, out_dir));
  for (WrittenFile& text : texts) files.push_back(std::move(text));
  std::sort(files.begin(), files.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  ExportedFolder folder{.files = std::move(files)};
  for (const WrittenFile& file : folder.files) folder.total_bytes += file.size_bytes;
  return folder;
}

StatusOr<WeightHashes> HashBeforeAndAfter(const Nf4ModelFolder& model, const Nf4Edits& edits,
                                          const RewriteProgress& options) {
  EditedModel edited(model, edits);
  WeightsHash before, after;
  std::string last_edited;
  const std::vector<std::string> names = model.tensor_names();
  for (const std::string& name : names) {
    if (options.cancelled && options.cancelled()) return Cancelled("CANCELLED", "cancelled while hashing the weights");
    if (options.progress) options.progress(0, std::ssize(names));
    SBORA_ASSIGN_OR_RETURN(const TensorView view, model.Tensor(name));
    before.Add(view);
    const std::string module = LinearModuleOfTensor(name);
    if (!edited.Edits(module)) {
      after.Add(view);
    } else if (module != last_edited) {  // names of one weight follow each other
      last_edited = module;
      SBORA_ASSIGN_OR_RETURN(auto tensors, edited.Tensors(module));
      std::sort(tensors.begin(), tensors.end(), [](const auto& a, const auto& b) { return a.spec.name < b.spec.name; });
      for (const TensorToWrite& tensor : tensors) {
        after.Add({.name = tensor.spec.name, .dtype = tensor.spec.dtype, .shape = tensor.spec.shape, .data = tensor.data});
      }
    }
  }
  return WeightHashes{before.FinishHex(), after.FinishHex()};
}

}  // namespace sbora::core
