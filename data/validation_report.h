/// What a look at a data set found: shown by `datasets validate`, kept with each job.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"
#include "data/dataset_reader.h"

namespace sbora::data {

struct TokenStatistics {
  int64_t samples = 0;
  int64_t tokens = 0;
  int64_t supervised_tokens = 0;
  int64_t min_tokens = 0;
  int64_t max_tokens = 0;
  /// Of sample lengths, exact up to 4096 tokens, beyond that in steps of 1/16.
  int64_t median_tokens = 0;
  int64_t p95_tokens = 0;

  double mean_tokens() const { return samples == 0 ? 0.0 : static_cast<double>(tokens) / static_cast<double>(samples); }
  double supervised_share() const {
    return tokens == 0 ? 0.0 : static_cast<double>(supervised_tokens) / static_cast<double>(tokens);
  }
};

/// What one data set of a mixture brings.
struct DatasetShare {
  std::string name;
  int64_t records = 0;
  TokenStatistics train;
  int64_t validation_samples = 0;  ///< held out
  int64_t epoch_samples = 0;       ///< drawn in an epoch; 0 until PlanMixture
};

struct ValidationReport {
  DatasetFormat format = DatasetFormat::kAuto;
  std::string prompt_template;
  int64_t records = 0;
  int64_t bad_records = 0;
  std::vector<RecordError> errors;
  TokenStatistics train;
  TokenStatistics validation;
  int64_t truncated_samples = 0;  ///< shortened by the cutoff
  int64_t dropped_samples = 0;    ///< left out by the cutoff policy
  int64_t rejected_samples = 0;   ///< over the cutoff under the policy reject
  std::optional<RecordError> first_rejection;  ///< the first of them
  int64_t masked_samples = 0;     ///< left out: no supervised token (left)
  /// The first sample decoded, supervised parts in [[ ]]; at most 4 KiB.
  std::string example;

  bool with_validation = false;  ///< a validation file or a split was asked for
  std::vector<DatasetShare> datasets;  ///< of a mixture, in its order; empty for one data set
};

/// Whether a job can train on what was found.
/// Errors: INVALID_ARGUMENT SAMPLE_TOO_LONG naming line and byte of the first, DATASET_ALL_DROPPED, ALL_LABELS_MASKED,
/// MIXTURE_PART_EMPTY naming the data set, VALIDATION_EMPTY. Records that cannot be read are the reader's to tell
/// (dataset_reader.h, ToStatus).
Status CheckUsable(const ValidationReport& report);

/// Fills in what an epoch draws from each data set of a mixture (MixtureCounts); without a mixture nothing.
/// REQUIRED: CheckUsable(report) is OK; as many weights as data sets, or none.
/// Errors: INVALID_ARGUMENT MIXTURE_PART_UNSEEN naming the data set.
Status PlanMixture(std::span<const double> weights, int64_t epoch_samples, ValidationReport& report);

/// Counts in one line, for people: samples, tokens, share that is supervised, those of each data set of a mixture, and
/// what was cut or left out.
std::string Summary(const ValidationReport& report);
/// True when the cutoff or the mask took something away.
bool Lossy(const ValidationReport& report);

/// lowerCamelCase keys, two-space indent.
std::string ToJson(const ValidationReport& report);
/// Reads what ToJson wrote; nothing when the text is anything else.
std::optional<ValidationReport> ParseValidationReport(std::string_view json_text);

/// Collects lengths in constant memory.
class TokenStatisticsBuilder {
 public:
  TokenStatisticsBuilder();
  void Add(int64_t tokens, int64_t supervised_tokens);
  TokenStatistics Finish() const;

 private:
  TokenStatistics statistics_;
  std::vector<int64_t> histogram_;
};

}  // namespace sbora::data
