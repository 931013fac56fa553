#include "data/validation_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <nlohmann/json.hpp>
#include <numeric>

#include "data/mixture.h"

namespace sbora::data {
namespace {

using Json = nlohmann::json;

constexpr int64_t kExactLengths = 4096;  // 2^12
constexpr int64_t kStepsPerOctave = 16;

/// Bucket of a length: itself up to 4096, then 16 buckets an octave.
size_t Bucket(int64_t length) {
  if (length < kExactLengths) return static_cast<size_t>(length);
  const int octave = static_cast<int>(std::bit_width(static_cast<uint64_t>(length))) - 13;
  const int64_t step = (length >> (octave + 8)) - kStepsPerOctave;
  return static_cast<size_t>(kExactLengths + octave * kStepsPerOctave + step);
}

/// The least length of a bucket.
int64_t LengthOf(size_t bucket) {
  const auto index = static_cast<int64_t>(bucket);
  if (index < kExactLengths) return index;
  const int64_t octave = (index - kExactLengths) / kStepsPerOctave;
  const int64_t step = (index - kExactLengths) % kStepsPerOctave;
  return (kStepsPerOctave + step) << (octave + 8);
}

Json StatisticsJson(const TokenStatistics& s) {
  return {{"samples", s.samples},
          {"tokens", s.tokens},
          {"supervisedTokens", s.supervised_tokens},
          {"supervisedShare", s.supervised_share()},
          {"minTokens", s.min_tokens},
          {"meanTokens", s.mean_tokens()},
          {"medianTokens", s.median_tokens},
          {"p95Tokens", s.p95_tokens},
          {"maxTokens", s.max_tokens}};
}

Json ErrorJson(const RecordError& error) {
  return {{"line", error.line}, {"byteOffset", error.byte_offset}, {"reason", error.reason}, {"message", error.message}};
}

}  // namespace

Status CheckUsable(const ValidationReport& report) {
  if (report.first_rejection) {
    const RecordError& first = *report.first_rejection;
    return InvalidArgument(first.reason, fmt::format("{} ({} such samples in all)", first.message, report.rejected_samples))
        .WithMetadata("line", std::to_string(first.line))
        .WithMetadata("byte_offset", std::to_string(first.byte_offset));
  }
  if (report.train.samples == 0 && report.dropped_samples > 0) {
    return InvalidArgument("DATASET_ALL_DROPPED",
                           fmt::format("no sample is left to train on: {} are over the cutoff and dropped, {} have no "
                                       "supervised token. Raise cutoff_tokens or choose the policy truncate",
                                       report.dropped_samples, report.masked_samples));
  }
  if (report.train.samples == 0) {
    return InvalidArgument("ALL_LABELS_MASKED",
                           fmt::format("none of the {} samples has a supervised token: the cutoff removes every response, or "
                                       "responses are empty. Raise cutoff_tokens or train with loss on all tokens",
                                       report.masked_samples));
  }
  for (const DatasetShare& share : report.datasets) {
    if (share.train.samples > 0) continue;
    return InvalidArgument(
        "MIXTURE_PART_EMPTY",
        fmt::format("data set {} of the mixture has no sample to train on: {} of its {} records are held out, "
                    "the others are over the cutoff or have no supervised token. Leave it out, or raise "
                    "cutoff_tokens",
                    share.name, share.validation_samples, share.records));
  }
  if (report.with_validation && report.validation.samples == 0) {
    return InvalidArgument("VALIDATION_EMPTY", "no validation sample has a supervised token within the cutoff; give other "
                                               "validation data, raise cutoff_tokens, or train without validation");
  }
  return OkStatus();
}

Status PlanMixture(std::span<const double> weights, int64_t epoch_samples, ValidationReport& report) {
  if (report.datasets.empty()) return OkStatus();
  std::vector<int64_t> sizes;
  for (const DatasetShare& share : report.datasets) sizes.push_back(share.train.samples);
  const std::vector<int64_t> counts = MixtureCounts(sizes, weights, epoch_samples);
  for (size_t i = 0; i < sizes.size(); ++i) {
    report.datasets[i].epoch_samples = counts[i];
    if (counts[i] > 0) continue;
    return InvalidArgument(
        "MIXTURE_PART_UNSEEN",
        fmt::format("the weight of data set {} gives it no sample in an epoch of {}; raise its weight or "
                    "epoch_samples, or leave it out",
                    report.datasets[i].name, std::accumulate(counts.begin(), counts.end(), int64_t{0})));
  }
  return OkStatus();
}

bool Lossy(const ValidationReport& report) {
  return report.truncated_samples + report.dropped_samples + report.masked_samples > 0;
}

std::string Summary(const ValidationReport& report) {
  std::string text = fmt::format("{} training samples, {} tokens, {:.1f} % of them supervised; {} validation samples",
                                 report.train.samples, report.train.tokens, 100.0 * report.train.supervised_share(),
                                 report.validation.samples);
  for (const DatasetShare& share : report.datasets) {
    text += fmt::format("; {}: {} samples, {} tokens, {} held out", share.name, share.train.samples, share.train.tokens,
                        share.validation_samples);
    if (share.epoch_samples > 0) text += fmt::format(", {} drawn in each epoch", share.epoch_samples);
  }
  if (!Lossy(report)) return text;
  return text + fmt::format("; {} samples were shortened to the cutoff, {} left out as too long, {} left out because no "
                            "supervised token was left",
                            report.truncated_samples, report.dropped_samples, report.masked_samples);
}

std::string ToJson(const ValidationReport& report) {
  Json errors = Json::array();
  for (const RecordError& error : report.errors) errors.push_back(ErrorJson(error));
  Json json = {{"ok", report.bad_records == 0 && CheckUsable(report).ok()},
                     {"format", DatasetFormatName(report.format)},
                     {"promptTemplate", report.prompt_template},
                     {"records", report.records},
                     {"badRecords", report.bad_records},
                     {"errors", errors},
                     {"train", StatisticsJson(report.train)},
                     {"validation", StatisticsJson(report.validation)},
                     {"truncatedSamples", report.truncated_samples},
                     {"droppedSamples", report.dropped_samples},
                     {"rejectedSamples", report.rejected_samples},
                     {"firstRejection", report.first_rejection ? ErrorJson(*report.first_rejection) : Json()},
                     {"withValidation", report.with_validation},
                     {"maskedSamples", report.masked_samples},
                     {"datasets", Json::array()},
                     {"example", report.example}};
  for (const DatasetShare& share : report.datasets) {
    json["datasets"].push_back({{"name", share.name},
                                {"records", share.records},
                                {"train", StatisticsJson(share.train)},
                                {"validationSamples", share.validation_samples},
                                {"epochSamples", share.epoch_samples}});
  }
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::optional<ValidationReport> ParseValidationReport(std::string_view json_text) {
  const Json json = Json::parse(json_text, nullptr, false);
  if (!json.is_object()) return std::nullopt;
  bool ok = true;
  const auto integer = [&ok](const Json& object, const char* key) -> int64_t {
    const Json value = object.is_object() ? object.value(key, Json()) : Json();
    ok = ok && value.is_number_integer();
    return value.is_number_integer() ? value.get<int64_t>() : 0;
  };
  const auto text = [&ok](const Json& object, const char* key) -> std::string {
    const Json value = object.is_object() ? object.value(key, Json()) : Json();
    ok = ok && value.is_string();
    return value.is_string() ? value.get<std::string>() : std::string();
  };
  const auto statistics = [&](const Json& parent, const char* key) {
    const Json object = parent.is_object() ? parent.value(key, Json()) : Json();
    return TokenStatistics{.samples = integer(object, "samples"),
                           .tokens = integer(object, "tokens"),
                           .supervised_tokens = integer(object, "supervisedTokens"),
                           .min_tokens = integer(object, "minTokens"),
                           .max_tokens = integer(object, "maxTokens"),
                           .median_tokens = integer(object, "medianTokens"),
                           .p95_tokens = integer(object, "p95Tokens")};
  };
  ValidationReport report;
  const std::string format = text(json, "format");
  for (const DatasetFormat known : {DatasetFormat::kAlpaca, DatasetFormat::kPromptCompletion, DatasetFormat::kChat,
                                    DatasetFormat::kChoice}) {
    if (format == DatasetFormatName(known)) report.format = known;
  }
  report.prompt_template = text(json, "promptTemplate");
  report.records = integer(json, "records");
  report.bad_records = integer(json, "badRecords");
  const auto record_error = [&](const Json& error) {
    return RecordError{.line = integer(error, "line"),
                       .byte_offset = integer(error, "byteOffset"),
                       .reason = text(error, "reason"),
                       .message = text(error, "message")};
  };
  for (const Json& error : json.value("errors", Json::array())) report.errors.push_back(record_error(error));
  if (json.value("firstRejection", Json()).is_object()) report.first_rejection = record_error(json["firstRejection"]);
  for (const Json& share : json.value("datasets", Json::array())) {
    report.datasets.push_back({.name = text(share, "name"),
                               .records = integer(share, "records"),
                               .train = statistics(share, "train"),
                               .validation_samples = integer(share, "validationSamples"),
                               .epoch_samples = integer(share, "epochSamples")});
  }
  report.with_validation = json.value("withValidation", Json()) == true;
  report.train = statistics(json, "train");
  report.validation = statistics(json, "validation");
  report.truncated_samples = integer(json, "truncatedSamples");
  report.dropped_samples = integer(json, "droppedSamples");
  report.rejected_samples = integer(json, "rejectedSamples");
  report.masked_samples = integer(json, "maskedSamples");
  report.example = text(json, "example");
  if (!ok) return std::nullopt;
  return report;
}

TokenStatisticsBuilder::TokenStatisticsBuilder() : histogram_(Bucket((int64_t{1} << 40) - 1) + 1, 0) {}

void TokenStatisticsBuilder::Add(int64_t tokens, int64_t supervised_tokens) {
  statistics_.min_tokens = statistics_.samples == 0 ? tokens : std::min(statistics_.min_tokens, tokens);
  statistics_.max_tokens = std::max(statistics_.max_tokens, tokens);
  ++statistics_.samples;
  statistics_.tokens += tokens;
  statistics_.supervised_tokens += supervised_tokens;
  ++histogram_[std::min(Bucket(tokens), histogram_.size() - 1)];
}

TokenStatistics TokenStatisticsBuilder::Finish() const {
  TokenStatistics result = statistics_;
  const auto quantile = [&](int64_t percent) -> int64_t {
    const int64_t rank = (result.samples * percent + 99) / 100;
    int64_t seen = 0;
    for (size_t bucket = 0; bucket < histogram_.size(); ++bucket) {
      seen += histogram_[bucket];
      if (seen >= rank && seen > 0) return std::clamp(LengthOf(bucket), result.min_tokens, result.max_tokens);
    }
    return 0;
  };
  result.median_tokens = quantile(50);
  result.p95_tokens = quantile(95);
  return result;
}

}  // namespace sbora::data
