/// What this machine offers: `cpu_slots` slots that share the cores, and one slot for each GPU. An agent whose trainer was
/// built without CUDA only reports their names: an offered GPU draws the jobs that name no device.
#pragma once

#include <vector>

#include "sbora/worker/v1/worker.pb.h"

namespace sbora::agent {

/// Agent and trainer come out of one build.
#ifdef SBORA_WITH_CUDA
inline constexpr bool kTrainerUsesGpus = true;
#else
inline constexpr bool kTrainerUsesGpus = false;
#endif

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
