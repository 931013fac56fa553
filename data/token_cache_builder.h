/// From data set files to token caches: read, render, tokenise, mask, cut, split, write.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "common/status.h"
#include "core/job_spec.h"
#include "data/dataset_reader.h"
#include "data/text_model.h"
#include "data/validation_report.h"

namespace sbora::data {

struct TokenCacheOptions {
  core::PromptTemplate prompt_template = core::PromptTemplate::kAuto;
  core::LossOn loss_on = core::LossOn::kResponse;
  int64_t cutoff_tokens = 512;       ///< of a whole sample; 0: none
  int64_t source_cutoff_tokens = 0;  ///< of what precedes the first response; 0: none
  int64_t target_cutoff_tokens = 0;  ///< of the rest, the end token included; 0: none
  core::CutoffPolicy cutoff_policy = core::CutoffPolicy::kTruncate;
  /// Held out of the training data, chosen by (split_seed, number of records) among all records.
  int64_t validation_samples = 0;
  uint64_t split_seed = 42;
  ReaderOptions reader;
  /// Of `validation_dataset` when it differs from `reader.format`.
  std::optional<DatasetFormat> validation_format = std::nullopt;
  /// Called about once per hundred records with bytes tokenised and bytes to tokenise; with 0 in the pass that counts.
  std::function<void(int64_t bytes_done, int64_t bytes_total)> progress;
  std::function<bool()> cancelled;
};

/// Options of a job. `cutoff_tokens` must be resolved (core::ResolveAgainstModel).
TokenCacheOptions FromDataSpec(const core::DataSpec& spec, uint64_t seed);

/// One of the data sets of a mixture.
struct MixtureInput {
  std::filesystem::path path;
  DatasetFormat format = DatasetFormat::kAuto;
  std::string name;  ///< for people; does not enter the key
};

struct TokenCacheInputs {
  std::filesystem::path dataset;  ///< empty with `mixture`
  std::filesystem::path validation_dataset;  ///< empty: split off `validation_samples`, if any
  const TextModel* model = nullptr;          ///< must outlive the call
  std::vector<MixtureInput> mixture = {};    ///< instead of `dataset`; each is a part of the training cache
};

/// SHA-256 over what decides the caches' content: all files' bytes, tokenizer and template, cutoff and mask policy,
/// split, format version. Reads the files. `dataset_sha256` (of `dataset`) and validation may be given when known.
StatusOr<std::string> TokenCacheKey(const TokenCacheInputs& inputs, const TokenCacheOptions& options,
                                    std::string_view dataset_sha256 = {}, std::string_view validation_sha256 = {});

struct TokenCacheFiles {
  std::filesystem::path train;
  std::filesystem::path validation;  ///< empty when there is no validation data
  ValidationReport report;
  bool reused = false;  ///< both files were there, whole, under this key
};

/// Writes `<out_dir>/<key>.train.tokens` and, with validation data, `<out_dir>/<key>.validation.tokens` and
/// `<key>.report.json`; reuses them when they verify.
/// Errors: INVALID_ARGUMENT DATASET_INVALID (with line numbers and byte offsets), DATASET_EMPTY, SAMPLE_TOO_LONG
/// (policy reject), ALL_LABELS_MASKED, MIXTURE_PART_EMPTY, VALIDATION_TOO_LARGE, VALIDATION_EMPTY, DATASET_ALL_DROPPED;
/// CANCELLED; those of reader, templates and tokenizer with the record's line.
StatusOr<TokenCacheFiles> BuildTokenCache(const TokenCacheInputs& inputs, const std::filesystem::path& out_dir,
                                          const TokenCacheOptions& options);

/// The same look without writing anything; bad data is in the report, not in the status.
StatusOr<ValidationReport> ValidateDataset(const TokenCacheInputs& inputs, const TokenCacheOptions& options);

}  // namespace sbora::data
