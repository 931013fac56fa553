/// FineTuningSpec and JobSpec: the one place where protobuf meets the domain.
#pragma once

#include "common/status.h"
#include "core/job_spec.h"
#include "sbora/v1/spec.pb.h"

namespace sbora::core {

/// Fills in defaults, then checks (CheckJobSpec). Errors: INVALID_ARGUMENT INVALID_SPEC with one violation for each
/// problem, unknown enum numbers and module names among them.
StatusOr<JobSpec> ParseSpec(const v1::FineTuningSpec& spec);

/// Every field set: what the coordinator stores and hands out. ParseSpec(ToProto(s)) is s.
v1::FineTuningSpec ToProto(const JobSpec& spec);

/// The enums, for what is read without a whole spec. UNSPECIFIED is the default.
StatusOr<AdapterMethod> ParseMethod(v1::Method value);
StatusOr<PromptTemplate> ParsePromptTemplate(v1::PromptTemplate value);
StatusOr<DeviceKind> ParseDevice(v1::Device value);

}  // namespace sbora::core
