#include "client/cli.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>

#include "client/commands/commands.h"
#include "client/error_report.h"
#include "client/spec_fields.h"

namespace sbora::client {
namespace {

void AddGlobalFlags(CLI::App& app, GlobalFlags& globals) {
  app.add_option("--server", globals.server, "host:port of the server")->envname("SBORA_SERVER")->capture_default_str();
  app.add_option("--project", globals.project, "Project")->envname("SBORA_PROJECT")->capture_default_str();
  app.add_option("--token-file", globals.token_file, "File that holds the access token")->envname("SBORA_TOKEN_FILE");
  app.add_option("--tls-ca", globals.tls_ca, "PEM file of the CA of the server's certificate (needed off loopback)")
      ->envname("SBORA_TLS_CA");
  const std::map<std::string, OutputFormat> formats = {
      {"table", OutputFormat::kTable}, {"json", OutputFormat::kJson}, {"yaml", OutputFormat::kYaml}};
  app.add_option("--output", globals.output, "table, json or yaml")
      ->transform(CLI::CheckedTransformer(formats, CLI::ignore_case).description(""))
      ->option_text("table|json|yaml");
  app.add_option(
         "--timeout", globals.timeout_seconds,
         "Seconds one call may take (default 60; 600 for generate and where the server reads whole files), and a wait "
         "(default no limit)")
      ->check(CLI::PositiveNumber);
  app.add_flag("--quiet", globals.quiet, "No progress and no messages but errors");
}

/// "jobs submit" of what was parsed before the error.
const CLI::App& Deepest(const CLI::App& app, std::string& path) {
  const CLI::App* now = &app;
  while (!now->get_subcommands().empty()) {
    now = now->get_subcommands().front();
    path += (path.empty() ? "" : " ") + now->get_name();
  }
  return *now;
}

/// For an unknown flag or verb: the nearest known one.
std::string Suggestion(const CLI::App& root, const CLI::App& verb, const std::vector<std::string>& arguments) {
  std::vector<std::string> flags;
  for (const CLI::App* app : {&verb, &root}) {
    for (const CLI::Option* option : app->get_options()) {
      for (const std::string& name : option->get_lnames()) flags.push_back("--" + name);
    }
  }
  std::vector<std::string> verbs;
  for (const CLI::App* sub : verb.get_subcommands([](const CLI::App*) { return true; }))
    verbs.push_back(sub->get_name());
  for (const std::string& argument : arguments) {
    const bool flag = argument.starts_with("--");
    const std::string name = argument.substr(0, flag ? argument.find('=') : std::string::npos);
    const std::vector<std::string>& known = flag ? flags : verbs;
    if (std::find(known.begin(), known.end(), name) != known.end()) continue;
    if (!flag && verbs.empty()) continue;
    if (const std::string near = Nearest(name, known); !near.empty()) {
      return fmt::format("; did you mean {} instead of {}?", near, name);
    }
  }
  return "";
}

Status UsageError(const CLI::App& app, const CLI::ParseError& error, const std::vector<std::string>& arguments,
                  std::string& path) {
  const CLI::App& verb = Deepest(app, path);
  std::string message = error.what();
  message.erase(message.find_last_not_of(" \n") + 1);
  const auto kind = static_cast<CLI::ExitCodes>(error.get_exit_code());
  if (kind == CLI::ExitCodes::ExtrasError || kind == CLI::ExitCodes::RequiredError) {
    message += Suggestion(app, verb, arguments);
  }
  return InvalidArgument("USAGE", message);
}

ExitCode RunSelected(CommandContext& context, const Command& command, const std::string& path) {
  const CommandResult result = command(context);
  if (result.ok()) return *result;
  const Status& status = result.status();
  context.err() << FormatError(status, {.server = context.globals().server, .command = path}) << std::flush;
  if (context.operation_failed() && status.code() != StatusCode::kCancelled) return ExitCode::kFailed;
  return ExitCodeOf(status.code());
}

}  // namespace

ExitCode RunCli(const std::vector<std::string>& arguments, const CliOptions& options) {
  CommandContext context(
      {.out = options.out, .err = options.err, .terminal = options.terminal, .channel = options.channel});
  Command selected;
  CLI::App app("Fine-tunes language models on an sbora server.", "sbora-client");
  app.fallthrough();  // global flags are taken anywhere on the line
  app.require_subcommand(1);
  app.footer(ExitCodeHelp());
  app.set_version_flag("--version", std::string("sbora-client " SBORA_VERSION));
  AddGlobalFlags(app, context.globals());
  const CommandRoot root{app, selected};
  AddJobs(root);
  AddModels(root);
  AddDatasets(root);
  AddAdapters(root);
  AddEvaluate(root);
  AddEvaluations(root);
  AddCompare(root);
  AddGenerate(root);
  AddEstimate(root);
  AddWorkers(root);
  AddServer(root);
  AddCompletion(root);
  std::string path;
  try {
    // The parser takes the last argument first.
    app.parse(std::vector<std::string>(arguments.rbegin(), arguments.rend()));
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) {
      app.exit(error, options.out, options.err);
      return ExitCode::kOk;
    }
    const Status status = UsageError(app, error, arguments, path);
    const std::string help = path.empty() ? "sbora-client --help" : fmt::format("sbora-client {} --help", path);
    options.err << fmt::format("error: {} [{}]\nhint: {}\n", status.message(), status.reason(), help);
    return ExitCode::kUsage;
  }
  Deepest(app, path);
  return RunSelected(context, selected, path);
}

}  // namespace sbora::client
