#include "client/commands/commands.h"

#include <fmt/format.h>

#include "client/interrupt.h"
#include "common/status_macros.h"

namespace sbora::client {

CLI::App& CommandRoot::Group(const std::string& name, const std::string& help) const {
  CLI::App* group = app.add_subcommand(name, help);
  group->require_subcommand(1);
  return *group;
}

void DeclareName(CLI::App& app, NameFlag& flags, const std::string& what) {
  app.add_option("NAME", flags.name, what)->required();
}

void DeclareList(CLI::App& app, ListFlags& flags) {
  app.add_option("--limit", flags.limit, "List at most so many (default 50)")->check(CLI::PositiveNumber);
  app.add_flag("--all", flags.all, "List all of them");
}

std::string AdapterName(const Client& client, const std::string& name) {
  constexpr std::string_view kJobs = "/fineTuningJobs/";
  std::string full = client.ResourceName("adapters", name);
  if (const size_t at = full.find(kJobs); at != std::string::npos) full.replace(at, kJobs.size(), "/adapters/");
  return full;
}

CommandResult PullFiles(CommandContext& context, const google::protobuf::RepeatedPtrField<v1::File>& files,
                        const std::string& manifest_sha256, const std::string& directory, bool force) {
  SBORA_ASSIGN_OR_RETURN(Client* const client, context.Connect());
  WaitScope wait(context.globals().timeout_seconds);
  {
    ProgressLine progress(context.err(), SystemClock(), context.ProgressStyle());
    const Client::PullOptions options{
        .force = force, .stop = wait.token(), .progress = [&](int64_t done, int64_t total) {
          progress.Update("downloading", RenderTransferProgress("downloading", done, total));
        }};
    const Status status = client->Pull(files, manifest_sha256, directory, options);
    if (!status.ok()) return wait.Explain(status, "nothing was left behind; run the command again");
  }
  context.Note(fmt::format("{} files checked, in {}", files.size(), directory));
  return ExitCode::kOk;
}

}  // namespace sbora::client
