#include "data/dataset_reader.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <nlohmann/json.hpp>
#include <utility>

#include "common/file.h"
#include "common/status_macros.h"
#include "data/prompt_template.h"
#include "data/record_scanner.h"
#include "data/utf8.h"

namespace sbora::data {
namespace {

using Json = nlohmann::json;

/// A problem inside one record; `offset` counts from the record's first byte.
struct Problem {
  std::string reason;
  std::string message;
  int64_t offset = 0;
};

/// Finds where and why a text is no JSON, which the DOM parser does not tell.
class ErrorLocator : public nlohmann::json_sax<Json> {
 public:
  size_t position = 0;
  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool start_object(size_t) override { return true; }
  bool key(string_t&) override { return true; }
  bool end_object() override { return true; }
  bool start_array(size_t) override { return true; }
  bool end_array() override { return true; }
  bool parse_error(size_t at, const std::string&, const nlohmann::detail::exception&) override {
    position = at;
    return false;
  }
};

std::optional<Problem> ParseObject(std::string_view text, Json* object) {
  if (const int64_t bad = FirstBadUtf8(text); bad >= 0) {
    return Problem{"INVALID_UTF8", fmt::format("byte 0x{:02x} is no UTF-8", static_cast<uint8_t>(text[static_cast<size_t>(bad)])),
                   bad};
  }
  bool too_deep = false;
  const auto limit = [&too_deep](int depth, Json::parse_event_t, Json&) {
    too_deep = too_deep || depth > kMaxJsonDepth;
    return depth <= kMaxJsonDepth;  // false discards the value: no deep tree is built
  };
  *object = Json::parse(text, limit, false);
  if (too_deep) return Problem{"JSON_TOO_DEEP", fmt::format("the JSON nests deeper than {} levels", kMaxJsonDepth)};
  if (object->is_discarded()) {
    ErrorLocator locator;
    Json::sax_parse(text, &locator);
    const auto at = static_cast<int64_t>(locator.position == 0 ? 0 : locator.position - 1);
    return Problem{"JSON_MALFORMED", "the text is no JSON from here on", std::min(at, static_cast<int64_t>(text.size()))};
  }
  if (!object->is_object()) return Problem{"NOT_AN_OBJECT", fmt::format("a record must be an object, this is a {}", object->type_name())};
  return std::nullopt;
}

DatasetFormat FormatOf(const Json& object) {
  if (object.contains("messages")) return DatasetFormat::kChat;
  if (object.contains("instruction")) return DatasetFormat::kAlpaca;
  if (object.contains("prompt")) return DatasetFormat::kPromptCompletion;
  if (object.contains("choices")) return DatasetFormat::kChoice;
  return DatasetFormat::kAuto;
}

std::optional<Problem> GetText(const Json& object, const char* key, bool required, std::string* out) {
  const auto it = object.find(key);
  if (it == object.end() || (it->is_null() && !required)) {
    if (!required) return std::nullopt;
    return Problem{"FIELD_MISSING", fmt::format("field \"{}\" is missing", key)};
  }
  if (!it->is_string()) return Problem{"FIELD_TYPE", fmt::format("field \"{}\" is a {}, not a string", key, it->type_name())};
  *out = it->get<std::string>();
  return std::nullopt;
}

std::optional<Problem> GetMessages(const Json& object, std::vector<Message>* messages) {
  const auto it = object.find("messages");
  if (it == object.end()) return Problem{"FIELD_MISSING", "field \"messages\" is missing"};
  if (!it->is_array()) return Problem{"FIELD_TYPE", fmt::format("field \"messages\" is a {}, not a list", it->type_name())};
  if (it->empty()) return Problem{"MESSAGES_EMPTY", "\"messages\" is empty"};
  bool assistant = false;
  for (size_t i = 0; i < it->size(); ++i) {
    const Json& entry = (*it)[i];
    Message message;
    if (!entry.is_object()) return Problem{"FIELD_TYPE", fmt::format("messages[{}] is a {}, not an object", i, entry.type_name())};
    for (const auto& [key, out] : {std::pair{"role", &message.role}, std::pair{"content", &message.content}}) {
      if (auto problem = GetText(entry, key, true, out)) {
        problem->message = fmt::format("messages[{}]: {}", i, problem->message);
        return problem;
      }
    }
    if (message.role != "system" && message.role != "user" && message.role != "assistant") {
      return Problem{"ROLE_UNKNOWN", fmt::format("messages[{}] has role \"{}\"; system, user and assistant are known", i,
                                                 message.role.substr(0, 40))};
    }
    assistant = assistant || message.role == "assistant";
    messages->push_back(std::move(message));
  }
  if (!assistant) return Problem{"NO_ASSISTANT_MESSAGE", "no message of role assistant: there is nothing to learn"};
  return std::nullopt;
}

constexpr size_t kMinChoices = 2;
constexpr size_t kMaxChoices = 26;

/// "answer": a choice's letter, or its number from 0.
std::optional<Problem> GetChoiceAnswer(const Json& object, size_t choices, std::string* letter) {
  const auto it = object.find("answer");
  if (it == object.end()) return Problem{"FIELD_MISSING", "field \"answer\" is missing"};
  int64_t number = -1;
  if (it->is_number_integer()) number = it->get<int64_t>();
  if (it->is_string() && it->get_ref<const std::string&>().size() == 1) {
    number = it->get_ref<const std::string&>()[0] - 'A';
  }
  if (number < 0 || number >= static_cast<int64_t>(choices)) {
    return Problem{"ANSWER_UNKNOWN", fmt::format("answer {} is neither a letter A to {} nor a number 0 to {}",
                                                 it->dump(-1, ' ', false, Json::error_handler_t::replace).substr(0, 40),
                                                 static_cast<char>('A' + choices - 1), choices - 1)};
  }
  *letter = std::string(1, static_cast<char>('A' + number));
  return std::nullopt;
}

std::optional<Problem> GetChoices(const Json& object, Record* record) {
  std::string question;
  if (auto problem = GetText(object, "question", true, &question)) return problem;
  const auto it = object.find("choices");
  if (it == object.end()) return Problem{"FIELD_MISSING", "field \"choices\" is missing"};
  if (!it->is_array()) {
    return Problem{"FIELD_TYPE", fmt::format("field \"choices\" is a {}, not a list", it->type_name())};
  }
  if (it->size() < kMinChoices || it->size() > kMaxChoices) {
    return Problem{"CHOICES_COUNT",
                   fmt::format("{} choices; {} to {} are taken", it->size(), kMinChoices, kMaxChoices)};
  }
  for (size_t i = 0; i < it->size(); ++i) {
    if (!(*it)[i].is_string()) {
      return Problem{"FIELD_TYPE", fmt::format("choices[{}] is a {}, not a string", i, (*it)[i].type_name())};
    }
    record->choices.push_back((*it)[i].get<std::string>());
  }
  if (auto problem = GetChoiceAnswer(object, record->choices.size(), &record->answer)) return problem;
  record->prompt = ChoicePrompt(question, record->choices);
  record->completion = " " + record->answer;
  return std::nullopt;
}

/// Fields of an evaluation, beside the shape's own. Training data may use these names for anything, so what does not
/// fit is as good as absent.
void GetEvaluationFields(const Json& object, Record* record) {
  if (const auto it = object.find("subject"); it != object.end() && it->is_string()) {
    record->subject = it->get<std::string>();
  }
  const auto it = object.find("answer");
  if (it == object.end() || record->format == DatasetFormat::kChoice) return;
  if (it->is_string()) record->answer = it->get<std::string>();
  if (it->is_number()) record->answer = it->dump();
}

std::optional<Problem> ToRecord(const Json& object, DatasetFormat format, Record* record) {
  record->format = format;
  GetEvaluationFields(object, record);
  switch (format) {
    case DatasetFormat::kAlpaca:
      if (auto problem = GetText(object, "instruction", true, &record->instruction)) return problem;
      if (auto problem = GetText(object, "input", false, &record->input)) return problem;
      return GetText(object, "output", true, &record->output);
    case DatasetFormat::kPromptCompletion:
      if (auto problem = GetText(object, "prompt", true, &record->prompt)) return problem;
      return GetText(object, "completion", true, &record->completion);
    case DatasetFormat::kChat: return GetMessages(object, &record->messages);
    case DatasetFormat::kChoice: return GetChoices(object, record);
    case DatasetFormat::kAuto: break;
  }
  return Problem{"FORMAT_UNKNOWN",
                 "the record has none of \"messages\", \"instruction\", \"prompt\", \"choices\": give chat "
                 "{messages}, alpaca {instruction, input, output}, {prompt, completion} or {question, "
                 "choices, answer}"};
}

}  // namespace

std::string_view DatasetFormatName(DatasetFormat format) {
  switch (format) {
    case DatasetFormat::kAuto: return "auto";
    case DatasetFormat::kAlpaca: return "alpaca";
    case DatasetFormat::kPromptCompletion: return "prompt_completion";
    case DatasetFormat::kChat: return "chat";
    case DatasetFormat::kChoice: return "choice";
  }
  return "auto";
}

class DatasetReader::Impl {
 public:
  Impl(UniqueFd fd, std::string file, const ReaderOptions& options)
      : scanner_(std::move(fd), std::move(file), options.max_line_bytes), options_(options), format_(options.format) {}

  StatusOr<std::optional<Record>> Next() {
    for (;;) {
      SBORA_ASSIGN_OR_RETURN(const bool more, scanner_.Next(&raw_));
      stats_.bytes = scanner_.bytes_read();
      if (!more) return std::optional<Record>();
      if (!raw_.problem.empty()) {
        Count({raw_.problem, raw_.problem_message, 0});
        continue;
      }
      Record record;
      if (auto problem = Parse(&record)) {
        Count(*problem);
        continue;
      }
      ++stats_.records;
      return std::optional<Record>(std::move(record));
    }
  }

  DatasetFormat format() const { return format_; }
  const ReaderStats& stats() const { return stats_; }

 private:
  std::optional<Problem> Parse(Record* record) {
    Json object;
    if (auto problem = ParseObject(raw_.text, &object)) return problem;
    const DatasetFormat format = format_ == DatasetFormat::kAuto ? FormatOf(object) : format_;
    if (auto problem = ToRecord(object, format, record)) {
      if (format_ != DatasetFormat::kAuto) {
        problem->message += fmt::format(" (this data set is read as {})", DatasetFormatName(format_));
      }
      return problem;
    }
    format_ = format;
    record->line = raw_.line;
    record->byte_offset = raw_.byte_offset;
    return std::nullopt;
  }

  void Count(const Problem& problem) {
    ++stats_.bad_records;
    if (static_cast<int64_t>(stats_.errors.size()) >= options_.max_errors) return;
    const auto end = raw_.text.begin() + std::min<int64_t>(problem.offset, static_cast<int64_t>(raw_.text.size()));
    stats_.errors.push_back({.line = raw_.line + std::count(raw_.text.begin(), end, '\n'),
                             .byte_offset = raw_.byte_offset + problem.offset,
                             .reason = problem.reason,
                             .message = problem.message});
  }

  RecordScanner scanner_;
  ReaderOptions options_;
  DatasetFormat format_;
  RawRecord raw_;
  ReaderStats stats_;
};

DatasetReader::DatasetReader(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
DatasetReader::~DatasetReader() = default;

StatusOr<std::unique_ptr<DatasetReader>> DatasetReader::Open(const std::filesystem::path& path,
                                                             const ReaderOptions& options) {
  if (options.max_line_bytes < 1 || options.max_line_bytes > kMaxLineBytesLimit) {
    return InvalidArgument("LINE_LIMIT_OUT_OF_RANGE", fmt::format("max_line_bytes={} is outside [1, {}]",
                                                                  options.max_line_bytes, kMaxLineBytesLimit));
  }
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return FromErrno(errno, fmt::format("opening {}", path.string()));
  return std::unique_ptr<DatasetReader>(new DatasetReader(std::make_unique<Impl>(std::move(fd), path.string(), options)));
}

StatusOr<std::optional<Record>> DatasetReader::Next() { return impl_->Next(); }
DatasetFormat DatasetReader::format() const { return impl_->format(); }
const ReaderStats& DatasetReader::stats() const { return impl_->stats(); }

Status ToStatus(const ReaderStats& stats, std::string_view file) {
  if (stats.bad_records == 0) {
    if (stats.records > 0) return OkStatus();
    return InvalidArgument("DATASET_EMPTY", fmt::format("{} holds no record", file));
  }
  std::string text = fmt::format("{}: {} of {} records are bad:", file, stats.bad_records,
                                 stats.bad_records + stats.records);
  for (const RecordError& error : stats.errors) {
    text += fmt::format("\n  line {}, byte {}: {} ({})", error.line, error.byte_offset, error.message, error.reason);
  }
  const auto more = stats.bad_records - static_cast<int64_t>(stats.errors.size());
  if (more > 0) text += fmt::format("\n  and {} more", more);
  Status status = InvalidArgument("DATASET_INVALID", text).WithMetadata("bad_records", std::to_string(stats.bad_records));
  if (stats.errors.empty()) return status;
  return status.WithMetadata("line", std::to_string(stats.errors[0].line))
      .WithMetadata("byte_offset", std::to_string(stats.errors[0].byte_offset))
      .WithMetadata("record_reason", stats.errors[0].reason);
}

}  // namespace sbora::data
