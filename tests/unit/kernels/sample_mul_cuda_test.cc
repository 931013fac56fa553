// The CUDA backend against the reference, bit for bit in gathers and within one rounding in sums. Needs a GPU.
#include <cuda_runtime.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "kernels/sample_mul/sample_mul.h"
#include "kernels/elements.h"

namespace sbora::kernels {
namespace {

struct Shape {
  int64_t rows, columns, indices, wide_padding, narrow_padding;
};
// Scalar and 16-byte paths, empty cases, strides that forbid vectors.
const Shape kShapes[] = {{0, 8, 3, 0, 0},     {1, 1, 1, 0, 0},   {5, 16, 8, 0, 0},      {17, 64, 31, 0, 0},
                         {33, 576, 32, 0, 0}, {6, 40, 8, 3, 5},  {2048, 4096, 64, 0, 0}};

std::vector<uint8_t> Fill(int64_t elements, DType dtype, uint32_t salt) {
  std::vector<uint8_t> bytes(static_cast<size_t>(elements) * SizeOf(dtype));
  for (int64_t i = 0; i < elements; ++i) {
    const auto value = static_cast<float>((static_cast<uint64_t>(i) * 2654435761u + salt) % 2001) / 500.0f - 2.0f;
    const auto at = static_cast<size_t>(i) * SizeOf(dtype);
    const uint16_t bits = dtype == DType::kF16 ? internal::Narrow<internal::Float16>(value).bits
                                               : internal::Narrow<internal::BFloat16>(value).bits;
    if (dtype == DType::kF32) {
      std::memcpy(&bytes[at], &value, 4);
    } else {
      std::memcpy(&bytes[at], &bits, 2);
    }
  }
  return bytes;
}

double At(const std::vector<uint8_t>& bytes, size_t i, DType dtype) {
  if (dtype == DType::kF32) {
    float value;
    std::memcpy(&value, &bytes[i * 4], 4);
    return double{value};
  }
  uint16_t bits;
  std::memcpy(&bits, &bytes[i * 2], 2);
  return double{dtype == DType::kF16 ? internal::Widen(internal::Float16{bits}) : internal::Widen(internal::BFloat16{bits})};
}

/// Device copy of host bytes.
class OnDevice {
 public:
  explicit OnDevice(const void* data, size_t size) : size_(size) {
    EXPECT_EQ(cudaMalloc(&pointer_, size + 1), cudaSuccess);
    EXPECT_EQ(cudaMemcpy(pointer_, data, size, cudaMemcpyHostToDevice), cudaSuccess);
  }
  ~OnDevice() { cudaFree(pointer_); }
  void* get() const { return pointer_; }
  std::vector<uint8_t> Read() const {
    std::vector<uint8_t> bytes(size_);
    EXPECT_EQ(cudaMemcpy(bytes.data(), pointer_, size_, cudaMemcpyDeviceToHost), cudaSuccess);
    return bytes;
  }

 private:
  void* pointer_ = nullptr;
  size_t size_;
};

TEST(SampleMulCuda, EqualsTheReference) {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    ASSERT_EQ(std::getenv("SBORA_REQUIRE_GPU"), nullptr) << "SBORA_REQUIRE_GPU is set and there is no GPU";
    GTEST_SKIP() << "no CUDA device";
  }
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    const double unit = dtype == DType::kF32 ? 0x1p-23 : dtype == DType::kF16 ? 0x1p-10 : 0x1p-7;
    for (const Shape& s : kShapes) {
      SCOPED_TRACE(fmt::format("rows {} columns {} indices {} {}", s.rows, s.columns, s.indices, NameOf(dtype)));
      const SampleMulShape shape{.rows = s.rows, .wide_columns = s.columns, .wide_stride = s.columns + s.wide_padding,
                                 .indices = s.indices, .narrow_stride = s.indices + s.narrow_padding, .dtype = dtype};
      std::vector<int32_t> index;
      for (int64_t j = 0; j < s.indices; ++j) index.push_back(static_cast<int32_t>(s.columns - 1 - j * (s.columns / s.indices)));
      std::vector<uint8_t> wide = Fill(s.rows * shape.wide_stride, dtype, 1);
      std::vector<uint8_t> narrow = Fill(s.rows * shape.narrow_stride, dtype, 2);
      const OnDevice wide_device(wide.data(), wide.size());
      const OnDevice narrow_device(narrow.data(), narrow.size());
      const OnDevice index_device(index.data(), index.size() * sizeof(int32_t));
      const auto* device_index = static_cast<const int32_t*>(index_device.get());

      ASSERT_TRUE(ScatterAddColumns(Device::kCuda, shape, wide_device.get(), device_index, narrow_device.get(), 1.75f).ok());
      std::vector<uint8_t> sum = wide;
      ASSERT_TRUE(ScatterAddColumns(Device::kCpuReference, shape, sum.data(), index.data(), narrow.data(), 1.75f).ok());
      const std::vector<uint8_t> wide_after = wide_device.Read();
      for (size_t i = 0; i < wide.size() / SizeOf(dtype); ++i) {
        ASSERT_NEAR(At(wide_after, i, dtype), At(sum, i, dtype), unit * (1 + std::abs(At(sum, i, dtype)))) << i;
      }

      ASSERT_TRUE(GatherColumns(Device::kCuda, shape, wide_device.get(), device_index, narrow_device.get()).ok());
      ASSERT_TRUE(GatherColumns(Device::kCpuReference, shape, wide_after.data(), index.data(), narrow.data()).ok());
      EXPECT_EQ(narrow_device.Read(), narrow);

      const std::vector<uint8_t> factor = Fill(s.rows * shape.narrow_stride, DType::kF32, 3);
      const OnDevice factor_device(factor.data(), factor.size());
      std::vector<uint8_t> written = wide_after;
      ASSERT_TRUE(WriteColumns(Device::kCuda, shape, wide_device.get(), device_index, narrow_device.get(),
                               static_cast<const float*>(factor_device.get()), 1.75f).ok());
      ASSERT_TRUE(WriteColumns(Device::kCpuReference, shape, written.data(), index.data(), narrow.data(),
                               reinterpret_cast<const float*>(factor.data()), 1.75f).ok());
      const std::vector<uint8_t> written_there = wide_device.Read();
      for (size_t i = 0; i < wide.size() / SizeOf(dtype); ++i) {
        ASSERT_NEAR(At(written_there, i, dtype), At(written, i, dtype), unit * (1 + std::abs(At(written, i, dtype)))) << i;
      }
    }
  }
}

}  // namespace
}  // namespace sbora::kernels
