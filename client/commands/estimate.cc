#include "client/commands/commands.h"
#include "client/spec_flags.h"
#include "client/spec_yaml.h"
#include "common/file.h"
#include "common/status_macros.h"

namespace sbora::client {
namespace {

constexpr int64_t kMaxConfigBytes = 1 << 20;

struct EstimateFlags {
  std::string file;
  std::string model_config;
  double tokens_per_sample = 0;
  double supervised_share = 0;
  std::unique_ptr<SpecFlags> spec;
};

void Declare(CLI::App& app, EstimateFlags& flags) {
  app.add_option("FILE,-f,--file", flags.file, "job.yaml: the spec's fields as keys; flags win over it");
  app.add_option("--model-config", flags.model_config, "A local config.json instead of a stored model");
  app.add_option("--tokens-per-sample", flags.tokens_per_sample, "Mean length of the samples (cutoff_tokens when absent)");
  app.add_option("--supervised-share", flags.supervised_share, "Share of the tokens that the loss counts (1 when absent)");
  flags.spec = std::make_unique<SpecFlags>(app, *v1::FineTuningSpec::descriptor());
}

CommandResult Estimate(CommandContext& context, const EstimateFlags& flags) {
  v1::EstimateFineTuningJobRequest request;
  v1::FineTuningSpec& spec = *request.mutable_spec();
  if (!flags.file.empty()) SBORA_RETURN_IF_ERROR(ReadSpecFile(flags.file, spec));
  SBORA_RETURN_IF_ERROR(flags.spec->Apply(spec));
  if (!flags.model_config.empty()) {
    SBORA_ASSIGN_OR_RETURN(*request.mutable_model_config_json(), ReadFile(flags.model_config, kMaxConfigBytes));
  } else if (spec.model().empty()) {
    return InvalidArgument("USAGE", "give --model (a stored one) or --model-config (a local config.json)");
  }
  request.set_tokens_per_sample(flags.tokens_per_sample);
  request.set_supervised_share(flags.supervised_share);
  SBORA_ASSIGN_OR_RETURN(Client* const client, context.Connect());
  if (!spec.model().empty()) spec.set_model(client->ResourceName("models", spec.model()));
  SBORA_ASSIGN_OR_RETURN(const v1::EstimateFineTuningJobResponse estimate, client->Estimate(std::move(request)));
  context.Print(estimate);
  return ExitCode::kOk;
}

}  // namespace

void AddEstimate(const CommandRoot& root) {
  root.Verb<EstimateFlags>(root.app, "estimate", "What a job would train, store, hold in memory and take in time, before it runs", Declare, Estimate);
}

}  // namespace sbora::client
