/// The numbered schema changes of server/store/migrations, embedded at build time. A file once released never changes;
/// each runs in one transaction, and a program one version older works on the result (expand, then contract).
#pragma once

#include <span>
#include <string_view>

namespace sbora::server {

struct Migration {
  std::string_view name;  // "0001_initial.sql"; number i + 1 at index i
  std::string_view sql;
};

std::span<const Migration> Migrations();

}  // namespace sbora::server
