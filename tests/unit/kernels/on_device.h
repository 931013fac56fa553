/// What tests of CUDA backends share.
#pragma once

#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <cstdlib>
#include <vector>

/// Skips the test where there is no GPU, unless SBORA_REQUIRE_GPU says that there must be one.
#define SBORA_NEEDS_GPU()                                                                                     \
  do {                                                                                                        \
    int devices = 0;                                                                                          \
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {                                        \
      ASSERT_EQ(std::getenv("SBORA_REQUIRE_GPU"), nullptr) << "SBORA_REQUIRE_GPU is set and there is no GPU"; \
      GTEST_SKIP() << "no CUDA device";                                                                       \
    }                                                                                                         \
  } while (false)

namespace sbora::kernels::testing {

/// Device memory with a copy of host bytes.
template <typename T>
class OnDevice {
 public:
  explicit OnDevice(const std::vector<T>& host) : count_(host.size()) {
    EXPECT_EQ(cudaMalloc(&pointer_, count_ * sizeof(T) + 1), cudaSuccess);
    EXPECT_EQ(cudaMemcpy(pointer_, host.data(), count_ * sizeof(T), cudaMemcpyHostToDevice), cudaSuccess);
  }
  ~OnDevice() { cudaFree(pointer_); }
  T* get() const { return static_cast<T*>(pointer_); }
  /// As bits: NaN equals NaN.
  std::vector<uint8_t> Read() const {
    std::vector<uint8_t> bytes(count_ * sizeof(T));
    EXPECT_EQ(cudaMemcpy(bytes.data(), pointer_, bytes.size(), cudaMemcpyDeviceToHost), cudaSuccess);
    return bytes;
  }

 private:
  void* pointer_ = nullptr;
  size_t count_;
};

template <typename T>
inline std::vector<uint8_t> AsBytes(const std::vector<T>& values) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(values.data());
  return {bytes, bytes + values.size() * sizeof(T)};
}

}  // namespace sbora::kernels::testing
