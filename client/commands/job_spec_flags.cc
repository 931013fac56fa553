#include "client/commands/job_spec_flags.h"

#include <fmt/format.h>

#include "client/spec_yaml.h"
#include "common/status_macros.h"

namespace sbora::client {
namespace {

Status Missing(std::string_view field) {
  return InvalidArgument("FIELD_REQUIRED", fmt::format("--{} is required, as a flag or in --file", field))
      .WithViolation(fmt::format("fine_tuning_job.spec.{}", field), "required");
}

}  // namespace

void JobSpecFlags::Declare(CLI::App& app, const std::string& file_option, const std::set<std::string>& leave_out) {
  app.add_option(file_option, file, "job.yaml: the spec's fields as keys; flags win over it");
  app.add_option("--set", sets, "Any field by path, for example --set training.seed=7; wins over flags")
      ->option_text("path=value");
  spec = std::make_unique<SpecFlags>(app, *v1::FineTuningSpec::descriptor(), leave_out);
}

StatusOr<v1::FineTuningSpec> JobSpecFlags::Build(const Client& client) const {
  v1::FineTuningSpec out;
  if (!file.empty()) SBORA_RETURN_IF_ERROR(ReadSpecFile(file, out));
  SBORA_RETURN_IF_ERROR(spec->Apply(out));
  for (const std::string& set : sets) {
    SBORA_ASSIGN_OR_RETURN(const auto pair, SplitPair(set, "--set"));
    SBORA_RETURN_IF_ERROR(SetField(out, pair.first, pair.second));
  }
  if (out.model().empty()) return Missing("model");
  if (out.dataset().empty() && out.datasets().empty()) return Missing("dataset");
  out.set_model(client.ResourceName("models", out.model()));
  if (!out.dataset().empty()) out.set_dataset(client.ResourceName("datasets", out.dataset()));
  for (std::string& name : *out.mutable_datasets()) name = client.ResourceName("datasets", name);
  if (!out.validation_dataset().empty()) out.set_validation_dataset(client.ResourceName("datasets", out.validation_dataset()));
  return out;
}

StatusOr<std::pair<std::string, std::string>> SplitPair(const std::string& text, const char* flag) {
  const size_t equals = text.find('=');
  if (equals == std::string::npos || equals == 0) {
    return InvalidArgument("USAGE", fmt::format("{} takes NAME=VALUE, not \"{}\"", flag, text));
  }
  return std::pair(text.substr(0, equals), text.substr(equals + 1));
}

}  // namespace sbora::client
