#include "common/grpc/http_transfer.h"

#include <curl/curl.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <mutex>

#include "common/file.h"

namespace sbora {
namespace {

struct Transfer {
  const std::stop_token* stop = nullptr;
  int fd = -1;                                                    // PUT reads here
  const std::filesystem::path* path = nullptr;                    // PUT: of fd
  int64_t size = 0;                                               // PUT
  const std::function<void(int64_t)>* on_bytes = nullptr;         // PUT
  const std::function<Status(std::string_view)>* sink = nullptr;  // GET
  CURL* handle = nullptr;
  int64_t moved = 0;
  int64_t offset = 0;
  Status error = {};
};

size_t ReadBody(char* buffer, size_t size, size_t count, void* user) {
  auto* transfer = static_cast<Transfer*>(user);
  while (true) {
    const ssize_t got = ::read(transfer->fd, buffer, size * count);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) {
      transfer->error = FromErrno(errno, "reading the file to upload");
      return CURL_READFUNC_ABORT;
    }
    if (got == 0 && transfer->moved < transfer->size) {  // the store would wait for the rest
      transfer->error = DataLoss("FILE_SHRANK", fmt::format("{} got shorter while it was read: it ends before byte {}",
                                                            transfer->path->string(), transfer->size));
      return CURL_READFUNC_ABORT;
    }
    transfer->moved += got;
    if (*transfer->on_bytes) (*transfer->on_bytes)(transfer->moved);
    return static_cast<size_t>(got);
  }
}

size_t WriteBody(char* data, size_t size, size_t count, void* user) {
  auto* transfer = static_cast<Transfer*>(user);
  const size_t bytes = size * count;
  long code = 0;
  curl_easy_getinfo(transfer->handle, CURLINFO_RESPONSE_CODE, &code);
  if (code >= 300 || transfer->sink == nullptr) return bytes;  // an error's text; the code decides
  if (transfer->offset > 0 && code != 206) {
    transfer->error = FailedPrecondition(
        "HTTP_NO_RANGE", fmt::format("the object store answered HTTP {} to a request from byte {} on: it ignores "
                                     "Range, which presigned downloads need", code, transfer->offset));
    return 0;
  }
  transfer->error = (*transfer->sink)(std::string_view(data, bytes));
  transfer->moved += static_cast<int64_t>(bytes);
  return transfer->error.ok() ? bytes : 0;
}

int CheckStop(void* user, curl_off_t, curl_off_t, curl_off_t, curl_off_t) {
  return static_cast<Transfer*>(user)->stop->stop_requested() ? 1 : 0;
}

Status Outcome(CURLcode result, Transfer& transfer) {
  if (transfer.stop->stop_requested()) return Cancelled("STOPPED", "the transfer was stopped");
  if (!transfer.error.ok()) return transfer.error;
  if (result != CURLE_OK) {
    return Unavailable("HTTP_UNAVAILABLE",
                       fmt::format("transfer with the object store broke after {} bytes: {}", transfer.moved,
                                   curl_easy_strerror(result)));
  }
  long code = 0;
  curl_easy_getinfo(transfer.handle, CURLINFO_RESPONSE_CODE, &code);
  if (code >= 200 && code < 300) return OkStatus();
  if (code == 408 || code == 429 || code >= 500) {
    return Unavailable("HTTP_UNAVAILABLE", fmt::format("the object store answered HTTP {}; try again later", code));
  }
  return FailedPrecondition("HTTP_REFUSED",
                            fmt::format("the object store answered HTTP {} to a presigned URL: it may have run out, so "
                                        "try again, and compare the clocks of server and store", code));
}

Status Perform(const std::string& url, const HttpOptions& options, Transfer& transfer,
               const std::function<void(CURL*)>& configure) {
  static std::once_flag once;
  std::call_once(once, [] { curl_global_init(CURL_GLOBAL_DEFAULT); });
  const std::unique_ptr<CURL, void (*)(CURL*)> handle(curl_easy_init(), curl_easy_cleanup);
  if (handle == nullptr) return Internal("CURL_INIT_FAILED", "curl_easy_init failed");
  transfer.handle = handle.get();
  curl_easy_setopt(handle.get(), CURLOPT_URL, url.c_str());
  curl_easy_setopt(handle.get(), CURLOPT_PROTOCOLS_STR, "http,https");
  curl_easy_setopt(handle.get(), CURLOPT_FOLLOWLOCATION, 0L);
  curl_easy_setopt(handle.get(), CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(handle.get(), CURLOPT_CONNECTTIMEOUT, 20L);
  curl_easy_setopt(handle.get(), CURLOPT_LOW_SPEED_LIMIT, 1024L);
  curl_easy_setopt(handle.get(), CURLOPT_LOW_SPEED_TIME, 30L);
  curl_easy_setopt(handle.get(), CURLOPT_NOPROGRESS, 0L);
  curl_easy_setopt(handle.get(), CURLOPT_XFERINFOFUNCTION, CheckStop);
  curl_easy_setopt(handle.get(), CURLOPT_XFERINFODATA, &transfer);
  curl_easy_setopt(handle.get(), CURLOPT_WRITEFUNCTION, WriteBody);
  curl_easy_setopt(handle.get(), CURLOPT_WRITEDATA, &transfer);
  if (!options.tls_ca.empty()) curl_easy_setopt(handle.get(), CURLOPT_CAINFO, options.tls_ca.c_str());
  configure(handle.get());
  return Outcome(curl_easy_perform(handle.get()), transfer);
}

}  // namespace

Status HttpPutFile(const std::string& url, const std::filesystem::path& path, int64_t size_bytes,
                   const HttpOptions& options, const std::stop_token& stop,
                   const std::function<void(int64_t)>& on_bytes) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return FromErrno(errno, fmt::format("opening {}", path.string()));
  Transfer transfer{.stop = &stop, .fd = fd.get(), .path = &path, .size = size_bytes, .on_bytes = &on_bytes};
  const std::unique_ptr<curl_slist, void (*)(curl_slist*)> headers(curl_slist_append(nullptr, "Expect:"),
                                                                  curl_slist_free_all);
  return Perform(url, options, transfer, [&](CURL* handle) {
    curl_easy_setopt(handle, CURLOPT_UPLOAD, 1L);
    curl_easy_setopt(handle, CURLOPT_HTTPHEADER, headers.get());
    curl_easy_setopt(handle, CURLOPT_READFUNCTION, ReadBody);
    curl_easy_setopt(handle, CURLOPT_READDATA, &transfer);
    curl_easy_setopt(handle, CURLOPT_INFILESIZE_LARGE, static_cast<curl_off_t>(size_bytes));
  });
}

Status HttpGet(const std::string& url, int64_t offset, const HttpOptions& options, const std::stop_token& stop,
               const std::function<Status(std::string_view)>& sink) {
  Transfer transfer{.stop = &stop, .sink = &sink, .offset = offset};
  return Perform(url, options, transfer, [&](CURL* handle) {
    // Not CURLOPT_RESUME_FROM: that makes a server without Range look like a broken connection, to be tried again.
    if (offset > 0) curl_easy_setopt(handle, CURLOPT_RANGE, fmt::format("{}-", offset).c_str());
  });
}

}  // namespace sbora
