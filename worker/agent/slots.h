/// What this machine offers: `cpu_slots` slots that share the cores, and one slot for each GPU. The agent leaves the GPUs
/// out while core::kTrainerUsesGpus is false, and only reports their names.
#pragma once

#include <vector>

#include "sbora/worker/v1/worker.pb.h"

namespace sbora::agent {

struct HostFacts {
  int cores = 1;
  int64_t memory_bytes = 0;
  struct Gpu {
    std::string name;
    std::string uuid;
    int64_t memory_bytes = 0;
  };
  std::vector<Gpu> gpus;
};

/// Cores and memory as this process may use them (affinity, limits of its control group); GPUs through the
/// driver's NVML, none when it is not installed.
HostFacts DiscoverHost();

/// "cpu-0"…, "gpu-0"…; each slot's cores and memory are an equal share among its kind, at least one core.
std::vector<worker::v1::Slot> MakeSlots(const HostFacts& host, int cpu_slots);

}  // namespace sbora::agent
