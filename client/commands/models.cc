#include <fmt/format.h>
#include <fmt/ranges.h>

#include "client/commands/commands.h"
#include "client/interrupt.h"
#include "client/model_files.h"
#include "common/status_macros.h"

namespace sbora::client {
namespace {

struct ImportFlags {
  std::string path;
  std::string name;
  std::string display_name;
  std::string request_id;
  bool validate_only = false;
};

struct ExportFlags : NameFlag {
  std::string directory;
  bool force = false;
};

StatusOr<std::vector<v1::Upload>> UploadAll(CommandContext& context, Client& client,
                                            const std::vector<LocalFile>& files) {
  WaitScope wait(context.globals().timeout_seconds);
  ProgressLine progress(context.err(), SystemClock(), context.ProgressStyle());
  auto uploads = client.Upload(files, wait.token(), [&](int64_t done, int64_t total) {
    progress.Update("uploading", RenderTransferProgress("uploading", done, total));
  });
  if (!uploads.ok()) return wait.Explain(uploads.status(), "nothing was stored; run the command again");
  return uploads;
}

CommandResult Import(CommandContext& context, const ImportFlags& flags) {
  SBORA_ASSIGN_OR_RETURN(const ModelFiles picked, PickModelFiles(flags.path));
  if (!picked.skipped.empty()) {
    context.Note(fmt::format("not uploaded (pickle): {}", fmt::join(picked.skipped, ", ")));
  }
  SBORA_ASSIGN_OR_RETURN(Client* const client, context.Connect());
  SBORA_ASSIGN_OR_RETURN(const std::vector<v1::Upload> uploads, UploadAll(context, *client, picked.files));
  v1::ImportModelRequest request;
  request.set_model_id(flags.name);
  request.set_request_id(flags.request_id);
  request.set_validate_only(flags.validate_only);
  request.mutable_model()->set_display_name(flags.display_name);
  for (size_t i = 0; i < uploads.size(); ++i) {
    v1::UploadedFile* file = request.add_files();
    file->set_path(picked.files[i].name);
    file->set_upload(uploads[i].name());
  }
  SBORA_ASSIGN_OR_RETURN(google::longrunning::Operation operation, client->ImportModel(std::move(request)));
  if (flags.validate_only) {  // no operation was started
    context.PrintNothing();
    context.Note("the files can be imported");
    return ExitCode::kOk;
  }
  SBORA_ASSIGN_OR_RETURN(operation, context.FinishOperation(std::move(operation), "importing"));
  SBORA_ASSIGN_OR_RETURN(const auto model, ResponseOf<v1::Model>(operation));
  context.Print(model);
  return ExitCode::kOk;
}

void DeclareImport(CLI::App& app, ImportFlags& flags) {
  app.add_option("PATH", flags.path,
                 "A Hugging Face folder (config.json, tokenizer.json, *.safetensors) or a .gguf file")
      ->required();
  app.add_option("--name", flags.name, "Id of the model in the project (made up when absent)");
  app.add_option("--display-name", flags.display_name, "Text for people");
  app.add_option("--request-id", flags.request_id, "UUID4; the same one again returns the first call's operation");
  app.add_flag("--validate-only", flags.validate_only, "Check without storing");
}

CommandResult Export(CommandContext& context, const ExportFlags& flags) {
  SBORA_ASSIGN_OR_RETURN(Client* const client, context.Connect());
  SBORA_ASSIGN_OR_RETURN(const v1::Model model, client->GetModel(client->ResourceName("models", flags.name)));
  SBORA_ASSIGN_OR_RETURN(const ExitCode code, PullFiles(context, model.files(), "", flags.directory, flags.force));
  context.Print(model);
  return code;
}

void DeclareExport(CLI::App& app, ExportFlags& flags) {
  DeclareName(app, flags, "Model");
  app.add_option("-o,--directory", flags.directory, "A fresh folder for the files")->required();
  app.add_flag("--force", flags.force, "Replace the folder if it is not empty");
}

}  // namespace

void AddModels(const CommandRoot& root) {
  CLI::App& group = root.Group("models", "Base models");
  root.Verb<ImportFlags>(group, "import", "Upload a checkpoint and make it a base model", DeclareImport, Import);
  root.Verb<ExportFlags>(group, "export", "Download a base model as the service keeps it: a Hugging Face folder",
                         DeclareExport, Export);
  root.Verb<ListFlags>(group, "list", "List models", DeclareList,
                       [](CommandContext& context, const ListFlags& flags) -> CommandResult {
                         SBORA_ASSIGN_OR_RETURN(Client* const client, context.Connect());
                         return PrintList(context, client->ListModels(flags.Options()));
                       });
  root.Verb<NameFlag>(
      group, "get", "Show a model", [](CLI::App& app, NameFlag& flags) { DeclareName(app, flags, "Model"); },
      [](CommandContext& context, const NameFlag& flags) -> CommandResult {
        SBORA_ASSIGN_OR_RETURN(Client* const client, context.Connect());
        SBORA_ASSIGN_OR_RETURN(const v1::Model model, client->GetModel(client->ResourceName("models", flags.name)));
        context.Print(model);
        return ExitCode::kOk;
      });
  root.Verb<NameFlag>(
      group, "delete", "Delete a model that no running job uses",
      [](CLI::App& app, NameFlag& flags) { DeclareName(app, flags, "Model"); },
      [](CommandContext& context, const NameFlag& flags) -> CommandResult {
        SBORA_ASSIGN_OR_RETURN(Client* const client, context.Connect());
        const std::string name = client->ResourceName("models", flags.name);
        SBORA_RETURN_IF_ERROR(client->DeleteModel(name));
        context.PrintNothing();
        context.Note("deleted " + name);
        return ExitCode::kOk;
      });
}

}  // namespace sbora::client
