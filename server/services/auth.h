/// Who may call what: bearer tokens with a role, checked against one table of all RPCs. What is not in the table is denied.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "common/clock.h"
#include "common/mutex.h"
#include "common/status.h"

namespace sbora::server {

enum class Role : unsigned { kViewer = 1, kSubmitter = 2, kWorker = 4, kAdmin = 8 };

/// The roles (bits) that may call `method` ("sbora.v1.ModelService/GetModel"); 0 when the table does not know it.
unsigned RolesAllowed(std::string_view method);

/// Thread-safe. Without a token file everybody on loopback may do everything.
class Authenticator {
 public:
  /// `token_file` empty: open. Lines are `role sha256-of-the-token-in-hex`; blank lines and those with '#' are skipped.
  /// Errors: INVALID_ARGUMENT BAD_TOKEN_FILE naming the line.
  static StatusOr<std::unique_ptr<Authenticator>> Create(const std::filesystem::path& token_file, const Clock& clock);

  bool open() const { return token_file_.empty(); }
  /// UNAUTHENTICATED TOKEN_MISSING or TOKEN_UNKNOWN; PERMISSION_DENIED ROLE_NOT_ALLOWED.
  Status Authorize(std::string_view bearer_token, std::string_view method);

 private:
  Authenticator(std::filesystem::path token_file, const Clock& clock) : token_file_(std::move(token_file)), clock_(clock) {}
  Status Load();

  const std::filesystem::path token_file_;
  const Clock& clock_;
  Mutex mutex_;
  std::map<std::string, unsigned, std::less<>> role_of_hash_ SBORA_GUARDED_BY(mutex_);
  std::filesystem::file_time_type loaded_time_ SBORA_GUARDED_BY(mutex_);
  MonotonicTime next_look_ SBORA_GUARDED_BY(mutex_);
};

}  // namespace sbora::server
