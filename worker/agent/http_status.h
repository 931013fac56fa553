/// The agent's own small HTTP port: /metrics for Prometheus, /livez for probes.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "common/status.h"

namespace sbora::agent {

class HttpStatus {
 public:
  struct Options {
    /// host:port, port 0 for any.
    std::string listen;
    std::function<std::string()> metrics;
    /// False makes /livez answer 503.
    std::function<bool()> alive;
  };
  /// Errors: InvalidArgument BAD_ADDRESS, Unavailable ADDRESS_IN_USE.
  static StatusOr<std::unique_ptr<HttpStatus>> Start(Options options);
  /// Stops and joins.
  virtual ~HttpStatus() = default;
  /// host:port with the port that was bound.
  virtual std::string address() const = 0;
};

}  // namespace sbora::agent
