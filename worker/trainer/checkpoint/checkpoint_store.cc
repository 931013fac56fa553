#include "worker/trainer/checkpoint/checkpoint_store.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>
#include <utility>

#include "common/check.h"
#include "common/file.h"
#include "common/status_macros.h"
#include "core/manifest.h"

namespace sbora::trainer {
namespace {

constexpr char kAdapterFile[] = "adapter.safetensors";
constexpr char kBestFile[] = "best_adapter.safetensors";
constexpr char kOptimizerFile[] = "optimizer.safetensors";
constexpr char kStateFile[] = "state.json";
constexpr std::string_view kPrefix = "ckpt-";
constexpr int64_t kStateVersion = 1;
constexpr int64_t kMaxStateBytes = 1 << 20;
constexpr int64_t kMaxThreads = 1024;  // as of a job's spec

std::string FolderName(int64_t step) { return fmt::format("{}{}", kPrefix, step); }

/// The step of a `ckpt-<step>` folder name, or nothing.
std::optional<int64_t> StepOf(const std::string& name) {
  if (!name.starts_with(kPrefix)) return std::nullopt;
  int64_t step = 0;
  const char* end = name.data() + name.size();
  const auto [rest, error] = std::from_chars(name.data() + kPrefix.size(), end, step);
  if (error != std::errc() || rest != end || step < 0) return std::nullopt;
  return step;
}

std::string ToJson(const TrainState& state, const std::string& run_hash) {
  nlohmann::json json = {{"version", kStateVersion},
                         {"run_hash", run_hash},
                         {"step", state.step},
                         {"epoch", state.epoch},
                         {"trained_tokens", state.trained_tokens},
                         {"seconds", state.seconds},
                         {"last_loss", state.last_loss},
                         {"last_validation_step", state.last_validation_step},
                         {"best_step", state.best_step},
                         {"ranks", state.place.ranks},
                         {"threads", state.place.threads},
                         {"device", state.place.device},
                         {"dtype", state.place.dtype},
                         {"form", state.place.form}};
  if (state.last_validation_loss) json["last_validation_loss"] = *state.last_validation_loss;
  if (state.best_validation_loss) json["best_validation_loss"] = *state.best_validation_loss;
  return json.dump(2) + "\n";
}

Status Malformed(const std::filesystem::path& path, std::string_view what) {
  return InvalidArgument("CHECKPOINT_STATE_MALFORMED", fmt::format("{}: {}", path.string(), what));
}

/// Reads fields by name and remembers the first that is missing or ill-typed.
class Fields {
 public:
  explicit Fields(const nlohmann::json& json) : json_(json) {}

  int64_t Int(const char* name) {
    const auto it = json_.find(name);
    if (it != json_.end() && it->is_number_integer()) return it->get<int64_t>();
    Fail(name);
    return 0;
  }
  double Number(const char* name) {
    const auto it = json_.find(name);
    if (it != json_.end() && it->is_number()) return it->get<double>();
    Fail(name);
    return 0;
  }
  int64_t OptionalInt(const char* name) { return json_.contains(name) ? Int(name) : 0; }
  std::string OptionalText(const char* name) {
    const auto it = json_.find(name);
    if (it == json_.end()) return {};
    if (it->is_string()) return it->get<std::string>();
    Fail(name);
    return {};
  }
  std::optional<double> OptionalNumber(const char* name) {
    return json_.contains(name) ? std::optional(Number(name)) : std::nullopt;
  }
  const std::string& bad_field() const { return bad_field_; }

 private:
  void Fail(const char* name) {
    if (bad_field_.empty()) bad_field_ = name;
  }
  const nlohmann::json& json_;
  std::string bad_field_;
};

StatusOr<TrainState> ReadState(const std::filesystem::path& path, const std::string& run_hash) {
  SBORA_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxStateBytes));
  const auto json = nlohmann::json::parse(text, nullptr, false);
  if (!json.is_object()) return Malformed(path, "not a JSON object");
  Fields fields(json);
  if (const int64_t version = fields.Int("version"); version != kStateVersion) {
    return Unimplemented("CHECKPOINT_VERSION", fmt::format("{}: version {} is not {}; another version of sbora-trainer "
                                                           "wrote this checkpoint",
                                                           path.string(), version, kStateVersion));
  }
  const auto hash = json.find("run_hash");
  if (hash == json.end() || !hash->is_string()) return Malformed(path, "run_hash is missing");
  if (hash->get<std::string>() != run_hash) {
    return FailedPrecondition("CHECKPOINT_OTHER_RUN",
                              fmt::format("{} belongs to a run with other settings, data or base model (run hash {}, "
                                          "this run has {})",
                                          path.parent_path().string(), hash->get<std::string>(), run_hash));
  }
  TrainState state;
  state.step = fields.Int("step");
  state.epoch = fields.Number("epoch");
  state.trained_tokens = fields.Int("trained_tokens");
  state.seconds = fields.Number("seconds");
  state.last_loss = fields.Number("last_loss");
  state.last_validation_step = fields.Int("last_validation_step");
  state.best_step = fields.Int("best_step");
  state.last_validation_loss = fields.OptionalNumber("last_validation_loss");
  state.best_validation_loss = fields.OptionalNumber("best_validation_loss");
  state.place = {.threads = fields.OptionalInt("threads"), .device = fields.OptionalText("device"),
                 .dtype = fields.OptionalText("dtype"), .form = fields.OptionalText("form")};
  if (json.contains("ranks")) state.place.ranks = fields.Int("ranks");
  if (state.place.threads > 0 && state.place.form.empty()) state.place.form = "plain";
  if (!fields.bad_field().empty()) return Malformed(path, fields.bad_field() + " is missing or of another type");
  if (state.place.threads < 0 || state.place.threads > kMaxThreads) {
    return Malformed(path, fmt::format("threads is {}, must be from 0 to {}", state.place.threads, kMaxThreads));
  }
  if (state.place.ranks < 1) return Malformed(path, fmt::format("ranks is {}, must be at least 1", state.place.ranks));
  if (state.step < 0) return Malformed(path, "step is negative");
  return state;
}

StatusOr<core::TensorView> ExpectMoment(const core::SafetensorsFile& file, const core::TensorSpec& spec) {
  SBORA_ASSIGN_OR_RETURN(const auto view, file.Tensor(spec.name));
  if (view.dtype == spec.dtype && view.shape == spec.shape) return view;
  return InvalidArgument("CHECKPOINT_MOMENT_MISMATCH",
                         fmt::format("{}: tensor {} is no {} [{}]", file.path().string(), spec.name,
                                     core::DTypeName(spec.dtype), fmt::join(spec.shape, ", ")));
}

/// Does not throw: folder listings race with nothing, but a folder may be missing.
std::vector<std::pair<int64_t, std::filesystem::path>> ListFolders(const std::filesystem::path& directory) {
  std::vector<std::pair<int64_t, std::filesystem::path>> folders;
  std::error_code error;
  for (std::filesystem::directory_iterator it(directory, error), end; !error && it != end; it.increment(error)) {
    if (const auto step = StepOf(it->path().filename().string())) folders.emplace_back(*step, it->path());
  }
  std::sort(folders.begin(), folders.end(), std::greater<>());
  return folders;
}

}  // namespace

CheckpointStore::CheckpointStore(std::filesystem::path directory, AdapterLayout layout,
                                 std::vector<core::TensorSpec> optimizer, std::string run_hash,
                                 std::function<void()> alive, int keep)
    : directory_(std::move(directory)),
      layout_(std::move(layout)),
      optimizer_(std::move(optimizer)),
      run_hash_(std::move(run_hash)),
      alive_(std::move(alive)),
      keep_(keep) {}

Status CheckpointStore::Fill(const std::filesystem::path& folder, const TrainState& state,
                             const CheckpointContents& contents) const {
  SBORA_RETURN_IF_ERROR(
      WriteAdapterTensors(folder / kAdapterFile, layout_, contents.parameters, core::DType::kF32).status());
  SBORA_CHECK(contents.optimizer.size() == optimizer_.size(), "{} optimiser tensors, {} in the layout",
              contents.optimizer.size(), optimizer_.size());
  std::vector<core::TensorToWrite> moments;
  for (size_t i = 0; i < optimizer_.size(); ++i) moments.push_back({optimizer_[i], contents.optimizer[i]});
  SBORA_RETURN_IF_ERROR(core::WriteSafetensors(folder / kOptimizerFile, moments).status());
  if (!contents.best.empty()) {
    SBORA_RETURN_IF_ERROR(WriteAdapterTensors(folder / kBestFile, layout_, contents.best, core::DType::kF32).status());
  }
  SBORA_RETURN_IF_ERROR(WriteFileAtomic(folder / kStateFile, ToJson(state, run_hash_)));
  SBORA_ASSIGN_OR_RETURN(const auto manifest, core::BuildManifest(folder, {{"step", state.step}}, alive_));
  SBORA_RETURN_IF_ERROR(core::WriteManifest(folder, manifest));
  return SyncDirectory(folder);
}

StatusOr<std::string> CheckpointStore::Save(const TrainState& state, const CheckpointContents& contents) {
  const std::string name = FolderName(state.step);
  SBORA_ASSIGN_OR_RETURN(const auto temporary, TempDirectory::Create(directory_, ".writing-" + name));
  const auto staged = temporary.path() / name;
  std::error_code error;
  if (!std::filesystem::create_directory(staged, error)) return FromErrno(error.value(), "creating " + staged.string());
  SBORA_RETURN_IF_ERROR(Fill(staged, state, contents));

  const auto target = directory_ / name;
  if (std::filesystem::exists(target, error)) {
    // An earlier, rejected checkpoint of this step: a rename does not replace a folder that holds files.
    std::filesystem::rename(target, temporary.path() / "replaced", error);
    if (error) return FromErrno(error.value(), "replacing " + target.string());
  }
  std::filesystem::rename(staged, target, error);
  if (error) return FromErrno(error.value(), "renaming a checkpoint to " + target.string());
  SBORA_RETURN_IF_ERROR(SyncDirectory(directory_));
  if (auto found = Verify(target); !found.ok()) return found.status().WithContext("reading back " + name);
  RemoveOld(state.step);
  return name;
}

void CheckpointStore::RemoveOld(int64_t newest_step) const {
  int kept = 0;
  for (const auto& [step, folder] : ListFolders(directory_)) {
    // Above the newest: what an interrupted attempt left and this one rejected.
    if (step <= newest_step && ++kept <= keep_) continue;
    std::error_code error;
    std::filesystem::remove_all(folder, error);  // a folder that stays costs space only
  }
}

StatusOr<FoundCheckpoint> CheckpointStore::Verify(const std::filesystem::path& folder) const {
  SBORA_ASSIGN_OR_RETURN(const auto manifest, core::ReadManifest(folder));
  SBORA_RETURN_IF_ERROR(core::VerifyManifest(manifest, folder, alive_));
  const auto named = [&](std::string_view name) {
    return std::any_of(manifest.files.begin(), manifest.files.end(), [&](const auto& file) { return file.name == name; });
  };
  for (const char* name : {kAdapterFile, kOptimizerFile, kStateFile}) {
    if (!named(name)) {
      return DataLoss("CHECKPOINT_INCOMPLETE", fmt::format("{}: the manifest does not name {}", folder.string(), name));
    }
  }
  FoundCheckpoint found{.folder = folder, .state = {}, .has_best = named(kBestFile)};
  SBORA_ASSIGN_OR_RETURN(found.state, ReadState(folder / kStateFile, run_hash_));
  SBORA_RETURN_IF_ERROR(CheckAdapterTensors(folder / kAdapterFile, layout_));
  SBORA_ASSIGN_OR_RETURN(const auto optimizer, core::SafetensorsFile::Open(folder / kOptimizerFile));
  for (const core::TensorSpec& spec : optimizer_) SBORA_RETURN_IF_ERROR(ExpectMoment(optimizer, spec).status());
  if (found.has_best) SBORA_RETURN_IF_ERROR(CheckAdapterTensors(folder / kBestFile, layout_));
  return found;
}

Status CheckpointStore::Read(const FoundCheckpoint& found, const CheckpointTarget& target) const {
  SBORA_RETURN_IF_ERROR(ReadAdapterTensors(found.folder / kAdapterFile, layout_, target.parameters));
  SBORA_ASSIGN_OR_RETURN(const auto optimizer, core::SafetensorsFile::Open(found.folder / kOptimizerFile));
  SBORA_CHECK(target.optimizer.size() == optimizer_.size(), "{} optimiser tensors, {} in the layout",
              target.optimizer.size(), optimizer_.size());
  for (size_t i = 0; i < optimizer_.size(); ++i) {
    SBORA_ASSIGN_OR_RETURN(const auto view, ExpectMoment(optimizer, optimizer_[i]));
    SBORA_CHECK(view.data.size() == target.optimizer[i].size(), "{}: {} bytes for {}", view.name, view.data.size(),
                target.optimizer[i].size());
    std::copy(view.data.begin(), view.data.end(), target.optimizer[i].begin());
  }
  target.best->clear();
  if (!found.has_best) return OkStatus();
  target.best->resize(static_cast<size_t>(layout_.parameter_count));
  return ReadAdapterTensors(found.folder / kBestFile, layout_, *target.best);
}

LoadReport CheckpointStore::LoadNewest(const std::vector<std::filesystem::path>& others) const {
  LoadReport report;
  for (const auto& [step, folder] : ListFolders(directory_)) {
    auto found = Verify(folder);
    if (found.ok()) {
      report.checkpoint = std::move(found).value();
      break;
    }
    report.rejected.push_back({folder, found.status()});
  }
  for (const auto& folder : others) {
    auto found = Verify(folder);
    if (!found.ok()) {
      report.rejected.push_back({folder, found.status()});
    } else if (!report.checkpoint || found->state.step > report.checkpoint->state.step) {
      report.checkpoint = std::move(found).value();
    }
  }
  return report;
}

int64_t CheckpointStore::PredictedBytes(bool with_best) const {
  constexpr int64_t kHeaders = 64 << 10;
  int64_t untrained = 0;
  for (const auto& index : layout_.indices) untrained += static_cast<int64_t>(index.values.size());
  for (const auto& frozen : layout_.frozen) untrained += static_cast<int64_t>(frozen.values.size());
  const size_t tensors = layout_.factors.size() + layout_.frozen.size() + layout_.indices.size();
  const int64_t adapter = 4 * (layout_.parameter_count + untrained) + 256 * static_cast<int64_t>(tensors);
  int64_t moments = 0;
  for (const core::TensorSpec& spec : optimizer_) moments += core::TensorBytes(spec).value();
  return adapter * (with_best ? 2 : 1) + moments + kHeaders;
}

}  // namespace sbora::trainer
