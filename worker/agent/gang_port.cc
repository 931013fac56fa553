#include "worker/agent/gang_port.h"

#include <fmt/format.h>
#include <netdb.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

#include <cerrno>
#include <memory>

namespace sbora::agent {
namespace {

Status Refused(const std::string& host, const char* why) {
  return FailedPrecondition("GANG_ADDRESS", fmt::format("no rank can listen at --gang-address {}: {}; give an address or a name "
                                                        "of this machine",
                                                        host, why));
}

int PortOf(int socket) {
  sockaddr_storage bound = {};
  socklen_t size = sizeof(bound);
  if (::getsockname(socket, reinterpret_cast<sockaddr*>(&bound), &size) != 0) return -1;
  if (bound.ss_family == AF_INET6) return ntohs(reinterpret_cast<const sockaddr_in6&>(bound).sin6_port);
  return ntohs(reinterpret_cast<const sockaddr_in&>(bound).sin_port);
}

}  // namespace

StatusOr<GangPort> OpenGangPort(const std::string& host) {
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (const int error = ::getaddrinfo(host.c_str(), "0", &hints, &found); error != 0) {
    return Refused(host, ::gai_strerror(error));
  }
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> owned(found, ::freeaddrinfo);
  int error = 0;
  for (const addrinfo* each = found; each != nullptr; each = each->ai_next) {
    UniqueFd socket(::socket(each->ai_family, each->ai_socktype | SOCK_CLOEXEC, each->ai_protocol));
    if (socket.valid() && ::bind(socket.get(), each->ai_addr, each->ai_addrlen) == 0 && ::listen(socket.get(), SOMAXCONN) == 0) {
      const int port = PortOf(socket.get());
      return GangPort{.socket = std::move(socket), .address = fmt::format("{}:{}", host, port)};
    }
    error = errno;
  }
  return Refused(host, ::strerror(error));
}

}  // namespace sbora::agent
