/// MMLU's files as records of DatasetFormat::kChoice, one JSON object a line.
///
/// Two forms of CSV (RFC 4180, UTF-8) are read, told apart by the first line:
///   with the header  question,choice0,choice1,choice2,choice3,answer   answer 0 to 3
///   without header   question, A, B, C, D, answer                      answer a letter (Hendrycks' original files)
/// The subject is the file's name without ".csv" and a final "_test", "_dev" or "_val": "anatomy_test.csv" is
/// "anatomy".
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "common/status.h"

namespace sbora::data {

/// The subject that a file name tells.
std::string SubjectOf(const std::filesystem::path& file);

/// JSONL of one file's text. Errors: INVALID_ARGUMENT CSV_INVALID naming `name`, the line and what is wrong with it (an
/// open quote, a row of another width, an unknown answer, bytes that are no UTF-8), CSV_EMPTY.
StatusOr<std::string> ChoiceCsvToJsonl(std::string_view csv, std::string_view subject, std::string_view name);

/// JSONL of one .csv file or of all .csv files of a folder, by name. Errors: as above; INVALID_ARGUMENT NO_CSV_FILES
/// for a folder without any, and those of reading files (at most 64 MiB each).
StatusOr<std::string> ReadChoiceCsv(const std::filesystem::path& path);

}  // namespace sbora::data
