// Patches on local folders: no server is asked.
#include <fmt/format.h>

#include "client/commands/commands.h"
#include "common/file.h"
#include "common/status_macros.h"
#include "core/patch.h"

namespace sbora::client {
namespace {

struct PatchFlags {
  std::string patch;
  std::string model;
  std::string directory;
};

void DeclarePatch(CLI::App& app, PatchFlags& flags) {
  app.add_option("PATCH", flags.patch, "The patch, or the folder it was exported to")->required();
  app.add_option("--model-folder", flags.model, "The Hugging Face folder to change a copy of")->required();
  app.add_option("-o,--directory", flags.directory, "A fresh folder for the copy")->required();
}

using PatchFunction = StatusOr<core::ExportedFolder> (*)(const std::filesystem::path&, const std::filesystem::path&,
                                                         const std::filesystem::path&, const core::MergeOptions&);

CommandResult RunPatch(CommandContext& context, const PatchFlags& flags, PatchFunction function,
                       const std::string& what) {
  // The copy appears whole or not at all.
  std::filesystem::path target = std::filesystem::absolute(flags.directory).lexically_normal();
  if (target.filename().empty()) target = target.parent_path();  // "copy/"
  SBORA_RETURN_IF_ERROR(CheckPullTarget(target, /*force=*/false));
  SBORA_ASSIGN_OR_RETURN(const TempDirectory work, TempDirectory::Create(target.parent_path(), ".sbora-patch"));
  ProgressLine line(context.err(), SystemClock(), context.ProgressStyle());
  core::MergeOptions options;
  options.progress = [&](int64_t done, int64_t total) {
    line.Update(what, fmt::format("{}  {} of {} tensors", what, done, total));
  };
  const auto written = function(flags.model, flags.patch, work.path() / "copy", options);
  line.Finish();
  if (!written.ok()) return written.status();
  std::error_code error;
  std::filesystem::rename(work.path() / "copy", target, error);
  if (error) return FromErrno(error.value(), fmt::format("making {}", target.string()));
  context.PrintNothing();
  context.Note(fmt::format("wrote {} files, {}, to {}", written->files.size(), FormatBytes(written->total_bytes),
                           flags.directory));
  return ExitCode::kOk;
}

}  // namespace

void AddPatches(const CommandRoot& root, CLI::App& group) {
  root.Verb<PatchFlags>(group, "apply-patch", "Merge an exported patch into a local copy of its base", DeclarePatch,
                        [](CommandContext& context, const PatchFlags& flags) {
                          return RunPatch(context, flags, &core::ApplyPatch, "applying");
                        });
  root.Verb<PatchFlags>(group, "reverse-patch", "Give a patched folder's base back, bit for bit", DeclarePatch,
                        [](CommandContext& context, const PatchFlags& flags) {
                          return RunPatch(context, flags, &core::ReversePatch, "reversing");
                        });
}

}  // namespace sbora::client
