/// Removes what nobody needs any more: uploads that expired, objects without an owner, generations whose caller
/// left, and the memory of requests older than 7 days.
#pragma once

#include <stop_token>
#include <thread>

#include "server/services/context.h"

namespace sbora::server {

/// Owns one thread. `services` must outlive it.
class Sweeper {
 public:
  Sweeper(const ServiceContext& services, Duration every);
  ~Sweeper();

  /// One pass over everything that is due. What cannot be removed now is tried again next time; an object that the store
  /// refuses to delete does not keep the others (its error is returned at the end).
  static Status SweepOnce(const ServiceContext& services, const std::stop_token& stop = {});

 private:
  const ServiceContext& services_;
  std::jthread thread_;
};

}  // namespace sbora::server
