/// Removes what nobody needs any more: uploads that expired, objects without an owner, generations whose caller left.
#pragma once

#include <memory>
#include <thread>

#include "server/services/context.h"

namespace sbora::server {

/// Owns one thread. `services` must outlive it.
class Sweeper {
 public:
  Sweeper(const ServiceContext& services, Duration every);
  ~Sweeper();

  /// One pass; what cannot be removed now is tried again next time.
  static Status SweepOnce(const ServiceContext& services);

 private:
  const ServiceContext& services_;
  std::jthread thread_;
};

}  // namespace sbora::server
