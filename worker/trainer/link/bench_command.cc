#include "worker/trainer/link/bench_command.h"

#include <fmt/format.h>

#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>

#include "common/file.h"
#include "common/logging.h"
#include "common/status_macros.h"
#include "worker/trainer/link/flags.h"
#include "worker/trainer/session/bench_session.h"
#ifdef SBORA_WITH_TASKS
#include "worker/trainer/session/quiet_observer.h"
#include "worker/trainer/tasks/prepare.h"
#endif

namespace sbora::trainer {
namespace {

constexpr int64_t kMaxCount = 1'000'000;
constexpr int64_t kDefaultRank = 32;
constexpr double kMaxDropout = 0.99;

/// A token cache as it is, or one made of text in `work`.
StatusOr<std::filesystem::path> Cache(const std::filesystem::path& data, const std::filesystem::path& model,
                                      const core::DataSpec& data_spec, const std::filesystem::path& work) {
  if (data.extension() == ".tokens") return data;
#ifdef SBORA_WITH_TASKS
  PrepareRequest request;
  request.model_dir = model;
  request.dataset = data;
  request.token_cache_dir = work;
  request.spec.adapter.target_modules = {core::LinearModule::kQ};
  request.spec.adapter.rank = 1;
  request.spec.data = data_spec;
  QuietObserver nobody;
  SBORA_RETURN_IF_ERROR(PrepareTokenCaches(request, nobody));
  return OnlyFile(work, ".train.tokens");
#else
  static_cast<void>(model);
  static_cast<void>(data_spec);
  static_cast<void>(work);
  return Unimplemented("BENCH_DATA", fmt::format("{}: this build has no tokenizer; give a .tokens file", data.string()));
#endif
}

struct Command {
  BenchRequest request;  ///< but for the token cache
  std::filesystem::path data;
  core::DataSpec data_spec;         ///< of a token cache that is made here
  std::filesystem::path cache_dir;  ///< empty: a temporary one
  bool json = false;
};

/// None for "auto".
StatusOr<std::optional<core::ComputeForm>> ParseForm(const std::string& name) {
  if (name == "auto") return std::optional<core::ComputeForm>();
  for (const core::ComputeForm form : {core::ComputeForm::kPlain, core::ComputeForm::kMerged}) {
    if (name == core::ComputeFormName(form)) return std::optional(form);
  }
  return InvalidArgument("COMPUTE_FORM_UNKNOWN", fmt::format("--form {} is unknown; auto, plain and merged are known", name));
}

StatusOr<Command> Parse(const std::vector<std::string>& arguments) {
  SBORA_ASSIGN_OR_RETURN(const Flags flags,
                         Flags::Parse(arguments, {"model", "data", "method", "rank", "dropout", "form", "micro-batch", "cutoff",
                                                  "steps", "cache-dir", "threads", "device", "gradient-checkpointing",
                                                  "optimizer", "loss-on", "output"}));
  Command command;
  BenchRequest& request = command.request;
  SBORA_ASSIGN_OR_RETURN(request.model_dir, flags.Text("model"));
  std::string method = flags.Text("method", "sbora_fa");
  if (constexpr std::string_view kNf4 = "+nf4"; method.ends_with(kNf4)) {
    method.resize(method.size() - kNf4.size());
    request.quantization = {.kind = core::Quantization::kNf4, .double_quantization = true};
  }
  request.frozen = method == "none";
  if (!request.frozen) {
    SBORA_ASSIGN_OR_RETURN(request.adapter.method, core::ParseAdapterMethod(method));
  }
  SBORA_ASSIGN_OR_RETURN(request.adapter.rank, flags.Int("rank", kDefaultRank, 1, kMaxCount));
  SBORA_ASSIGN_OR_RETURN(request.adapter.dropout, flags.Number("dropout", 0, 0, kMaxDropout));
  SBORA_ASSIGN_OR_RETURN(request.form, ParseForm(flags.Text("form", "auto")));
  request.adapter.alpha = 2.0 * static_cast<double>(request.adapter.rank);
  request.adapter.target_modules = {core::LinearModule::kQ, core::LinearModule::kK, core::LinearModule::kV,
                                    core::LinearModule::kUp, core::LinearModule::kDown};
  if (request.adapter.method == core::AdapterMethod::kFull) core::TrainAllWeights(request.adapter);
  SBORA_ASSIGN_OR_RETURN(request.micro_batch, flags.Int("micro-batch", request.micro_batch, 1, kMaxCount));
  SBORA_ASSIGN_OR_RETURN(request.steps, flags.Int("steps", request.steps, 1, kMaxCount));
  SBORA_ASSIGN_OR_RETURN(const int64_t threads, flags.Int("threads", 0, 0, kMaxCount));
  request.device.threads = static_cast<int>(threads);
  request.device.device = flags.Text("device", "cpu");
  SBORA_ASSIGN_OR_RETURN(const int64_t checkpointing, flags.Int("gradient-checkpointing", 0, 0, 1));
  request.gradient_checkpointing = checkpointing == 1;
  const std::string optimizer = flags.Text("optimizer", "adamw");
  if (optimizer != "adamw" && optimizer != "adamw_8bit") {
    return InvalidArgument("OPTIMIZER_UNKNOWN", fmt::format("--optimizer {} is unknown; adamw and adamw_8bit are known", optimizer));
  }
  if (optimizer == "adamw_8bit") request.optimizer = core::OptimizerKind::kAdamW8Bit;
  SBORA_ASSIGN_OR_RETURN(command.data, flags.Text("data"));
  SBORA_ASSIGN_OR_RETURN(command.data_spec.cutoff_tokens, flags.Int("cutoff", 0, 0, kMaxCount));
  const std::string loss_on = flags.Text("loss-on", "response");
  if (loss_on != "response" && loss_on != "all") {
    return InvalidArgument("LOSS_ON_UNKNOWN", fmt::format("--loss-on {} is unknown; response and all are known", loss_on));
  }
  if (loss_on == "all") command.data_spec.loss_on = core::LossOn::kAll;
  command.cache_dir = flags.Text("cache-dir", "");
  command.json = flags.Text("output", "text") == "json";
  return command;
}

StatusOr<BenchReport> Run(Command command) {
  BenchRequest& request = command.request;
  SBORA_ASSIGN_OR_RETURN(const auto work, TempDirectory::Create(std::filesystem::temp_directory_path(), "sbora-bench"));
  const auto& caches = command.cache_dir.empty() ? work.path() : command.cache_dir;
  SBORA_ASSIGN_OR_RETURN(request.token_cache, Cache(command.data, request.model_dir, command.data_spec, caches));
  return RunBench(request);
}

std::string_view FormName(const BenchReport& report) { return report.frozen ? "none" : core::ComputeFormName(report.form); }

void Print(const BenchReport& report, bool json) {
  if (!json) {
    fmt::print("{:.1f} tokens/s ({} tokens in {} steps, {:.2f} s, {} threads, adapter {}{}), loss {:.4f} -> {:.4f}, "
               "peak {:.0f} MiB\n",
               report.tokens_per_second, report.tokens, report.steps, report.seconds, report.threads, FormName(report),
               report.random_weights ? ", random weights" : "", report.first_loss, report.last_loss,
               static_cast<double>(report.peak_memory_bytes) / (1 << 20));
    return;
  }
  const nlohmann::json object = {{"tokensPerSecond", report.tokens_per_second},
                                 {"tokens", report.tokens},
                                 {"steps", report.steps},
                                 {"seconds", report.seconds},
                                 {"firstLoss", report.first_loss},
                                 {"lastLoss", report.last_loss},
                                 {"trainableParameters", report.trainable_parameters},
                                 {"adapterForm", FormName(report)},
                                 {"weightBytes", report.weight_bytes},
                                 {"threads", report.threads},
                                 {"peakMemoryBytes", report.peak_memory_bytes},
                                 {"peakDeviceBytes", report.peak_device_bytes},
                                 {"randomWeights", report.random_weights}};
  fmt::print("{}\n", object.dump());
}

}  // namespace

ExitCode BenchCommand(const std::vector<std::string>& arguments) {
  const auto command = Parse(arguments);
  if (!command.ok()) {
    fmt::print(stderr, "bench: {}\n", command.status().ToString());
    return ExitCode::kUsage;
  }
  const auto report = Run(*command);
  if (!report.ok()) {
    fmt::print(stderr, "bench failed: {}\n", report.status().ToString());
    return ExitCode::kError;
  }
  Print(*report, command->json);
  return ExitCode::kDone;
}

}  // namespace sbora::trainer
