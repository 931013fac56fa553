#include "data/validation_report.h"

#include <algorithm>
#include <bit>
#include <nlohmann/json.hpp>

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

}  // namespace

std::string ToJson(const ValidationReport& report) {
  Json errors = Json::array();
  for (const RecordError& error : report.errors) {
    errors.push_back({{"line", error.line},
                      {"byteOffset", error.byte_offset},
                      {"reason", error.reason},
                      {"message", error.message}});
  }
  const Json json = {{"ok", report.ok()},
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
                     {"maskedSamples", report.masked_samples},
                     {"example", report.example}};
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
  const auto statistics = [&](const char* key) {
    const Json object = json.value(key, Json());
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
  for (const Json& error : json.value("errors", Json::array())) {
    report.errors.push_back({.line = integer(error, "line"),
                             .byte_offset = integer(error, "byteOffset"),
                             .reason = text(error, "reason"),
                             .message = text(error, "message")});
  }
  report.train = statistics("train");
  report.validation = statistics("validation");
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
