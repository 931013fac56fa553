#include <fmt/format.h>

#include "client/commands/commands.h"
#include "client/interrupt.h"
#include "client/spec_fields.h"
#include "common/file.h"
#include "common/status_macros.h"
#include "data/choice_csv.h"

namespace sbora::client {
namespace {

struct UploadFlags {
  std::string file;
  std::string name;
  std::string display_name;
  std::string format;
  std::string request_id;
  bool validate_only = false;
};

/// MMLU's questions come as CSV, one file a subject; the service stores one file of JSON lines.
bool IsChoiceCsv(const std::filesystem::path& path) {
  std::error_code error;
  return path.extension() == ".csv" || std::filesystem::is_directory(path, error);
}

/// The file to upload: the one named, or JSON lines made of it in `work`.
StatusOr<LocalFile> FileToUpload(const std::filesystem::path& path, const std::filesystem::path& work) {
  if (!IsChoiceCsv(path)) return LocalFile{path, path.filename().string()};
  SBORA_ASSIGN_OR_RETURN(const std::string lines, data::ReadChoiceCsv(path));
  const std::filesystem::path file = work / "questions.jsonl";
  SBORA_RETURN_IF_ERROR(WriteFileAtomic(file, lines));
  return LocalFile{file, file.filename().string()};
}

CommandResult UploadDataset(CommandContext& context, const UploadFlags& flags) {
  v1::CreateDatasetRequest request;
  request.set_dataset_id(flags.name);
  request.set_request_id(flags.request_id);
  request.set_validate_only(flags.validate_only);
  request.mutable_dataset()->set_display_name(flags.display_name);
  if (!flags.format.empty()) SBORA_RETURN_IF_ERROR(SetField(*request.mutable_dataset(), "format", flags.format));
  SBORA_ASSIGN_OR_RETURN(Client* const client, context.Connect());
  SBORA_ASSIGN_OR_RETURN(const TempDirectory work,
                         TempDirectory::Create(std::filesystem::temp_directory_path(), "sbora-upload"));
  SBORA_ASSIGN_OR_RETURN(const LocalFile file, FileToUpload(flags.file, work.path()));
  {
    WaitScope wait(context.globals().timeout_seconds);
    ProgressLine progress(context.err(), SystemClock(), context.ProgressStyle());
    auto uploads = client->Upload({file}, wait.token(), [&](int64_t done, int64_t total) {
      progress.Update("uploading", RenderTransferProgress("uploading", done, total));
    });
    if (!uploads.ok()) return wait.Explain(uploads.status(), "nothing was stored; run the command again");
    request.set_upload(uploads->front().name());
  }
  SBORA_ASSIGN_OR_RETURN(const v1::Dataset dataset, client->CreateDataset(std::move(request)));
  context.Print(dataset);
  if (dataset.validation_report().invalid_samples() > 0) {
    context.Note(fmt::format("{} samples are invalid", dataset.validation_report().invalid_samples()));
    return flags.validate_only ? ExitCode::kUsage : ExitCode::kOk;
  }
  return ExitCode::kOk;
}

void DeclareFile(CLI::App& app, UploadFlags& flags) {
  app.add_option("FILE", flags.file,
                 "JSONL or JSON: alpaca, prompt/completion, chat messages or multiple choice; a CSV file of MMLU or a "
                 "folder of them (one subject each)")
      ->required();
  app.add_option("--format", flags.format, "alpaca, prompt_completion, chat or choice (default: by the first record)");
}

void DeclareUpload(CLI::App& app, UploadFlags& flags) {
  DeclareFile(app, flags);
  app.add_option("--name", flags.name, "Id of the data set in the project (made up when absent)");
  app.add_option("--display-name", flags.display_name, "Text for people");
  app.add_option("--request-id", flags.request_id, "UUID4; the same one again returns the first call's data set");
  app.add_flag("--validate-only", flags.validate_only, "Check without storing");
}

}  // namespace

void AddDatasets(const CommandRoot& root) {
  CLI::App& group = root.Group("datasets", "Training and evaluation data");
  root.Verb<UploadFlags>(group, "upload", "Upload, check and store a file", DeclareUpload, UploadDataset);
  root.Verb<UploadFlags>(group, "validate", "Check a file without storing it", DeclareFile,
                         [](CommandContext& context, UploadFlags flags) -> CommandResult {
                           flags.validate_only = true;
                           return UploadDataset(context, flags);
                         });
  root.Verb<ListFlags>(group, "list", "List data sets", DeclareList,
                       [](CommandContext& context, const ListFlags& flags) -> CommandResult {
                         SBORA_ASSIGN_OR_RETURN(Client* const client, context.Connect());
                         return PrintList(context, client->ListDatasets(flags.Options()));
                       });
  root.Verb<NameFlag>(
      group, "get", "Show a data set and its validation report",
      [](CLI::App& app, NameFlag& flags) { DeclareName(app, flags, "Data set"); },
      [](CommandContext& context, const NameFlag& flags) -> CommandResult {
        SBORA_ASSIGN_OR_RETURN(Client* const client, context.Connect());
        SBORA_ASSIGN_OR_RETURN(const v1::Dataset dataset,
                               client->GetDataset(client->ResourceName("datasets", flags.name)));
        context.Print(dataset);
        return ExitCode::kOk;
      });
  root.Verb<NameFlag>(
      group, "delete", "Delete a data set that no running job uses",
      [](CLI::App& app, NameFlag& flags) { DeclareName(app, flags, "Data set"); },
      [](CommandContext& context, const NameFlag& flags) -> CommandResult {
        SBORA_ASSIGN_OR_RETURN(Client* const client, context.Connect());
        const std::string name = client->ResourceName("datasets", flags.name);
        SBORA_RETURN_IF_ERROR(client->DeleteDataset(name));
        context.PrintNothing();
        context.Note("deleted " + name);
        return ExitCode::kOk;
      });
}

}  // namespace sbora::client
