#include "data/record_scanner.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

namespace sbora::data {
namespace {

constexpr size_t kBufferBytes = 1 << 20;

bool IsSpace(int byte) { return byte == ' ' || byte == '\t' || byte == '\n' || byte == '\r'; }

}  // namespace

RecordScanner::RecordScanner(UniqueFd fd, std::string file, int64_t max_record_bytes)
    : fd_(std::move(fd)), file_(std::move(file)), max_record_bytes_(max_record_bytes) {}

int RecordScanner::Peek() {
  if (used_ == buffer_.size()) {
    if (!status_.ok()) return -1;
    buffer_.resize(kBufferBytes);
    used_ = 0;
    ssize_t count = 0;
    do {
      count = ::read(fd_.get(), buffer_.data(), kBufferBytes);
    } while (count < 0 && errno == EINTR);
    if (count < 0) status_ = FromErrno(errno, fmt::format("reading {}", file_));
    buffer_.resize(count > 0 ? static_cast<size_t>(count) : 0);
    if (buffer_.empty()) return -1;
  }
  return static_cast<uint8_t>(buffer_[used_]);
}

int RecordScanner::Get() {
  const int byte = Peek();
  if (byte < 0) return byte;
  ++used_;
  ++offset_;
  if (byte == '\n') ++line_;
  return byte;
}

void RecordScanner::SkipSpace() {
  while (IsSpace(Peek())) Get();
}

void RecordScanner::DetectMode() {
  // A byte order mark is not part of the text.
  if (Peek() == 0xEF && used_ + 2 < buffer_.size() && buffer_[used_ + 1] == '\xBB' && buffer_[used_ + 2] == '\xBF') {
    for (int i = 0; i < 3; ++i) Get();
  }
  // Blank space before an array belongs to JSON; before JSONL it would be an empty line, which NextLine must see.
  const size_t used = used_;
  const int64_t offset = offset_;
  const int64_t line = line_;
  while (IsSpace(Peek()) && used_ + 1 < buffer_.size()) Get();
  if (Peek() == '[') {
    Get();
    mode_ = Mode::kArray;
    return;
  }
  used_ = used;
  offset_ = offset;
  line_ = line;
  mode_ = Mode::kLines;
}

StatusOr<bool> RecordScanner::Next(RawRecord* record) {
  if (mode_ == Mode::kUnknown) DetectMode();
  record->text.clear();
  record->problem.clear();
  record->problem_message.clear();
  bool found = false;
  if (mode_ == Mode::kLines) found = NextLine(record);
  if (mode_ == Mode::kArray) found = NextElement(record);
  if (!status_.ok()) return status_;
  return found;
}

void RecordScanner::Append(RawRecord* record, int byte) {
  if (static_cast<int64_t>(record->text.size()) < max_record_bytes_) {
    record->text.push_back(static_cast<char>(byte));
    return;
  }
  record->problem = "LINE_TOO_LONG";
  record->problem_message = fmt::format("the record is longer than {} bytes; raise the line limit or split it",
                                        max_record_bytes_);
}

bool RecordScanner::Fail(RawRecord* record, std::string_view message) {
  record->problem = "JSON_MALFORMED";
  record->problem_message = message;
  mode_ = Mode::kDone;  // what follows cannot be cut into elements any more
  return true;
}

bool RecordScanner::NextLine(RawRecord* record) {
  record->line = line_;
  record->byte_offset = offset_;
  if (Peek() < 0) {
    mode_ = Mode::kDone;
    return false;
  }
  bool blank = true;
  for (int byte = Get(); byte >= 0 && byte != '\n'; byte = Get()) {
    blank = blank && IsSpace(byte);
    Append(record, byte);
  }
  if (record->problem.empty() && blank) {
    if (Peek() < 0) {  // blank space behind the last line is no record
      mode_ = Mode::kDone;
      return false;
    }
    record->problem = "EMPTY_LINE";
    record->problem_message = "the line is empty; each line must hold one JSON object";
  }
  return true;
}

bool RecordScanner::NextElement(RawRecord* record) {
  SkipSpace();
  record->line = line_;
  record->byte_offset = offset_;
  int byte = Peek();
  if (byte == ']') {
    Get();
    SkipSpace();
    if (Peek() >= 0) {
      record->line = line_;
      record->byte_offset = offset_;
      return Fail(record, "text follows the end of the array");
    }
    mode_ = Mode::kDone;
    return false;
  }
  if (byte < 0) return Fail(record, "the file ends inside the array");
  if (!first_element_) {
    if (byte != ',') return Fail(record, "a comma or ] must stand between records");
    Get();
    SkipSpace();
    record->line = line_;
    record->byte_offset = offset_;
    byte = Peek();
    if (byte < 0) return Fail(record, "the file ends inside the array");
  }
  first_element_ = false;
  ScanValue(record);
  if (record->text.empty() && record->problem.empty()) return Fail(record, "a record is missing");
  return true;
}

/// One JSON value: up to the comma or bracket that ends it, minding strings and nesting.
void RecordScanner::ScanValue(RawRecord* record) {
  int64_t depth = 0;
  bool in_string = false;
  bool escaped = false;
  for (int byte = Peek(); byte >= 0; byte = Peek()) {
    if (!in_string && depth == 0 && (byte == ',' || byte == ']' || IsSpace(byte))) return;
    Get();
    Append(record, byte);
    if (in_string) {
      if (escaped) {
        escaped = false;
      } else if (byte == '\\') {
        escaped = true;
      } else if (byte == '"') {
        in_string = false;
      }
    } else if (byte == '"') {
      in_string = true;
    } else if (byte == '{' || byte == '[') {
      ++depth;
    } else if (byte == '}' || byte == ']') {
      if (--depth == 0) return;
    }
  }
  if (depth != 0 || in_string) Fail(record, "the file ends inside a record");
}

}  // namespace sbora::data
