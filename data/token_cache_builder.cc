#include "data/token_cache_builder.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "common/file.h"
#include "common/sha256.h"
#include "common/status_macros.h"
#include "core/counter_rng.h"
#include "data/packing.h"
#include "data/prompt_template.h"
#include "data/token_cache.h"

namespace sbora::data {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxExampleBytes = 4096;
constexpr int64_t kProgressEvery = 100;

std::string_view PolicyName(core::CutoffPolicy policy) {
  switch (policy) {
    case core::CutoffPolicy::kTruncate: return "truncate";
    case core::CutoffPolicy::kDrop: return "drop";
    case core::CutoffPolicy::kReject: return "reject";
  }
  return "truncate";
}

/// Cuts to source, target and whole cutoffs; true when something was lost. Order: source keeps its beginning, target its
/// beginning, then the whole its beginning.
bool Cut(const TokenCacheOptions& options, TokenizedSample& sample) {
  const auto original = sample.ids.size();
  const auto erase = [&](int64_t from, int64_t to) {
    sample.ids.erase(sample.ids.begin() + from, sample.ids.begin() + to);
    sample.supervised.erase(sample.supervised.begin() + from, sample.supervised.begin() + to);
  };
  const int64_t start = sample.response_start;
  const auto size = [&] { return static_cast<int64_t>(sample.ids.size()); };
  if (options.target_cutoff_tokens > 0 && size() - start > options.target_cutoff_tokens) {
    erase(start + options.target_cutoff_tokens, size());
  }
  if (options.source_cutoff_tokens > 0 && start > options.source_cutoff_tokens) {
    erase(options.source_cutoff_tokens, start);
    sample.response_start = options.source_cutoff_tokens;
  }
  if (options.cutoff_tokens > 0 && size() > options.cutoff_tokens) erase(options.cutoff_tokens, size());
  return sample.ids.size() != original;
}

/// The sample decoded, with [[ ]] around what is supervised.
std::string Decorate(const TokenizedSample& sample, const TextModel& model) {
  std::string text;
  for (size_t begin = 0; begin < sample.ids.size() && text.size() < kMaxExampleBytes;) {
    size_t end = begin;
    while (end < sample.ids.size() && sample.supervised[end] == sample.supervised[begin]) ++end;
    const auto part = model.tokenizer->Decode(std::span(sample.ids).subspan(begin, end - begin), false);
    const std::string decoded = part.ok() ? *part : "(not decodable)";
    text += sample.supervised[begin] != 0 ? "[[" + decoded + "]]" : decoded;
    begin = end;
  }
  if (text.size() <= kMaxExampleBytes) return text;
  text.resize(kMaxExampleBytes);
  while (!text.empty() && (static_cast<uint8_t>(text.back()) & 0xC0) == 0x80) text.pop_back();  // no half character
  if (!text.empty() && static_cast<uint8_t>(text.back()) >= 0xC0) text.pop_back();
  return text + "…";
}

/// A file to read, and what messages about its lines begin with.
struct Source {
  fs::path path;
  ReaderOptions reader;
  std::string role;         ///< empty for the one training file
  bool validation = false;  ///< all of it
};

std::vector<Source> SourcesOf(const TokenCacheInputs& inputs, const TokenCacheOptions& options) {
  std::vector<Source> sources;
  if (inputs.mixture.empty()) sources.push_back({.path = inputs.dataset, .reader = options.reader, .role = ""});
  for (const MixtureInput& part : inputs.mixture) {
    sources.push_back({.path = part.path, .reader = options.reader, .role = fmt::format("data set {}: ", part.name)});
    sources.back().reader.format = part.format;
  }
  if (!inputs.validation_dataset.empty()) {
    sources.push_back(
        {.path = inputs.validation_dataset, .reader = options.reader, .role = "validation data: ", .validation = true});
    if (options.validation_format) sources.back().reader.format = *options.validation_format;
  }
  return sources;
}

/// One pass over the files, or two: the first counts and checks, so that nothing is written for bad data.
class Pass {
 public:
  Pass(const TokenCacheInputs& inputs, const TokenCacheOptions& options)
      : inputs_(inputs), options_(options), sources_(SourcesOf(inputs, options)) {
    for (const Source& source : sources_) {
      std::error_code ec;
      const auto bytes = fs::file_size(source.path, ec);
      if (!ec) bytes_total_ += static_cast<int64_t>(bytes);
    }
    report_.with_validation = !inputs.validation_dataset.empty() || options.validation_samples > 0;
  }

  ValidationReport& report() { return report_; }
  const std::vector<Source>& sources() const { return sources_; }

  /// Reads every record of `source` without tokenising.
  StatusOr<int64_t> Count(const Source& source) {
    SBORA_ASSIGN_OR_RETURN(const auto reader, DatasetReader::Open(source.path, source.reader));
    for (int64_t n = 0;; ++n) {
      SBORA_ASSIGN_OR_RETURN(const auto record, reader->Next());
      if (!record) break;
      SBORA_RETURN_IF_ERROR(CheckCancelled(n));
      if (options_.progress && n % kProgressEvery == 0) options_.progress(0, bytes_total_);
    }
    const ReaderStats& stats = reader->stats();
    if (report_.records == 0) report_.format = reader->format();
    report_.records += stats.records;
    report_.bad_records += stats.bad_records;
    for (RecordError error : stats.errors) {
      error.message = source.role + error.message;
      report_.errors.push_back(std::move(error));
    }
    SBORA_RETURN_IF_ERROR(ToStatus(stats, inputs_.mixture.empty() ? source.path.filename().string()
                                                                  : source.role + source.path.filename().string()));
    return stats.records;
  }

  /// Tokenises every record of `source`. `held_out[i]` sends record i of all training data to validation. Writers may
  /// be null. Sources must come in their order.
  Status Tokens(const Source& source, const std::vector<bool>& held_out, TokenCacheWriter* train,
                TokenCacheWriter* validation) {
    SBORA_ASSIGN_OR_RETURN(const auto reader, DatasetReader::Open(source.path, source.reader));
    DatasetShare share;
    TokenStatisticsBuilder share_train;
    for (int64_t n = 0;; ++n) {
      SBORA_ASSIGN_OR_RETURN(const auto record, reader->Next());
      if (!record) break;
      SBORA_RETURN_IF_ERROR(CheckCancelled(n));
      if (options_.progress && n % kProgressEvery == 0)
        options_.progress(bytes_before_ + reader->stats().bytes, bytes_total_);
      const auto number = static_cast<size_t>(records_before_ + n);
      const bool to_validation = source.validation || (number < held_out.size() && held_out[number]);
      SBORA_ASSIGN_OR_RETURN(const auto sample, MakeSample(*record, source.role));
      if (!sample) continue;
      const auto tokens = static_cast<int64_t>(sample->ids.size());
      (to_validation ? validation_ : train_).Add(tokens, Labels(*sample));
      if (to_validation) {
        ++share.validation_samples;
      } else {
        share_train.Add(tokens, Labels(*sample));
      }
      TokenCacheWriter* writer = to_validation ? validation : train;
      if (writer != nullptr) SBORA_RETURN_IF_ERROR(writer->Add(sample->ids, sample->supervised));
    }
    bytes_before_ += reader->stats().bytes;
    if (source.validation) return OkStatus();
    records_before_ += reader->stats().records;
    if (inputs_.mixture.empty()) return OkStatus();
    if (train != nullptr) train->EndPart();
    share.name = inputs_.mixture[report_.datasets.size()].name;
    share.records = reader->stats().records;
    share.train = share_train.Finish();
    report_.datasets.push_back(std::move(share));
    return OkStatus();
  }

  void FinishReport() {
    report_.train = train_.Finish();
    report_.validation = validation_.Finish();
  }

 private:
  static int64_t Labels(const TokenizedSample& sample) {
    return CountLabels({.ids = sample.ids, .supervised = sample.supervised});
  }

  Status CheckCancelled(int64_t n) const {
    if (n % kProgressEvery == 0 && options_.cancelled && options_.cancelled()) {
      return Cancelled("CANCELLED", fmt::format("cancelled at record {}", n));
    }
    return OkStatus();
  }

  /// Nothing for a sample that policy or mask leaves out.
  StatusOr<std::optional<TokenizedSample>> MakeSample(const Record& record, const std::string& role) {
    const core::PromptTemplate resolved = ResolveTemplate(options_.prompt_template, record.format);
    report_.prompt_template = PromptTemplateName(resolved);
    SBORA_ASSIGN_OR_RETURN(const auto segments, RenderRecord(record, resolved, *inputs_.model));
    auto tokenized = Tokenize(segments, resolved, options_.loss_on, *inputs_.model);
    if (!tokenized.ok()) return tokenized.status().WithContext(fmt::format("{}line {}", role, record.line));
    TokenizedSample sample = std::move(tokenized).value();
    for (const int32_t id : sample.ids) {
      if (id >= inputs_.model->vocab_size) {
        return InvalidArgument("TOKENIZER_VOCAB_MISMATCH", fmt::format("{}line {}: token {} is outside the embedding of {}",
                                                                       role, record.line, id, inputs_.model->vocab_size));
      }
    }
    const auto length = static_cast<int64_t>(sample.ids.size());
    if (Cut(options_, sample) && !Keep(record, role, length)) return std::optional<TokenizedSample>();
    if (Labels(sample) == 0) {
      ++report_.masked_samples;
      return std::optional<TokenizedSample>();
    }
    if (report_.example.empty()) report_.example = Decorate(sample, *inputs_.model);
    return std::optional<TokenizedSample>(std::move(sample));
  }

  bool Keep(const Record& record, const std::string& role, int64_t length) {
    switch (options_.cutoff_policy) {
      case core::CutoffPolicy::kTruncate: ++report_.truncated_samples; return true;
      case core::CutoffPolicy::kDrop: ++report_.dropped_samples; return false;
      case core::CutoffPolicy::kReject: break;
    }
    ++report_.rejected_samples;
    if (!report_.first_rejection) {
      report_.first_rejection = {
          .line = record.line,
          .byte_offset = record.byte_offset,
          .reason = "SAMPLE_TOO_LONG",
          .message = fmt::format("{}line {}, byte {}: the sample has {} tokens, over the cutoff (whole {}, source {}, target "
                                 "{}); raise the cutoff or choose truncate or drop",
                                 role, record.line, record.byte_offset, length, options_.cutoff_tokens,
                                 options_.source_cutoff_tokens, options_.target_cutoff_tokens)};
    }
    return false;
  }

  const TokenCacheInputs& inputs_;
  const TokenCacheOptions& options_;
  std::vector<Source> sources_;
  int64_t bytes_total_ = 0;
  int64_t bytes_before_ = 0;    // of the sources that were tokenised
  int64_t records_before_ = 0;  // the same, of training data
  ValidationReport report_;
  TokenStatisticsBuilder train_;
  TokenStatisticsBuilder validation_;
};

StatusOr<std::vector<bool>> HeldOut(const TokenCacheOptions& options, int64_t records) {
  if (options.validation_samples <= 0) return std::vector<bool>();
  if (options.validation_samples >= records) {
    return InvalidArgument("VALIDATION_TOO_LARGE",
                           fmt::format("validation_samples={} leaves nothing to train on: the data set has {} records",
                                       options.validation_samples, records))
        .WithViolation("spec.data.validation_samples", fmt::format("must be below {}", records));
  }
  std::vector<bool> held_out(static_cast<size_t>(records), false);
  // Its own domain of the seed: the split must not be the beginning of epoch 0's order.
  const core::SeededPermutation order(options.split_seed, ~uint64_t{0}, records);
  for (int64_t i = 0; i < options.validation_samples; ++i) held_out[static_cast<size_t>(order(i))] = true;
  return held_out;
}

Status RunTokens(Pass& pass, const std::vector<bool>& held_out, TokenCacheWriter* train, TokenCacheWriter* validation) {
  for (const Source& source : pass.sources()) SBORA_RETURN_IF_ERROR(pass.Tokens(source, held_out, train, validation));
  pass.FinishReport();
  return OkStatus();
}

std::optional<ValidationReport> ReuseReport(const TokenCacheFiles& files, const fs::path& report_path,
                                            const std::string& key) {
  const TokenCache::OpenOptions open{.verify = true, .expected_key = key};
  if (!TokenCache::Open(files.train, open).ok()) return std::nullopt;
  if (!files.validation.empty() && !TokenCache::Open(files.validation, open).ok()) return std::nullopt;
  const auto text = ReadFile(report_path, 16 << 20);
  if (!text.ok()) return std::nullopt;
  return ParseValidationReport(*text);
}

}  // namespace

TokenCacheOptions FromDataSpec(const core::DataSpec& spec, uint64_t seed) {
  TokenCacheOptions options;
  options.prompt_template = spec.prompt_template;
  options.loss_on = spec.loss_on;
  options.cutoff_tokens = spec.cutoff_tokens;
  options.source_cutoff_tokens = spec.source_cutoff_tokens;
  options.target_cutoff_tokens = spec.target_cutoff_tokens;
  options.cutoff_policy = spec.cutoff_policy;
  options.validation_samples = spec.validation_samples;
  options.split_seed = seed;
  return options;
}

StatusOr<std::string> TokenCacheKey(const TokenCacheInputs& inputs, const TokenCacheOptions& options,
                                    std::string_view dataset_sha256, std::string_view validation_sha256) {
  const auto digest = [](const fs::path& path, std::string_view known) -> StatusOr<std::string> {
    if (!known.empty() || path.empty()) return std::string(known);
    SBORA_ASSIGN_OR_RETURN(FileDigest found, DigestFile(path));
    return found.sha256;
  };
  SBORA_ASSIGN_OR_RETURN(std::string data, digest(inputs.dataset, dataset_sha256));
  for (const MixtureInput& part : inputs.mixture) {
    SBORA_ASSIGN_OR_RETURN(const std::string sha256, digest(part.path, ""));
    data += fmt::format("\npart={} {}", sha256, DatasetFormatName(part.format));
  }
  SBORA_ASSIGN_OR_RETURN(const std::string validation, digest(inputs.validation_dataset, validation_sha256));
  // Said only where it differs, so that the keys of older caches stay what they were.
  const DatasetFormat validation_format = options.validation_format.value_or(options.reader.format);
  const std::string other_format = validation.empty() || validation_format == options.reader.format
                                       ? ""
                                       : fmt::format("validation_format={}\n", DatasetFormatName(validation_format));
  // The split's seed counts only where there is a split: other jobs then share one cache.
  const bool split = validation.empty() && options.validation_samples > 0;
  return Sha256Hex(fmt::format(
      "sbora.token_cache\nversion={}\ndata={}\nvalidation={}\ntokenizer={}\ntemplate={}\nloss={}\ncutoff={}/{}/{}\npolicy={}"
      "\nsplit={}/{}\nformat={}\nline={}\n{}",
      kTokenCacheVersion, data, validation, inputs.model->fingerprint, PromptTemplateName(options.prompt_template),
      options.loss_on == core::LossOn::kAll ? "all" : "response", options.cutoff_tokens, options.source_cutoff_tokens,
      options.target_cutoff_tokens, PolicyName(options.cutoff_policy), split ? options.validation_samples : 0,
      split ? options.split_seed : 0, DatasetFormatName(options.reader.format), options.reader.max_line_bytes,
      other_format));
}

StatusOr<TokenCacheFiles> BuildTokenCache(const TokenCacheInputs& inputs, const fs::path& out_dir,
                                          const TokenCacheOptions& options) {
  SBORA_ASSIGN_OR_RETURN(const std::string key, TokenCacheKey(inputs, options));
  std::error_code ec;
  fs::create_directories(out_dir, ec);
  if (ec) return FromErrno(ec.value(), fmt::format("creating {}", out_dir.string()));
  const bool has_validation = !inputs.validation_dataset.empty() || options.validation_samples > 0;
  TokenCacheFiles files;
  files.train = out_dir / (key + ".train.tokens");
  if (has_validation) files.validation = out_dir / (key + ".validation.tokens");
  const fs::path report_path = out_dir / (key + ".report.json");
  if (auto report = ReuseReport(files, report_path, key); report && report->datasets.size() == inputs.mixture.size()) {
    files.report = std::move(*report);
    for (size_t i = 0; i < inputs.mixture.size(); ++i) files.report.datasets[i].name = inputs.mixture[i].name;
    files.reused = true;
    return files;
  }
  Pass pass(inputs, options);
  int64_t records = 0;
  for (const Source& source : pass.sources()) {
    SBORA_ASSIGN_OR_RETURN(const int64_t count, pass.Count(source));
    if (!source.validation) records += count;
  }
  std::vector<bool> held_out;
  if (inputs.validation_dataset.empty()) {
    SBORA_ASSIGN_OR_RETURN(held_out, HeldOut(options, records));
  }
  SBORA_ASSIGN_OR_RETURN(auto train, TokenCacheWriter::Create(files.train, key));
  std::optional<TokenCacheWriter> validation;
  if (has_validation) {
    SBORA_ASSIGN_OR_RETURN(validation, TokenCacheWriter::Create(files.validation, key));
  }
  SBORA_RETURN_IF_ERROR(RunTokens(pass, held_out, &train, validation ? &*validation : nullptr));
  SBORA_RETURN_IF_ERROR(CheckUsable(pass.report()));
  SBORA_RETURN_IF_ERROR(train.Finish());
  if (validation) SBORA_RETURN_IF_ERROR(validation->Finish());
  files.report = pass.report();
  SBORA_RETURN_IF_ERROR(WriteFileAtomic(report_path, ToJson(files.report)));
  return files;
}

StatusOr<ValidationReport> ValidateDataset(const TokenCacheInputs& inputs, const TokenCacheOptions& options) {
  Pass pass(inputs, options);
  int64_t records = 0;
  bool readable = true;
  for (const Source& source : pass.sources()) {
    const auto count = pass.Count(source);
    if (!count.ok() && count.status().reason() != "DATASET_INVALID" && count.status().reason() != "DATASET_EMPTY") {
      return count.status();
    }
    if (!source.validation) readable = readable && count.ok();
    if (!source.validation && count.ok()) records += *count;
  }
  std::vector<bool> held_out;
  if (readable && inputs.validation_dataset.empty()) {
    SBORA_ASSIGN_OR_RETURN(held_out, HeldOut(options, records));
  }
  SBORA_RETURN_IF_ERROR(RunTokens(pass, held_out, nullptr, nullptr));
  return pass.report();
}

}  // namespace sbora::data
