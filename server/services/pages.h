/// Lists in pages that fit into a message: a page ends at the asked number of rows, or earlier when their messages fill half
/// of the 4 MiB that a message may have. The token then goes on behind the last row given. A row alone always fits.
#pragma once

#include <google/protobuf/repeated_ptr_field.h>

#include <algorithm>
#include <string>
#include <utility>

#include "common/status_macros.h"
#include "server/services/context.h"
#include "server/services/requests.h"

namespace sbora::server {

inline constexpr size_t kMaxPageBytes = 2 << 20;
/// Rows are read in runs of this many, so that a page of large ones is not read to be thrown away.
inline constexpr int kRowsAtOnce = 50;

/// Counts what one page holds.
class PageBudget {
 public:
  /// True, and counted, when a message of `bytes` still goes on the page.
  bool Take(size_t bytes) {
    if (used_ > 0 && used_ + bytes > kMaxPageBytes) return false;
    used_ += bytes;
    return true;
  }

 private:
  size_t used_ = 0;
};

/// Appends `convert(row)` to `out` for the rows that `read(rows_at_once, cursor)` gives (StatusOr<Page<Row>>), from
/// page.cursor on. `cursor_of(row)` goes on behind that row. Answers the cursor of the next page, empty at the end.
template <typename Message, typename Read, typename CursorOf, typename Convert>
StatusOr<std::string> FillPage(const PageRequest& page, const Read& read, const CursorOf& cursor_of, const Convert& convert,
                               google::protobuf::RepeatedPtrField<Message>& out) {
  PageBudget budget;
  std::string cursor = page.cursor;
  while (out.size() < page.size) {
    SBORA_ASSIGN_OR_RETURN(auto rows, read(std::min(kRowsAtOnce, page.size - out.size()), cursor));
    for (const auto& row : rows.rows) {
      SBORA_ASSIGN_OR_RETURN(Message message, convert(row));
      if (!budget.Take(message.ByteSizeLong())) return cursor;
      *out.Add() = std::move(message);
      cursor = cursor_of(row);
    }
    cursor = std::move(rows.next_cursor);
    if (cursor.empty()) break;
  }
  return cursor;
}

/// Work of `query` (its page and cursor are set here) as messages made by JobOf, EvaluationOf or OperationOf.
template <typename Message>
StatusOr<std::string> FillWorkPage(const ServiceContext& services, const PageRequest& page, WorkQuery query,
                                   StatusOr<Message> (*convert)(const Work&, const std::string&),
                                   google::protobuf::RepeatedPtrField<Message>& out) {
  const auto read = [&](int size, const std::string& cursor) {
    query.page_size = size;
    query.cursor = cursor;
    return services.store().ListWork(query);
  };
  const auto message_of = [&](const Work& work) { return convert(work, services.coordinator->Progress(work.row.uid)); };
  return FillPage(page, read, [](const Work& work) { return work.row.uid; }, message_of, out);
}

}  // namespace sbora::server
