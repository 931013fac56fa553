// The CUDA backend against the reference, bit for bit in gathers and within one rounding in sums. Needs a GPU.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "kernels/sample_mul/sample_mul.h"
#include "tests/unit/kernels/element_access.h"
#include "tests/unit/kernels/on_device.h"

namespace sbora::kernels {
namespace {

using testing::OnDevice;

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
    testing::WriteElement(&bytes[static_cast<size_t>(i) * SizeOf(dtype)], dtype, value);
  }
  return bytes;
}

double At(const std::vector<uint8_t>& bytes, size_t i, DType dtype) {
  return testing::ReadElement(&bytes[i * SizeOf(dtype)], dtype);
}

TEST(SampleMulCuda, EqualsTheReference) {
  SBORA_NEEDS_GPU();
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
      const OnDevice<uint8_t> wide_device(wide);
      const OnDevice<uint8_t> narrow_device(narrow);
      const OnDevice<int32_t> index_device(index);
      const int32_t* const device_index = index_device.get();

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
      const OnDevice<uint8_t> factor_device(factor);
      std::vector<uint8_t> written = wide_after;
      ASSERT_TRUE(WriteColumns(Device::kCuda, shape, wide_device.get(), device_index, narrow_device.get(),
                               reinterpret_cast<const float*>(factor_device.get()), 1.75f).ok());
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
