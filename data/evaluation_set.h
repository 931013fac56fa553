/// What an evaluation asks and expects: the records of a data set with their known answers, and the answered questions
/// shown before each (few-shot prompting).
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "common/status.h"
#include "data/answer_rule.h"
#include "data/dataset_reader.h"

namespace sbora::data {

struct EvaluationInputs {
  std::filesystem::path dataset;
  DatasetFormat format = DatasetFormat::kAuto;
  AnswerRule rule;
  int64_t max_samples = 0;                 ///< keep the first so many; 0: all. All are checked
  std::filesystem::path few_shot_dataset;  ///< empty without; needs likelihood scoring
  DatasetFormat few_shot_format = DatasetFormat::kAuto;
  int64_t few_shots = 0;  ///< questions of the same subject before each
};

struct EvaluationItem {
  int64_t index = 0;  ///< of the record in the data set, from 0
  Record record;
  std::string reference;  ///< the record's response; of a chat the last of the assistant's turns
  std::string expected;   ///< what a found answer is compared with
};

struct EvaluationSet {
  std::vector<EvaluationItem> items;
  std::map<std::string, std::vector<Record>> few_shots;  ///< by subject, EvaluationInputs::few_shots of each
};

/// Errors: INVALID_ARGUMENT DATASET_INVALID, DATASET_EMPTY (see ToStatus); UNKNOWN_ANSWER with the first 20 records as
/// violations (line number, why); NO_CHOICES when likelihood is asked of records without choices; FEW_SHOTS_MISSING
/// naming a subject of which there are too few; those of DatasetReader::Open.
StatusOr<EvaluationSet> ReadEvaluationSet(const EvaluationInputs& inputs);

/// The same checks in constant memory.
Status CheckEvaluationSet(const EvaluationInputs& inputs);

}  // namespace sbora::data
