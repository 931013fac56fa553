// A libnvidia-ml.so.1 with two GPUs, for machines that have none: what the agent asks of the driver, and no more.
#include <cstdio>

extern "C" {

int nvmlInit_v2() { return 0; }
int nvmlShutdown() { return 0; }
int nvmlDeviceGetCount_v2(unsigned* count) {
  *count = 2;
  return 0;
}
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void** device) {
  static char devices[2];
  *device = &devices[index];
  return 0;
}
int nvmlDeviceGetName(void*, char* name, unsigned size) {
  std::snprintf(name, size, "Test GPU");
  return 0;
}
int nvmlDeviceGetUUID(void*, char* uuid, unsigned size) {
  std::snprintf(uuid, size, "GPU-0");
  return 0;
}
int nvmlDeviceGetMemoryInfo(void*, unsigned long long* total_free_used) {
  total_free_used[0] = 80ULL << 30;
  return 0;
}

}  // extern "C"
