#include "client/commands/commands.h"
#include "common/status_macros.h"

namespace sbora::client {

void AddWorkers(const CommandRoot& root) {
  CLI::App& group = root.Group("workers", "Workers");
  root.Verb<ListFlags>(group, "list", "List workers", DeclareList,
                       [](CommandContext& context, const ListFlags& flags) -> CommandResult {
                         SBORA_ASSIGN_OR_RETURN(Client* const client, context.Connect());
                         return PrintList(context, client->ListWorkers(flags.Options()));
                       });
  root.Verb<NameFlag>(
      group, "drain", "Give a worker no more work and move what it runs elsewhere",
      [](CLI::App& app, NameFlag& flags) { DeclareName(app, flags, "Worker"); },
      [](CommandContext& context, const NameFlag& flags) -> CommandResult {
        SBORA_ASSIGN_OR_RETURN(Client* const client, context.Connect());
        const bool full = flags.name.find('/') != std::string::npos;
        SBORA_ASSIGN_OR_RETURN(const v1::Worker worker,
                               client->DrainWorker(full ? flags.name : "workers/" + flags.name));
        context.Print(worker);
        return ExitCode::kOk;
      });
}

void AddServer(const CommandRoot& root) {
  CLI::App& group = root.Group("server", "The server");
  struct NoFlags {};
  root.Verb<NoFlags>(
      group, "info", "Version and addresses", [](CLI::App&, NoFlags&) {},
      [](CommandContext& context, const NoFlags&) -> CommandResult {
        SBORA_ASSIGN_OR_RETURN(Client* const client, context.Connect());
        SBORA_ASSIGN_OR_RETURN(const v1::ServerInfo info, client->ServerInfo());
        context.Print(info);
        return ExitCode::kOk;
      });
}

}  // namespace sbora::client
