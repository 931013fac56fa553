#include <fmt/format.h>

#include "client/commands/commands.h"
#include "client/spec_flags.h"
#include "client/spec_yaml.h"
#include "common/ids.h"
#include "common/status_macros.h"

namespace sbora::client {
namespace {

struct SubmitFlags {
  std::string file;
  std::vector<std::string> sets;
  std::vector<std::string> labels;
  std::string name;
  std::string display_name;
  std::string request_id;
  bool validate_only = false;
  bool wait = false;
  std::unique_ptr<SpecFlags> spec;
};

void DeclareSubmit(CLI::App& app, SubmitFlags& flags) {
  app.add_option("-f,--file", flags.file, "job.yaml: the spec's fields as keys; flags win over it");
  app.add_option("--set", flags.sets, "Any field by path, for example --set training.seed=7; wins over flags")
      ->option_text("path=value");
  app.add_option("--label", flags.labels, "A label of the job")->option_text("key=value");
  app.add_option("--name", flags.name, "Id of the job in the project (made up when absent)");
  app.add_option("--display-name", flags.display_name, "Text for people");
  app.add_option("--request-id", flags.request_id, "UUID4; the same one again returns the first call's job");
  app.add_flag("--validate-only", flags.validate_only, "Check, and show the job as it would be stored");
  app.add_flag("--wait", flags.wait, "Follow the job to its end; Ctrl-C leaves it running");
  flags.spec = std::make_unique<SpecFlags>(app, *v1::FineTuningSpec::descriptor());
  app.footer("A quantized base may be written with the method: --method sbora_fa+nf4.");
}

StatusOr<std::pair<std::string, std::string>> SplitPair(const std::string& text, const char* flag) {
  const size_t equals = text.find('=');
  if (equals == std::string::npos || equals == 0) {
    return InvalidArgument("USAGE", fmt::format("{} takes NAME=VALUE, not \"{}\"", flag, text));
  }
  return std::pair(text.substr(0, equals), text.substr(equals + 1));
}

StatusOr<v1::FineTuningSpec> BuildSpec(const SubmitFlags& flags) {
  v1::FineTuningSpec spec;
  if (!flags.file.empty()) SBORA_RETURN_IF_ERROR(ReadSpecFile(flags.file, spec));
  SBORA_RETURN_IF_ERROR(flags.spec->Apply(spec));
  for (const std::string& set : flags.sets) {
    SBORA_ASSIGN_OR_RETURN(const auto pair, SplitPair(set, "--set"));
    SBORA_RETURN_IF_ERROR(SetField(spec, pair.first, pair.second));
  }
  for (const char* field : {"model", "dataset"}) {
    const bool missing = field[0] == 'm' ? spec.model().empty() : spec.dataset().empty() && spec.datasets().empty();
    if (missing) {
      return InvalidArgument("FIELD_REQUIRED", fmt::format("--{} is required, as a flag or in --file", field))
          .WithViolation(fmt::format("fine_tuning_job.spec.{}", field), "required");
    }
  }
  return spec;
}

CommandResult Submit(CommandContext& context, const SubmitFlags& flags) {
  v1::CreateFineTuningJobRequest request;
  SBORA_ASSIGN_OR_RETURN(*request.mutable_fine_tuning_job()->mutable_spec(), BuildSpec(flags));
  for (const std::string& label : flags.labels) {
    SBORA_ASSIGN_OR_RETURN(const auto pair, SplitPair(label, "--label"));
    (*request.mutable_fine_tuning_job()->mutable_labels())[pair.first] = pair.second;
  }
  SBORA_ASSIGN_OR_RETURN(Client* const client, context.Connect());
  v1::FineTuningSpec& spec = *request.mutable_fine_tuning_job()->mutable_spec();
  spec.set_model(client->ResourceName("models", spec.model()));
  if (!spec.dataset().empty()) spec.set_dataset(client->ResourceName("datasets", spec.dataset()));
  for (std::string& name : *spec.mutable_datasets()) name = client->ResourceName("datasets", name);
  if (!spec.validation_dataset().empty()) {
    spec.set_validation_dataset(client->ResourceName("datasets", spec.validation_dataset()));
  }
  request.mutable_fine_tuning_job()->set_display_name(flags.display_name);
  request.set_fine_tuning_job_id(flags.name);
  request.set_request_id(flags.request_id);
  request.set_validate_only(flags.validate_only);
  SBORA_ASSIGN_OR_RETURN(const v1::FineTuningJob job, client->Submit(std::move(request)));
  if (flags.wait && !flags.validate_only) {
    context.Note("submitted " + job.name());
    return FollowJob(context, job.name(), false);
  }
  context.Print(job);
  if (!flags.validate_only) context.Note("follow it with: sbora-client watch " + ShortName(job.name()));
  return ExitCode::kOk;
}

}  // namespace

void AddSubmit(const CommandRoot& root, CLI::App& parent) {
  root.Verb<SubmitFlags>(parent, "submit", "Submit a fine-tuning job", DeclareSubmit, Submit);
}

}  // namespace sbora::client
