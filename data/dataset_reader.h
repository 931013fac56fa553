/// Streaming reader of training data: JSONL (one object a line) or one JSON array of objects, in four shapes:
///   alpaca             {"instruction": s, "input"?: s, "output": s}
///   prompt/completion  {"prompt": s, "completion": s}
///   chat               {"messages": [{"role": "system"|"user"|"assistant", "content": s}, ...]}
///   choice             {"question": s, "choices": [s, ...], "answer": letter or number from 0}
/// "answer" (text or number, but for choice) and "subject" are kept for evaluations; further fields are ignored. All
/// records of a file have one shape, named or taken from the first good record.
///
/// A bad record does not stop the reader: it is counted, the first `max_errors` are kept with line number and byte
/// offset, and reading goes on, so that one pass shows a user everything that is wrong.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"

namespace sbora::data {

enum class DatasetFormat { kAuto, kAlpaca, kPromptCompletion, kChat, kChoice };
/// "auto", "alpaca", "prompt_completion", "chat", "choice".
std::string_view DatasetFormatName(DatasetFormat format);

struct Message {
  std::string role;
  std::string content;

  bool operator==(const Message&) const = default;
};

struct Record {
  DatasetFormat format = DatasetFormat::kAlpaca;  ///< never kAuto
  // kAlpaca
  std::string instruction;
  std::string input;
  std::string output;
  // kPromptCompletion; of kChoice ChoicePrompt (prompt_template.h) and " B"
  std::string prompt;
  std::string completion;
  // kChoice
  std::vector<std::string> choices;
  // kChat
  std::vector<Message> messages;

  std::string answer;   ///< of an evaluation, where the record has one; kChoice: always, a letter
  std::string subject;  ///< where the record has one

  int64_t line = 0;         ///< 1-based line on which the record begins
  int64_t byte_offset = 0;  ///< of its first byte in the file
};

/// Reasons: JSON_MALFORMED, INVALID_UTF8, EMPTY_LINE, LINE_TOO_LONG, JSON_TOO_DEEP, NOT_AN_OBJECT, FORMAT_UNKNOWN,
/// FIELD_MISSING, FIELD_TYPE, MESSAGES_EMPTY, ROLE_UNKNOWN, NO_ASSISTANT_MESSAGE, CHOICES_COUNT, ANSWER_UNKNOWN.
struct RecordError {
  int64_t line = 0;
  int64_t byte_offset = 0;  ///< of the offending byte where one is known, else of the record
  std::string reason;
  std::string message;
};

struct ReaderOptions {
  DatasetFormat format = DatasetFormat::kAuto;
  int64_t max_line_bytes = 1 << 20;  ///< of one record; at most kMaxLineBytesLimit
  int64_t max_errors = 20;           ///< kept in detail; all are counted
};
inline constexpr int64_t kMaxLineBytesLimit = 16 << 20;
inline constexpr int kMaxJsonDepth = 64;

struct ReaderStats {
  int64_t records = 0;
  int64_t bad_records = 0;
  int64_t bytes = 0;
  std::vector<RecordError> errors;  ///< the first of them
};

/// Not thread-safe. Memory: one record and a 1 MiB buffer.
class DatasetReader {
 public:
  /// Errors: NOT_FOUND and others by errno; INVALID_ARGUMENT LINE_LIMIT_OUT_OF_RANGE.
  static StatusOr<std::unique_ptr<DatasetReader>> Open(const std::filesystem::path& path, const ReaderOptions& options);
  ~DatasetReader();

  /// The next good record, or nothing at the end. Errors are those of the file system only.
  StatusOr<std::optional<Record>> Next();
  /// kAuto until the first good record.
  DatasetFormat format() const;
  const ReaderStats& stats() const;

 private:
  class Impl;
  explicit DatasetReader(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

/// INVALID_ARGUMENT DATASET_INVALID telling counts and the kept errors, or OK when there are none; DATASET_EMPTY when
/// the file holds no record at all.
Status ToStatus(const ReaderStats& stats, std::string_view file);

}  // namespace sbora::data
