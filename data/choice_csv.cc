#include "data/choice_csv.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <system_error>
#include <vector>

#include "common/file.h"
#include "common/status_macros.h"
#include "data/utf8.h"

namespace sbora::data {
namespace {

constexpr int64_t kMaxCsvBytes = 64 << 20;
constexpr size_t kColumns = 6;  // question, four choices, answer
constexpr size_t kChoices = 4;

struct Row {
  std::vector<std::string> cells;
  int64_t line = 1;  ///< on which it begins
};

/// Cuts RFC 4180 text into rows. Quotes matter at a cell's beginning only, as CSV writers have it.
class CsvRows {
 public:
  CsvRows(std::string_view text, std::string_view name) : text_(text), name_(name) {
    if (text_.starts_with("\xEF\xBB\xBF")) at_ = 3;
  }

  /// Nothing at the end. Blank lines are passed over.
  StatusOr<std::optional<Row>> Next() {
    while (at_ < text_.size() && (text_[at_] == '\n' || text_[at_] == '\r')) line_ += text_[at_++] == '\n' ? 1 : 0;
    if (at_ >= text_.size()) return std::optional<Row>();
    Row row{.cells = {}, .line = line_};
    for (;;) {
      SBORA_ASSIGN_OR_RETURN(std::string cell, text_[at_] == '"' ? Quoted() : Bare());
      row.cells.push_back(std::move(cell));
      if (at_ >= text_.size() || text_[at_] != ',') break;
      if (++at_ == text_.size()) {
        row.cells.emplace_back();
        break;
      }
    }
    return std::optional<Row>(std::move(row));
  }

 private:
  StatusOr<std::string> Bare() {
    const size_t end = std::min(text_.find_first_of(",\r\n", at_), text_.size());
    std::string cell(text_.substr(at_, end - at_));
    at_ = end;
    return cell;
  }
  StatusOr<std::string> Quoted() {
    const int64_t begin = line_;
    std::string cell;
    for (++at_; at_ < text_.size(); ++at_) {
      const char c = text_[at_];
      if (c == '"' && at_ + 1 < text_.size() && text_[at_ + 1] == '"') {
        ++at_;
      } else if (c == '"') {
        ++at_;
        if (at_ < text_.size() && std::string_view(",\r\n").find(text_[at_]) == std::string_view::npos) {
          return InvalidArgument("CSV_INVALID", fmt::format("{}: line {}: text behind a closing quote", name_, line_));
        }
        return cell;
      }
      line_ += c == '\n' ? 1 : 0;
      cell += c;
    }
    return InvalidArgument("CSV_INVALID",
                           fmt::format("{}: line {}: a quote that opens here is never closed", name_, begin));
  }

  std::string_view text_;
  std::string_view name_;
  size_t at_ = 0;
  int64_t line_ = 1;
};

bool IsHeader(const std::vector<std::string>& cells) {
  return cells == std::vector<std::string>{"question", "choice0", "choice1", "choice2", "choice3", "answer"};
}

/// 0 to 3, or nothing.
std::optional<int> AnswerOf(const std::string& cell, bool with_header) {
  const char first = with_header ? '0' : 'A';
  if (cell.size() != 1 || cell[0] < first || cell[0] >= first + static_cast<char>(kChoices)) return std::nullopt;
  return cell[0] - first;
}

}  // namespace

std::string SubjectOf(const std::filesystem::path& file) {
  std::string name = file.stem().string();
  for (const std::string_view split : {"_test", "_dev", "_val"}) {
    if (name.size() > split.size() && name.ends_with(split)) return name.substr(0, name.size() - split.size());
  }
  return name;
}

StatusOr<std::string> ChoiceCsvToJsonl(std::string_view csv, std::string_view subject, std::string_view name) {
  const auto bad = [&](int64_t line, const std::string& why) {
    return InvalidArgument("CSV_INVALID", fmt::format("{}: line {}: {}", name, line, why));
  };
  CsvRows rows(csv, name);
  SBORA_ASSIGN_OR_RETURN(std::optional<Row> row, rows.Next());
  const bool with_header = row && IsHeader(row->cells);
  if (with_header) {
    SBORA_ASSIGN_OR_RETURN(row, rows.Next());
  }
  std::string lines;
  while (row) {
    if (row->cells.size() != kColumns) {
      return bad(row->line,
                 fmt::format("{} columns; a question, four choices and the answer are expected", row->cells.size()));
    }
    const std::optional<int> answer = AnswerOf(row->cells[kColumns - 1], with_header);
    if (!answer) {
      return bad(row->line, fmt::format("answer \"{}\"; {} is expected", row->cells[kColumns - 1].substr(0, 40),
                                        with_header ? "0 to 3" : "a letter A to D"));
    }
    for (const std::string& cell : row->cells) {
      if (FirstBadUtf8(cell) >= 0) return bad(row->line, "bytes that are no UTF-8");
    }
    nlohmann::ordered_json record = {{"subject", subject}, {"question", row->cells[0]}};
    record["choices"] = std::vector<std::string>(row->cells.begin() + 1, row->cells.begin() + 1 + kChoices);
    record["answer"] = std::string(1, static_cast<char>('A' + *answer));
    lines += record.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
    SBORA_ASSIGN_OR_RETURN(row, rows.Next());
  }
  if (lines.empty()) return InvalidArgument("CSV_EMPTY", fmt::format("{} holds no question", name));
  return lines;
}

StatusOr<std::string> ReadChoiceCsv(const std::filesystem::path& path) {
  std::vector<std::filesystem::path> files;
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) {
    for (std::filesystem::directory_iterator entry(path, error), end; !error && entry != end; entry.increment(error)) {
      if (entry->path().extension() == ".csv") files.push_back(entry->path());
    }
    if (error) return FromErrno(error.value(), fmt::format("listing {}", path.string()));
    std::sort(files.begin(), files.end());
    if (files.empty()) {
      return InvalidArgument(
          "NO_CSV_FILES",
          fmt::format("{} holds no .csv file; give the folder that holds the subjects' files", path.string()));
    }
  } else {
    files.push_back(path);
  }
  std::string lines;
  for (const auto& file : files) {
    SBORA_ASSIGN_OR_RETURN(const std::string csv, ReadFile(file, kMaxCsvBytes));
    SBORA_ASSIGN_OR_RETURN(const std::string of_file, ChoiceCsvToJsonl(csv, SubjectOf(file), file.string()));
    lines += of_file;
  }
  return lines;
}

}  // namespace sbora::data
