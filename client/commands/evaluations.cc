#include "client/commands/commands.h"
#include "common/status_macros.h"

namespace sbora::client {
namespace {

void DeclareEvaluation(CLI::App& app, NameFlag& flags) { DeclareName(app, flags, "Evaluation"); }

std::string FullName(const Client& client, const NameFlag& flags) { return client.ResourceName("evaluationJobs", flags.name); }

CommandResult PrintJob(CommandContext& context, const StatusOr<v1::EvaluationJob>& job) {
  if (!job.ok()) return job.status();
  context.Print(*job);
  return ExitCode::kOk;
}

}  // namespace

void AddEvaluations(const CommandRoot& root) {
  CLI::App& group = root.Group("evaluations", "Evaluations that were started");
  root.Verb<ListFlags>(group, "list", "List evaluations, newest first", DeclareList,
                       [](CommandContext& context, const ListFlags& flags) -> CommandResult {
                         SBORA_ASSIGN_OR_RETURN(Client* const client, context.Connect());
                         return PrintList(context, client->ListEvaluations(flags.Options()));
                       });
  root.Verb<NameFlag>(group, "get", "Show an evaluation and its result", DeclareEvaluation,
                      [](CommandContext& context, const NameFlag& flags) -> CommandResult {
                        SBORA_ASSIGN_OR_RETURN(Client* const client, context.Connect());
                        return PrintJob(context, client->GetEvaluation(FullName(*client, flags)));
                      });
  root.Verb<NameFlag>(group, "cancel", "End an evaluation", DeclareEvaluation,
                      [](CommandContext& context, const NameFlag& flags) -> CommandResult {
                        SBORA_ASSIGN_OR_RETURN(Client* const client, context.Connect());
                        return PrintJob(context, client->CancelEvaluation(FullName(*client, flags)));
                      });
  root.Verb<NameFlag>(group, "delete", "Delete an evaluation that has ended", DeclareEvaluation,
                      [](CommandContext& context, const NameFlag& flags) -> CommandResult {
                        SBORA_ASSIGN_OR_RETURN(Client* const client, context.Connect());
                        const std::string name = FullName(*client, flags);
                        SBORA_RETURN_IF_ERROR(client->DeleteEvaluation(name));
                        context.PrintNothing();
                        context.Note("deleted " + name);
                        return ExitCode::kOk;
                      });
}

}  // namespace sbora::client
