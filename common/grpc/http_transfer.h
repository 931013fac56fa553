/// Whole files over presigned HTTP URLs, through libcurl. URLs are secrets: they never appear in errors or logs.
/// Blocking, thread-safe. A request fails when fewer than 1 KiB/s move for 30 s.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <stop_token>
#include <string>
#include <string_view>

#include "common/status.h"

namespace sbora {

struct HttpOptions {
  /// PEM file of an own CA; empty for the system's.
  std::filesystem::path tls_ca = {};
};

/// PUTs the file. Unavailable HTTP_UNAVAILABLE for network errors, 408, 429 and 5xx; Cancelled STOPPED; DataLoss
/// FILE_SHRANK when the file has less than `size_bytes`; otherwise FailedPrecondition HTTP_REFUSED with the status
/// code.
Status HttpPutFile(const std::string& url, const std::filesystem::path& path, int64_t size_bytes,
                   const HttpOptions& options, const std::stop_token& stop,
                   const std::function<void(int64_t)>& on_bytes);

/// GETs from `offset` to the end, handing each piece to `sink`, whose error ends the transfer. Errors as HttpPutFile;
/// FailedPrecondition HTTP_NO_RANGE when the server ignored the offset.
Status HttpGet(const std::string& url, int64_t offset, const HttpOptions& options, const std::stop_token& stop,
               const std::function<Status(std::string_view)>& sink);

}  // namespace sbora
