#include "client/commands/commands.h"
#include "client/spec_flags.h"
#include "common/file.h"
#include "common/status_macros.h"

namespace sbora::client {
namespace {

/// A worker may have to load the model first.
constexpr std::chrono::seconds kGenerateDeadline{600};
constexpr int64_t kMaxPromptBytes = 64 << 10;

struct GenerateFlags {
  std::vector<std::string> prompts;
  std::vector<std::string> prompt_files;
  std::unique_ptr<SpecFlags> spec;
};

void Declare(CLI::App& app, GenerateFlags& flags) {
  app.add_option("--prompt", flags.prompts, "A prompt; may be given again")->expected(1)->take_all();
  app.add_option("--prompt-file", flags.prompt_files, "A file that holds one prompt; may be given again")
      ->expected(1)
      ->take_all();
  flags.spec =
      std::make_unique<SpecFlags>(app, *v1::GenerateRequest::descriptor(), std::set<std::string>{"parent", "prompts"});
  app.footer("--prompt-template chat makes each prompt one user turn of the model's chat template.");
}

CommandResult Generate(CommandContext& context, const GenerateFlags& flags) {
  v1::GenerateRequest request;
  SBORA_RETURN_IF_ERROR(flags.spec->Apply(request));
  for (const std::string& prompt : flags.prompts) request.add_prompts(prompt);
  for (const std::string& file : flags.prompt_files) {
    SBORA_ASSIGN_OR_RETURN(*request.add_prompts(), ReadFile(file, kMaxPromptBytes));
  }
  if (request.prompts().empty()) return InvalidArgument("USAGE", "give at least one --prompt or --prompt-file");
  if (request.model().empty() == request.adapter().empty()) {
    return InvalidArgument("USAGE", "give one of --model (the base) and --adapter (an adapter on its base)");
  }
  SBORA_ASSIGN_OR_RETURN(Client* const client, context.Connect(kGenerateDeadline));
  if (!request.model().empty()) request.set_model(client->ResourceName("models", request.model()));
  if (!request.adapter().empty()) request.set_adapter(AdapterName(*client, request.adapter()));
  SBORA_ASSIGN_OR_RETURN(const v1::GenerateResponse response, client->Generate(std::move(request)));
  context.Print(response);
  return ExitCode::kOk;
}

}  // namespace

void AddGenerate(const CommandRoot& root) {
  root.Verb<GenerateFlags>(root.app, "generate", "Complete prompts with a model or an adapter", Declare, Generate);
}

}  // namespace sbora::client
