/// How ranks on several workers find each other. Plain data.
#pragma once

#include <cstdint>
#include <string>

namespace sbora::trainer {

struct OverWorkers {
  std::string store_host;    ///< of the c10d store that rank 0 serves
  uint16_t store_port = 0;
  int listener = -1;         ///< rank 0: a descriptor that listens there already and is taken over
  std::string address;       ///< name or address on which this rank listens for the others
  int first_local_rank = 0;  ///< first of the ranks on this worker, whose ends can be seen here
  int local_ranks = 1;
};

}  // namespace sbora::trainer
