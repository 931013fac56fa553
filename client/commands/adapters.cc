#include <fmt/format.h>

#include "client/commands/commands.h"
#include "client/spec_fields.h"
#include "common/status_macros.h"

namespace sbora::client {
namespace {

struct PullFlags : NameFlag {
  std::string directory;
  bool force = false;
};

struct ExportFlags : PullFlags {
  std::string format = "peft";
  std::string gguf_type;
  std::string request_id;
};

struct MergeFlags {
  std::vector<std::string> names;
  std::vector<double> weights;
  bool allow_overlap = false;
  std::string into;
  std::string directory;
  std::string request_id;
  bool force = false;
};

struct DiffFlags {
  std::vector<std::string> names;
};

template <typename Flags>
void DeclareTarget(CLI::App& app, Flags& flags) {
  app.add_option("-o,--directory", flags.directory, "A fresh folder for the files")->required();
  app.add_flag("--force", flags.force, "Replace the folder if it is not empty");
}

/// The adapter, or why a job of that name has none.
StatusOr<v1::Adapter> FindAdapter(Client& client, const std::string& name) {
  auto adapter = client.GetAdapter(AdapterName(client, name));
  if (adapter.ok() || adapter.status().code() != StatusCode::kNotFound) return adapter;
  const auto job = client.GetJob(client.ResourceName("fineTuningJobs", ShortName(name)));
  if (!job.ok() || job->state() == v1::FineTuningJob::STATE_SUCCEEDED) return adapter;  // it was deleted
  const std::string id = ShortName(name);
  const std::string next =
      IsTerminal(job->state())
          ? fmt::format("it left no adapter; sbora-client jobs get {} says why", id)
          : fmt::format("it has an adapter once it has SUCCEEDED; follow it with sbora-client watch {}", id);
  return FailedPrecondition("JOB_NOT_SUCCEEDED", fmt::format("job {} is {}: {}", id, StateName(job->state()), next));
}

/// What an export or merge leaves alone, when the server knows it.
void NoteChanged(CommandContext& context, const google::longrunning::Operation& operation) {
  v1::AdapterOperationMetadata metadata;
  if (!operation.metadata().UnpackTo(&metadata) || !metadata.has_changed_weights()) return;
  context.Note(FormatChanged(metadata.changed_weights()) + "; all others keep their bits");
}

CommandResult PullAdapter(CommandContext& context, const PullFlags& flags) {
  SBORA_ASSIGN_OR_RETURN(Client* const client, context.Connect());
  SBORA_ASSIGN_OR_RETURN(const v1::Adapter adapter, FindAdapter(*client, flags.name));
  SBORA_ASSIGN_OR_RETURN(const ExitCode code,
                         PullFiles(context, adapter.files(), adapter.manifest_sha256(), flags.directory, flags.force));
  context.Print(adapter);
  return code;
}

CommandResult ExportAdapter(CommandContext& context, const ExportFlags& flags) {
  SBORA_RETURN_IF_ERROR(CheckPullTarget(flags.directory, flags.force));
  SBORA_ASSIGN_OR_RETURN(Client* const client, context.Connect());
  v1::ExportAdapterRequest request;
  SBORA_RETURN_IF_ERROR(SetField(request, "format", flags.format));
  if (!flags.gguf_type.empty()) SBORA_RETURN_IF_ERROR(SetField(request, "gguf_type", flags.gguf_type));
  SBORA_ASSIGN_OR_RETURN(const v1::Adapter adapter, FindAdapter(*client, flags.name));
  request.set_name(adapter.name());
  request.set_request_id(flags.request_id);
  SBORA_ASSIGN_OR_RETURN(google::longrunning::Operation operation, client->ExportAdapter(std::move(request)));
  SBORA_ASSIGN_OR_RETURN(operation, context.FinishOperation(std::move(operation), "exporting"));
  NoteChanged(context, operation);
  SBORA_ASSIGN_OR_RETURN(const auto result, ResponseOf<v1::ExportAdapterResult>(operation));
  SBORA_ASSIGN_OR_RETURN(const ExitCode code, PullFiles(context, result.files(), "", flags.directory, flags.force));
  if (context.globals().output != OutputFormat::kTable) context.PrintStreamed(result);
  return code;
}

CommandResult MergeAdapters(CommandContext& context, const MergeFlags& flags) {
  SBORA_RETURN_IF_ERROR(CheckPullTarget(flags.directory, flags.force));
  SBORA_ASSIGN_OR_RETURN(Client* const client, context.Connect());
  v1::MergeAdaptersRequest request;
  request.set_request_id(flags.request_id);
  bool rounds_rows = false;
  for (const std::string& name : flags.names) {
    SBORA_ASSIGN_OR_RETURN(const v1::Adapter adapter, FindAdapter(*client, name));
    request.add_adapters(adapter.name());
    rounds_rows = rounds_rows || (adapter.method() == "sbora_fb" && adapter.quantization() == v1::QUANTIZATION_NF4);
  }
  request.mutable_weights()->Assign(flags.weights.begin(), flags.weights.end());
  request.set_allow_overlap(flags.allow_overlap);
  if (!flags.into.empty()) SBORA_RETURN_IF_ERROR(SetField(request, "into", flags.into));
  rounds_rows = rounds_rows && request.into() != v1::MERGE_TARGET_FLOAT;
  SBORA_ASSIGN_OR_RETURN(google::longrunning::Operation operation, client->MergeAdapters(std::move(request)));
  SBORA_ASSIGN_OR_RETURN(operation, context.FinishOperation(std::move(operation), "merging"));
  NoteChanged(context, operation);
  if (rounds_rows) {
    context.Note("the rows of sbora_fb adapters were rounded to NF4 again, which loses small changes: evaluate the merged "
                 "model, or merge --into float");
  }
  SBORA_ASSIGN_OR_RETURN(const auto result, ResponseOf<v1::MergeAdaptersResult>(operation));
  SBORA_ASSIGN_OR_RETURN(const ExitCode code, PullFiles(context, result.files(), "", flags.directory, flags.force));
  if (context.globals().output != OutputFormat::kTable) context.PrintStreamed(result);
  return code;
}

CommandResult DiffAdapters(CommandContext& context, const DiffFlags& flags) {
  SBORA_ASSIGN_OR_RETURN(Client* const client, context.Connect());
  v1::CompareAdaptersRequest request;
  for (const std::string& name : flags.names) request.add_adapters(name);
  SBORA_ASSIGN_OR_RETURN(const v1::CompareAdaptersResponse response, client->CompareAdapters(std::move(request)));
  context.Print(response);
  return ExitCode::kOk;
}

void AddPull(const CommandRoot& root, CLI::App& parent) {
  root.Verb<PullFlags>(
      parent, "pull", "Download an adapter and check every hash",
      [](CLI::App& app, PullFlags& flags) {
        DeclareName(app, flags, "Job or adapter");
        DeclareTarget(app, flags);
      },
      PullAdapter);
}

void AddConversions(const CommandRoot& root, CLI::App& group) {
  root.Verb<ExportFlags>(
      group, "export", "Write an adapter in another format",
      [](CLI::App& app, ExportFlags& flags) {
        DeclareName(app, flags, "Job or adapter");
        DeclareTarget(app, flags);
        app.add_option("--format", flags.format, "peft, patch, or gguf: the merged model in one file");
        app.add_option("--gguf-type", flags.gguf_type, "Of --format gguf: f16 (default) or q8_0");
        app.add_option("--request-id", flags.request_id,
                       "UUID4; the same one again returns the first call's operation");
      },
      ExportAdapter);
  root.Verb<MergeFlags>(
      group, "merge", "Add adapters to their base and write the whole checkpoint",
      [](CLI::App& app, MergeFlags& flags) {
        app.add_option("NAMES", flags.names, "Jobs or adapters, all of one base")->required();
        app.add_option("--weights", flags.weights, "What each one's change is multiplied by, in order (default 1 each)")
            ->delimiter(',')
            ->allow_extra_args(false)  // what follows is a name
            ->option_text("w1,w2,...");
        app.add_flag("--allow-overlap", flags.allow_overlap,
                     "Add up adapters that change the same weights, instead of refusing them");
        app.add_option("--into", flags.into,
                       "nf4 or float (default: as the base was held in training). Of adapters of an NF4 base, float gives "
                       "a plain checkpoint of the de-quantised weights");
        DeclareTarget(app, flags);
        app.add_option("--request-id", flags.request_id,
                       "UUID4; the same one again returns the first call's operation");
      },
      MergeAdapters);
  root.Verb<DiffFlags>(
      group, "diff", "Where adapters change the same weights, and whether they merge exactly",
      [](CLI::App& app, DiffFlags& flags) {
        app.add_option("NAMES", flags.names, "Two or more adapters, or jobs that will make them")->required();
      },
      DiffAdapters);
}

}  // namespace

void AddAdapters(const CommandRoot& root) {
  AddPull(root, root.app);
  CLI::App& group = root.Group("adapters", "Trained adapters");
  root.Verb<ListFlags>(group, "list", "List adapters", DeclareList,
                       [](CommandContext& context, const ListFlags& flags) -> CommandResult {
                         SBORA_ASSIGN_OR_RETURN(Client* const client, context.Connect());
                         return PrintList(context, client->ListAdapters(flags.Options()));
                       });
  root.Verb<NameFlag>(
      group, "get", "Show an adapter",
      [](CLI::App& app, NameFlag& flags) { DeclareName(app, flags, "Job or adapter"); },
      [](CommandContext& context, const NameFlag& flags) -> CommandResult {
        SBORA_ASSIGN_OR_RETURN(Client* const client, context.Connect());
        SBORA_ASSIGN_OR_RETURN(const v1::Adapter adapter, FindAdapter(*client, flags.name));
        context.Print(adapter);
        return ExitCode::kOk;
      });
  AddPull(root, group);
  AddConversions(root, group);
  AddPatches(root, group);
  root.Verb<NameFlag>(
      group, "delete", "Delete an adapter", [](CLI::App& app, NameFlag& flags) { DeclareName(app, flags, "Adapter"); },
      [](CommandContext& context, const NameFlag& flags) -> CommandResult {
        SBORA_ASSIGN_OR_RETURN(Client* const client, context.Connect());
        const std::string name = AdapterName(*client, flags.name);
        SBORA_RETURN_IF_ERROR(client->DeleteAdapter(name));
        context.PrintNothing();
        context.Note("deleted " + name);
        return ExitCode::kOk;
      });
}

}  // namespace sbora::client
