/// Where rank 0 of a gang over several workers awaits the others.
#pragma once

#include <string>

#include "common/file.h"
#include "common/status.h"

namespace sbora::agent {

/// A listening socket that rank 0's trainer takes over: its address is known, and takes connections, before that starts.
struct GangPort {
  UniqueFd socket;
  std::string address;  // "host:port" with the host that was given
};

/// On `host`, an address or a name of this machine, at a port that the system gives. Errors: FAILED_PRECONDITION
/// GANG_ADDRESS when the host is none of this machine.
StatusOr<GangPort> OpenGangPort(const std::string& host);

}  // namespace sbora::agent
