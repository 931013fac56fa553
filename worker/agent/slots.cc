#include "worker/agent/slots.h"

#include <dlfcn.h>
#include <fmt/format.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <fstream>
#include <memory>

namespace sbora::agent {
namespace {

/// The few functions of NVML that we need, loaded at run time: the agent starts on machines without a driver.
class Nvml {
 public:
  Nvml() : library_(::dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL)) {
    if (library_ == nullptr) return;
    Load(init_, "nvmlInit_v2");
    Load(shutdown_, "nvmlShutdown");
    Load(count_, "nvmlDeviceGetCount_v2");
    Load(handle_, "nvmlDeviceGetHandleByIndex_v2");
    Load(name_, "nvmlDeviceGetName");
    Load(uuid_, "nvmlDeviceGetUUID");
    Load(memory_, "nvmlDeviceGetMemoryInfo");
    ready_ = complete_ && init_() == 0;
  }
  ~Nvml() {
    if (ready_) shutdown_();
    if (library_ != nullptr) ::dlclose(library_);
  }
  Nvml(const Nvml&) = delete;
  Nvml& operator=(const Nvml&) = delete;

  std::vector<HostFacts::Gpu> Gpus() const {
    std::vector<HostFacts::Gpu> gpus;
    unsigned count = 0;
    if (!ready_ || count_(&count) != 0) return gpus;
    for (unsigned i = 0; i < count; ++i) {
      void* device = nullptr;
      std::array<char, 96> name = {};
      std::array<char, 96> uuid = {};
      Memory memory = {};
      if (handle_(i, &device) != 0 || name_(device, name.data(), name.size()) != 0 ||
          uuid_(device, uuid.data(), uuid.size()) != 0 || memory_(device, &memory) != 0) {
        continue;
      }
      gpus.push_back({.name = name.data(), .uuid = uuid.data(), .memory_bytes = static_cast<int64_t>(memory.total)});
    }
    return gpus;
  }

 private:
  struct Memory {
    unsigned long long total, free, used;
  };
  template <typename F>
  void Load(F*& function, const char* name) {
    function = reinterpret_cast<F*>(::dlsym(library_, name));
    complete_ = complete_ && function != nullptr;
  }

  void* library_;
  bool complete_ = true;
  bool ready_ = false;
  int (*init_)() = nullptr;
  int (*shutdown_)() = nullptr;
  int (*count_)(unsigned*) = nullptr;
  int (*handle_)(unsigned, void**) = nullptr;
  int (*name_)(void*, char*, unsigned) = nullptr;
  int (*uuid_)(void*, char*, unsigned) = nullptr;
  int (*memory_)(void*, Memory*) = nullptr;
};

int64_t ReadNumber(const char* path) {
  std::ifstream in(path);
  int64_t value = 0;
  return in >> value ? value : 0;
}

int64_t MemoryBytes() {
  int64_t bytes = static_cast<int64_t>(::sysconf(_SC_PHYS_PAGES)) * ::sysconf(_SC_PAGESIZE);
  for (const char* path : {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"}) {
    const int64_t limit = ReadNumber(path);  // "max" reads as 0
    if (limit > 0) bytes = std::min(bytes, limit);
  }
  return bytes;
}

/// Cores' worth of time that the control group grants, rounded up; 0 for no limit. More threads than that only get
/// throttled.
int QuotaCores() {
  double quota = 0;
  double period = 0;
  std::ifstream v2("/sys/fs/cgroup/cpu.max");  // "max 100000" reads as nothing
  if (!(v2 >> quota >> period)) {
    quota = static_cast<double>(ReadNumber("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"));  // -1: none
    period = static_cast<double>(ReadNumber("/sys/fs/cgroup/cpu/cpu.cfs_period_us"));
  }
  return quota > 0 && period > 0 ? static_cast<int>(std::ceil(quota / period)) : 0;
}

}  // namespace

HostFacts DiscoverHost() {
  HostFacts host;
  cpu_set_t cores;
  CPU_ZERO(&cores);
  if (::sched_getaffinity(0, sizeof(cores), &cores) == 0) host.cores = std::max(1, CPU_COUNT(&cores));
  if (const int quota = QuotaCores(); quota > 0) host.cores = std::min(host.cores, quota);
  host.memory_bytes = MemoryBytes();
  host.gpus = Nvml().Gpus();
  return host;
}

std::vector<worker::v1::Slot> MakeSlots(const HostFacts& host, int cpu_slots) {
  std::vector<worker::v1::Slot> slots;
  for (int i = 0; i < cpu_slots; ++i) {
    worker::v1::Slot& slot = slots.emplace_back();
    slot.set_id(fmt::format("cpu-{}", i));
    slot.set_device("cpu");
    slot.set_cpu_cores(std::max(1, host.cores / cpu_slots));
    slot.set_memory_bytes(host.memory_bytes / cpu_slots);
  }
  const int gpus = static_cast<int>(host.gpus.size());
  for (int i = 0; i < gpus; ++i) {
    const HostFacts::Gpu& gpu = host.gpus[static_cast<size_t>(i)];
    worker::v1::Slot& slot = slots.emplace_back();
    slot.set_id(fmt::format("gpu-{}", i));
    slot.set_device("cuda");
    slot.set_cpu_cores(std::max(1, host.cores / gpus));
    slot.set_memory_bytes(gpu.memory_bytes);
    slot.set_gpu_name(gpu.name);
    slot.set_gpu_uuid(gpu.uuid);
  }
  return slots;
}

}  // namespace sbora::agent
