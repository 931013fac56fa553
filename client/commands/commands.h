/// One Add function for each resource: it puts its verbs below `root`, each of which stores what to run in `selected`.
#pragma once

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <functional>
#include <memory>
#include <string>

#include "client/commands/context.h"

namespace sbora::client {

struct CommandRoot {
  CLI::App& app;      ///< must outlive
  Command& selected;  ///< must outlive; set by the parsed verb

  /// A verb whose flags live in `Flags` and whose work is `run(context, flags)`. `declare(app, flags)` adds the flags.
  template <typename Flags, typename Declare, typename Run>
  void Verb(CLI::App& parent, const std::string& name, const std::string& help, Declare declare, Run run) const {
    CLI::App* verb = parent.add_subcommand(name, help);
    auto flags = std::make_shared<Flags>();  // shared by the parser, which writes it, and the command, which reads it
    declare(*verb, *flags);
    verb->callback([&selected = selected, flags, run] {
      selected = [flags, run](CommandContext& context) -> CommandResult { return run(context, *flags); };
    });
  }
  /// "models": a parent of verbs.
  CLI::App& Group(const std::string& name, const std::string& help) const;
};

/// A verb's one resource.
struct NameFlag {
  std::string name;
};
/// Declares the positional NAME.
void DeclareName(CLI::App& app, NameFlag& flags, const std::string& what);

struct ListFlags {
  int64_t limit = 50;
  bool all = false;

  ListOptions Options() const { return {.limit = all ? 0 : limit}; }
};
void DeclareList(CLI::App& app, ListFlags& flags);
/// Prints the page and says on stderr when there is more.
template <typename Response>
CommandResult PrintList(CommandContext& context, const StatusOr<Response>& list) {
  if (!list.ok()) return list.status();
  context.Print(*list);
  if (!list->next_page_token().empty()) context.Note("there are more: --all lists them, --limit N so many");
  return ExitCode::kOk;
}

/// "projects/p/adapters/a" of an adapter's or a job's name or id: a job's adapter has the job's id.
std::string AdapterName(const Client& client, const std::string& name);

/// Follows a job on stderr until it has ended; then prints it. With `stream` in JSON or YAML each message goes to
/// stdout instead. Ctrl-C leaves the job running and says how to go on.
CommandResult FollowJob(CommandContext& context, const std::string& job, bool stream);

/// What a finished operation answers with. Errors: INTERNAL BAD_OPERATION_RESPONSE when that is another message.
template <typename Response>
StatusOr<Response> ResponseOf(const google::longrunning::Operation& operation) {
  Response response;
  if (operation.response().UnpackTo(&response)) return response;
  return Internal("BAD_OPERATION_RESPONSE",
                  fmt::format("{} answers with \"{}\" instead of {}; are client and server of one version?",
                              operation.name(), operation.response().type_url(), Response::descriptor()->full_name()));
}

/// Checks files against their hashes and says where they are.
CommandResult PullFiles(CommandContext& context, const google::protobuf::RepeatedPtrField<v1::File>& files,
                        const std::string& manifest_sha256, const std::string& directory, bool force);

/// Downloads an evaluation's examples.jsonl to `file`, checked and whole or not at all; replaces a file that exists.
/// Errors: FAILED_PRECONDITION NO_EXAMPLES, those of Client::Pull and of writing.
Status WriteExamples(CommandContext& context, const v1::EvaluationJob& job, const std::string& file);

void AddModels(const CommandRoot& root);
void AddDatasets(const CommandRoot& root);
/// jobs, submit, watch.
void AddJobs(const CommandRoot& root);
/// jobs submit and submit.
void AddSubmit(const CommandRoot& root, CLI::App& parent);
/// adapters apply-patch, reverse-patch.
void AddPatches(const CommandRoot& root, CLI::App& group);
/// adapters, pull.
void AddAdapters(const CommandRoot& root);
/// evaluate: makes an evaluation and waits for it.
void AddEvaluate(const CommandRoot& root);
/// evaluations: what became of those that nobody waited for.
void AddEvaluations(const CommandRoot& root);
/// compare: one job by several methods and seeds.
void AddCompare(const CommandRoot& root);
void AddGenerate(const CommandRoot& root);
void AddEstimate(const CommandRoot& root);
void AddWorkers(const CommandRoot& root);
void AddServer(const CommandRoot& root);
void AddCompletion(const CommandRoot& root);

}  // namespace sbora::client
