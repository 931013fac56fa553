#include "bench/kernels/measured.h"

#include <benchmark/benchmark.h>
#ifdef SBORA_WITH_CUDA
#include <cuda_runtime.h>
#endif

#include <cstdlib>
#include <cstring>

#include "common/check.h"
#include "kernels/elements.h"

namespace sbora::bench {
namespace {

using kernels::Device;
using kernels::DType;

#ifdef SBORA_WITH_CUDA
bool HasGpu() {
  int devices = 0;
  return cudaGetDeviceCount(&devices) == cudaSuccess && devices > 0;
}

void* Allocate(Device device, size_t size) {
  if (device != Device::kCuda) return std::malloc(size + 1);
  void* data = nullptr;
  SBORA_CHECK(cudaMalloc(&data, size + 1) == cudaSuccess, "cudaMalloc of {} bytes", size);
  return data;
}

void Free(Device device, void* data) {
  if (device != Device::kCuda) return std::free(data);
  cudaFree(data);
}

void Fill(Device device, void* data, const void* bytes, size_t size) {
  if (device != Device::kCuda) {
    std::memcpy(data, bytes, size);
    return;
  }
  SBORA_CHECK(cudaMemcpy(data, bytes, size, cudaMemcpyHostToDevice) == cudaSuccess, "cudaMemcpy of {} bytes", size);
}

Status Copy(Device device, void* target, const void* source, size_t size) {
  if (device != Device::kCuda) {
    std::memcpy(target, source, size);
    benchmark::ClobberMemory();
    return OkStatus();
  }
  if (cudaMemcpyAsync(target, source, size, cudaMemcpyDeviceToDevice, nullptr) == cudaSuccess) return OkStatus();
  return Internal("CUDA_LAUNCH_FAILED", cudaGetErrorString(cudaGetLastError()));
}

/// Seconds of one call, by the device's own clock.
double SecondsOnGpu(const Call& call, cudaEvent_t begin, cudaEvent_t end, Status& status) {
  float milliseconds = 0;
  cudaEventRecord(begin, nullptr);
  status = call();
  cudaEventRecord(end, nullptr);
  if (cudaEventSynchronize(end) != cudaSuccess || cudaEventElapsedTime(&milliseconds, begin, end) != cudaSuccess) {
    status = Internal("CUDA_LAUNCH_FAILED", cudaGetErrorString(cudaGetLastError()));
  }
  return double{milliseconds} / 1e3;
}

void LoopOnGpu(benchmark::State& state, const Call& call) {
  cudaEvent_t begin = nullptr;
  cudaEvent_t end = nullptr;
  SBORA_CHECK(cudaEventCreate(&begin) == cudaSuccess && cudaEventCreate(&end) == cudaSuccess, "cudaEventCreate");
  Status status = call();  // loads the kernel
  for (auto _ : state) {
    if (!status.ok()) {
      state.SkipWithError(status.ToString().c_str());
      break;
    }
    state.SetIterationTime(SecondsOnGpu(call, begin, end, status));
  }
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
}
#else
bool HasGpu() { return false; }
void* Allocate(Device, size_t size) { return std::malloc(size + 1); }
void Free(Device, void* data) { std::free(data); }
void Fill(Device, void* data, const void* bytes, size_t size) { std::memcpy(data, bytes, size); }
Status Copy(Device, void* target, const void* source, size_t size) {
  std::memcpy(target, source, size);
  benchmark::ClobberMemory();
  return OkStatus();
}
void LoopOnGpu(benchmark::State& state, const Call&) { state.SkipWithError("this build has no CUDA"); }
#endif

void LoopOnCpu(benchmark::State& state, const Call& call) {
  for (auto _ : state) {
    if (const Status status = call(); !status.ok()) {
      state.SkipWithError(status.ToString().c_str());
      break;
    }
    benchmark::ClobberMemory();
  }
}

void Register(const std::string& name, Device device, int64_t bytes, const Prepare& prepare) {
  auto* one = benchmark::RegisterBenchmark(name.c_str(), [=](benchmark::State& state) {
    const Call call = prepare(device);
    device == Device::kCuda ? LoopOnGpu(state, call) : LoopOnCpu(state, call);
    state.SetBytesProcessed(state.iterations() * bytes);
  });
  if (device == Device::kCuda) one->UseManualTime();
}

Call PrepareCopy(Device device, int64_t bytes) {
  const int64_t floats = (bytes + 7) / 8;  // half of the bytes is read, half written
  auto source = std::make_shared<Buffer>(device, DType::kF32, floats);
  auto target = std::make_shared<Buffer>(device, DType::kF32, floats);
  return [=] { return Copy(device, target->get(), source->get(), static_cast<size_t>(bytes / 2)); };
}

std::vector<uint8_t> Values(DType dtype, int64_t elements) {
  std::vector<uint8_t> bytes(static_cast<size_t>(elements) * kernels::SizeOf(dtype));
  for (int64_t i = 0; i < elements; ++i) {
    const auto value = static_cast<float>(static_cast<uint64_t>(i) * 2654435761u % 2048) / 1024.0f - 1.0f;
    uint8_t* at = &bytes[static_cast<size_t>(i) * kernels::SizeOf(dtype)];
    if (dtype == DType::kF32) {
      std::memcpy(at, &value, sizeof(value));
    } else {
      const uint16_t bits = dtype == DType::kF16 ? kernels::internal::Narrow<kernels::internal::Float16>(value).bits
                                                 : kernels::internal::Narrow<kernels::internal::BFloat16>(value).bits;
      std::memcpy(at, &bits, sizeof(bits));
    }
  }
  return bytes;
}

}  // namespace

Buffer::Buffer(Device device, const void* bytes, int64_t size)
    : device_(device), data_(Allocate(device, static_cast<size_t>(size))) {
  SBORA_CHECK(data_ != nullptr, "no memory for {} bytes", size);
  Fill(device_, data_, bytes, static_cast<size_t>(size));
}

Buffer::Buffer(Device device, DType dtype, int64_t elements)
    : Buffer(device, Values(dtype, elements).data(), elements * static_cast<int64_t>(kernels::SizeOf(dtype))) {}

Buffer::~Buffer() { Free(device_, data_); }

std::vector<int32_t> SpreadIndices(int64_t count, int64_t columns) {
  std::vector<int32_t> indices;
  for (int64_t j = 0; j < count; ++j) indices.push_back(static_cast<int32_t>(columns - 1 - j * (columns / count)));
  return indices;
}

int RegisterCall(const Measured& measured, const Prepare& prepare) {
  const auto copy = [bytes = measured.bytes](Device device) { return PrepareCopy(device, bytes); };
  for (const Device device : measured.devices) {
    if (device == Device::kCuda && !HasGpu()) continue;
    const std::string name = (device == Device::kCuda ? "cuda/" : "cpu/") + measured.name;
    Register(name, device, measured.bytes, prepare);
    Register(name + "/copy", device, measured.bytes, copy);
  }
  return 0;
}

}  // namespace sbora::bench
