/// Cuts a file into the raw texts of its records without parsing them: lines of JSONL, or elements of a JSON array.
/// Internal to dataset_reader.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "common/file.h"
#include "common/status.h"

namespace sbora::data {

struct RawRecord {
  std::string text;
  int64_t line = 1;
  int64_t byte_offset = 0;
  /// When not empty: the reason why there is no usable text (LINE_TOO_LONG, EMPTY_LINE, JSON_MALFORMED).
  std::string problem;
  std::string problem_message;
};

/// Not thread-safe. Memory: a 1 MiB buffer and one record.
class RecordScanner {
 public:
  RecordScanner(UniqueFd fd, std::string file, int64_t max_record_bytes);

  /// False at the end of the file. Errors are those of read(2).
  StatusOr<bool> Next(RawRecord* record);
  int64_t bytes_read() const { return offset_; }

 private:
  enum class Mode { kUnknown, kLines, kArray, kDone };

  /// The next byte, or -1 at the end; sets status_ on a read error.
  int Peek();
  int Get();
  void DetectMode();
  bool NextLine(RawRecord* record);
  bool NextElement(RawRecord* record);
  void SkipSpace();
  void ScanValue(RawRecord* record);
  void Append(RawRecord* record, int byte);
  bool Fail(RawRecord* record, std::string_view message);

  UniqueFd fd_;
  std::string file_;
  int64_t max_record_bytes_;
  std::string buffer_;
  size_t used_ = 0;
  int64_t offset_ = 0;
  int64_t line_ = 1;
  Mode mode_ = Mode::kUnknown;
  bool first_element_ = true;
  Status status_;
};

}  // namespace sbora::data
