#include <fmt/format.h>

#include "client/commands/commands.h"
#include "client/commands/job_spec_flags.h"
#include "common/status_macros.h"

namespace sbora::client {
namespace {

struct SubmitFlags : JobSpecFlags {
  std::vector<std::string> labels;
  std::string name;
  std::string display_name;
  std::string request_id;
  bool validate_only = false;
  bool wait = false;
};

void DeclareSubmit(CLI::App& app, SubmitFlags& flags) {
  app.add_option("--label", flags.labels, "A label of the job")->option_text("key=value");
  app.add_option("--name", flags.name, "Id of the job in the project (made up when absent)");
  app.add_option("--display-name", flags.display_name, "Text for people");
  app.add_option("--request-id", flags.request_id, "UUID4; the same one again returns the first call's job");
  app.add_flag("--validate-only", flags.validate_only, "Check, and show the job as it would be stored");
  app.add_flag("--wait", flags.wait, "Follow the job to its end; Ctrl-C leaves it running");
  flags.JobSpecFlags::Declare(app, "-f,--file");
  app.footer("A quantized base may be written with the method: --method sbora_fa+nf4.");
}

CommandResult Submit(CommandContext& context, const SubmitFlags& flags) {
  v1::CreateFineTuningJobRequest request;
  SBORA_ASSIGN_OR_RETURN(Client* const client, context.Connect());
  SBORA_ASSIGN_OR_RETURN(*request.mutable_fine_tuning_job()->mutable_spec(), flags.Build(*client));
  for (const std::string& label : flags.labels) {
    SBORA_ASSIGN_OR_RETURN(const auto pair, SplitPair(label, "--label"));
    (*request.mutable_fine_tuning_job()->mutable_labels())[pair.first] = pair.second;
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
