#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "client/commands/commands.h"
#include "client/interrupt.h"
#include "client/spec_fields.h"
#include "common/status_macros.h"

namespace sbora::client {
namespace {

struct ListJobsFlags : ListFlags {
  std::vector<std::string> states;
};

/// "running,queued" -> "state = RUNNING OR state = QUEUED".
StatusOr<std::string> StateFilter(const std::vector<std::string>& states) {
  const auto* type = v1::FineTuningJob::State_descriptor();
  const std::vector<std::string> known = EnumShortNames(*type);
  std::string filter;
  for (const std::string& state : states) {
    const std::string name = ToSnakeCase(state);
    const auto found = std::find(known.begin(), known.end(), name);
    if (found == known.end()) {
      return InvalidArgument("USAGE", fmt::format("--state {} is not one of {}", state, fmt::join(known, ", ")));
    }
    std::string upper = name;
    std::transform(upper.begin(), upper.end(), upper.begin(), [](unsigned char c) { return std::toupper(c); });
    filter += (filter.empty() ? "state = " : " OR state = ") + upper;
  }
  return filter;
}

struct LogFlags : NameFlag {
  bool follow = false;
};

CommandResult FollowEvents(CommandContext& context, Client& client, const std::string& name) {
  WaitScope wait(context.globals().timeout_seconds);
  WatchOptions options;
  options.stop = wait.token();
  const auto ended = client.Watch(name, options, [&](const v1::WatchFineTuningJobResponse& message) {
    if (!message.has_event() && !message.has_change()) return OkStatus();
    const v1::FineTuningEvent& event = message.has_event() ? message.event() : message.change();
    if (context.globals().output == OutputFormat::kTable) {
      context.out() << FormatEvent(event) << std::endl;
    } else {
      context.PrintStreamed(event);
    }
    return OkStatus();
  });
  if (!ended.ok()) return wait.Explain(ended.status(), fmt::format("job {} goes on", ShortName(name)));
  return ExitCode::kOk;
}

CommandResult Logs(CommandContext& context, const LogFlags& flags) {
  SBORA_ASSIGN_OR_RETURN(Client* const client, context.Connect());
  const std::string name = client->ResourceName("fineTuningJobs", flags.name);
  if (flags.follow) return FollowEvents(context, *client, name);
  return PrintList(context, client->ListEvents(name, {.limit = 0}));
}

using JobCall = StatusOr<v1::FineTuningJob> (Client::*)(const std::string&);

/// get, cancel, pause, resume: a name in, the job out.
void AddJobCall(const CommandRoot& root, CLI::App& group, const std::string& verb, const std::string& help,
                JobCall call) {
  root.Verb<NameFlag>(
      group, verb, help, [](CLI::App& app, NameFlag& flags) { DeclareName(app, flags, "Job"); },
      [call](CommandContext& context, const NameFlag& flags) -> CommandResult {
        SBORA_ASSIGN_OR_RETURN(Client* const client, context.Connect());
        SBORA_ASSIGN_OR_RETURN(const v1::FineTuningJob job,
                               (client->*call)(client->ResourceName("fineTuningJobs", flags.name)));
        context.Print(job);
        return ExitCode::kOk;
      });
}

void AddWatch(const CommandRoot& root, CLI::App& parent) {
  root.Verb<NameFlag>(
      parent, "watch", "Follow a job to its end; with --output json, every message as a line",
      [](CLI::App& app, NameFlag& flags) { DeclareName(app, flags, "Job"); },
      [](CommandContext& context, const NameFlag& flags) { return FollowJob(context, flags.name, true); });
}

void AddJobLists(const CommandRoot& root, CLI::App& group) {
  root.Verb<ListJobsFlags>(
      group, "list", "List jobs, newest first",
      [](CLI::App& app, ListJobsFlags& flags) {
        DeclareList(app, flags);
        app.add_option("--state", flags.states, "Only jobs in these states")->delimiter(',');
      },
      [](CommandContext& context, const ListJobsFlags& flags) -> CommandResult {
        SBORA_ASSIGN_OR_RETURN(const std::string filter, StateFilter(flags.states));
        SBORA_ASSIGN_OR_RETURN(Client* const client, context.Connect());
        return PrintList(context, client->ListJobs(flags.Options(), filter));
      });
  root.Verb<LogFlags>(
      group, "logs", "Events of a job",
      [](CLI::App& app, LogFlags& flags) {
        DeclareName(app, flags, "Job");
        app.add_flag("--follow", flags.follow, "Go on until the job has ended");
      },
      Logs);
  root.Verb<NameFlag>(
      group, "metrics", "Loss, rate and speed of each step",
      [](CLI::App& app, NameFlag& flags) { DeclareName(app, flags, "Job"); },
      [](CommandContext& context, const NameFlag& flags) -> CommandResult {
        SBORA_ASSIGN_OR_RETURN(Client* const client, context.Connect());
        return PrintList(context,
                         client->ListMetrics(client->ResourceName("fineTuningJobs", flags.name), {.limit = 0}));
      });
  root.Verb<NameFlag>(
      group, "checkpoints", "Checkpoints that are kept, for a resume",
      [](CLI::App& app, NameFlag& flags) { DeclareName(app, flags, "Job"); },
      [](CommandContext& context, const NameFlag& flags) -> CommandResult {
        SBORA_ASSIGN_OR_RETURN(Client* const client, context.Connect());
        return PrintList(context,
                         client->ListCheckpoints(client->ResourceName("fineTuningJobs", flags.name), {.limit = 0}));
      });
}

}  // namespace

void AddJobs(const CommandRoot& root) {
  AddSubmit(root, root.app);
  AddWatch(root, root.app);
  CLI::App& group = root.Group("jobs", "Fine-tuning jobs");
  AddSubmit(root, group);
  AddJobLists(root, group);
  AddJobCall(root, group, "get", "Show a job", &Client::GetJob);
  AddWatch(root, group);
  AddJobCall(root, group, "cancel", "End a job", &Client::CancelJob);
  AddJobCall(root, group, "pause", "Checkpoint a job and give its device back", &Client::PauseJob);
  AddJobCall(root, group, "resume", "Queue a paused job again", &Client::ResumeJob);
  root.Verb<NameFlag>(
      group, "delete", "Delete a job that has ended; its adapter stays",
      [](CLI::App& app, NameFlag& flags) { DeclareName(app, flags, "Job"); },
      [](CommandContext& context, const NameFlag& flags) -> CommandResult {
        SBORA_ASSIGN_OR_RETURN(Client* const client, context.Connect());
        const std::string name = client->ResourceName("fineTuningJobs", flags.name);
        SBORA_RETURN_IF_ERROR(client->DeleteJob(name));
        context.PrintNothing();
        context.Note("deleted " + name);
        return ExitCode::kOk;
      });
}

}  // namespace sbora::client
