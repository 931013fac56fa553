#include "client/error_report.h"

#include <fmt/format.h>

#include <array>
#include <string_view>
#include <utility>

namespace sbora::client {
namespace {

/// Hints by reason; the first whose key is part of the reason counts.
constexpr std::array<std::pair<std::string_view, std::string_view>, 15> kByReason = {{
    {"MODEL_IN_USE", "wait for the jobs that use it, or cancel them: sbora-client jobs list"},
    {"DATASET_IN_USE", "wait for the jobs that use it, or cancel them: sbora-client jobs list"},
    {"JOB_NOT_TERMINAL", "end it first: sbora-client jobs (or evaluations) cancel NAME"},
    {"JOB_ENDED", "see how it ended: sbora-client jobs (or evaluations) get NAME"},
    {"MODEL_NOT_FOUND", "sbora-client models list shows what is there; models import PATH --name N adds one"},
    {"DATASET_NOT_FOUND", "sbora-client datasets list shows what is there; datasets upload FILE --name N adds one"},
    {"ADAPTER_NOT_FOUND", "sbora-client adapters list shows what is there; a job has one once it has SUCCEEDED"},
    {"EVALUATION_JOB_NOT_FOUND", "sbora-client evaluations list --all shows what is there"},
    {"JOB_NOT_FOUND", "sbora-client jobs list --all shows what is there"},
    {"WORKER_NOT_FOUND", "sbora-client workers list shows what is there"},
    {"INVALID_DATASET", "mend the lines named above; sbora-client datasets validate FILE checks without storing"},
    {"PICKLE_REFUSED", ""},
    {"DIRECTORY_NOT_EMPTY", ""},
    {"INSECURE_ADDRESS", ""},
    {"HASH_MISMATCH", "run the command again; if it happens again, the stored file is damaged: see the server's log"},
}};

/// Users write the spec alone, in job.yaml and after --set; where it lies in a request is for programs.
std::string_view FieldForPeople(std::string_view field) {
  for (const std::string_view wrapper : {"fine_tuning_job.", "evaluation_job."}) {
    if (field.starts_with(wrapper)) return field.substr(wrapper.size());
  }
  return field;
}

std::string HintByCode(StatusCode code, const ErrorContext& context) {
  switch (code) {
    case StatusCode::kUnavailable:
      return fmt::format(
          "is sbora-server running at {}? Start one with: sbora-server --with-worker; or name another with "
          "--server HOST:PORT or SBORA_SERVER",
          context.server);
    case StatusCode::kDeadlineExceeded:
      return "allow more time with --timeout SECONDS";
    case StatusCode::kResourceExhausted:
      return "the server is at a limit; try again later";
    case StatusCode::kUnauthenticated:
      return "give the access token's file with --token-file";
    case StatusCode::kPermissionDenied:
      return "this token may not do that; ask for one that may, or use another --project";
    case StatusCode::kAlreadyExists:
      return "choose another --name, or delete the one that is there";
    case StatusCode::kInvalidArgument:
    case StatusCode::kOutOfRange:
      return context.command.empty() ? "" : fmt::format("sbora-client {} --help", context.command);
    case StatusCode::kNotFound:
      return "check the name, --project and --server";
    case StatusCode::kInternal:
    case StatusCode::kUnknown:
      return "this is a fault of the service; its log says more";
    case StatusCode::kOk:
    case StatusCode::kCancelled:
    case StatusCode::kFailedPrecondition:
    case StatusCode::kAborted:
    case StatusCode::kUnimplemented:
    case StatusCode::kDataLoss:
      return "";
  }
  return "";
}

}  // namespace

std::string HintFor(const Status& status, const ErrorContext& context) {
  for (const auto& [reason, hint] : kByReason) {
    if (status.reason().find(reason) != std::string::npos) return std::string(hint);
  }
  return HintByCode(status.code(), context);
}

std::string FormatError(const Status& status, const ErrorContext& context) {
  std::string out = fmt::format("error: {} [{}]\n", status.message(), status.reason());
  for (const FieldViolation& violation : status.violations()) {
    out += fmt::format("  {}: {}\n", FieldForPeople(violation.field), violation.description);
  }
  if (const std::string hint = HintFor(status, context); !hint.empty()) out += fmt::format("hint: {}\n", hint);
  return out;
}

}  // namespace sbora::client
