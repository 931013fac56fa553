/// A job on a tiny model that takes a second or two: long enough to be hit, short enough to repeat.
#pragma once

#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <string>

#include "common/status_macros.h"
#include "tests/testing/service.h"
#include "tests/testing/tiny_model.h"

namespace sbora::testing {

inline void WriteSmallDataset(const std::filesystem::path& file, int samples) {
  std::ofstream out(file);
  for (int i = 0; i < samples; ++i) {
    out << R"({"prompt": "color of item )" << i << R"(: ", "completion": ")" << (i % 3 == 0 ? "red" : i % 3 == 1 ? "blue" : "green")
        << "\"}\n";
  }
}

inline v1::FineTuningSpec SmallSpec(int64_t max_steps) {
  v1::FineTuningSpec spec;
  spec.set_model("tiny");
  spec.set_dataset("colors");
  spec.mutable_adapter()->set_method(v1::METHOD_SBORA_FA);
  spec.mutable_adapter()->set_rank(4);
  spec.mutable_adapter()->set_dropout(0.1);
  spec.mutable_data()->set_cutoff_tokens(48);
  spec.mutable_training()->set_max_steps(max_steps);
  spec.mutable_training()->set_batch_size(4);
  spec.mutable_training()->set_micro_batch_size(2);
  spec.mutable_training()->set_learning_rate(1e-3);
  spec.mutable_checkpoint()->set_checkpoint_every_steps(20);
  spec.mutable_resources()->set_threads(1);
  return spec;
}

/// Has `hit` submit and strike jobs, named after `id` and a number, until one was struck while it ran, which `hit` answers:
/// a job of a second or two may come to its end between two lines of a test whose machine stands still. The id of the
/// struck job; an error when none of ten was. After a fatal failure inside `hit` it answers true.
inline StatusOr<std::string> HitARunningJob(const std::string& id, const std::function<bool(const std::string& id)>& hit) {
  constexpr int kTries = 10;
  for (int i = 1; i <= kTries; ++i) {
    std::string numbered = fmt::format("{}-{}", id, i);
    if (hit(numbered)) return numbered;
  }
  return DeadlineExceeded("NOT_HIT", fmt::format("{} jobs came to their end before they were struck", kTries));
}

/// Model `tiny` and data set `colors`, into a service that runs.
inline Status AddInputs(Service& service) {
  const auto folder = service.directory() / "tiny";
  SBORA_RETURN_IF_ERROR(WriteTinyModel(folder));
  SBORA_RETURN_IF_ERROR(service.ImportModel(folder, "tiny"));
  WriteSmallDataset(service.directory() / "colors.jsonl", 37);
  return service.UploadDataset(service.directory() / "colors.jsonl", "colors");
}

/// Server and worker up, with the inputs there.
inline Status StartAndAddInputs(Service& service) {
  SBORA_RETURN_IF_ERROR(service.StartBoth());
  return AddInputs(service);
}

inline StatusOr<std::unique_ptr<Service>> StartWithInputs() {
  SBORA_ASSIGN_OR_RETURN(std::unique_ptr<Service> service, Service::Create());
  SBORA_RETURN_IF_ERROR(StartAndAddInputs(*service));
  return service;
}

}  // namespace sbora::testing
