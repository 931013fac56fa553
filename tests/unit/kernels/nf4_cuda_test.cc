// The CUDA backend against the reference, bit for bit. Needs a GPU.
#include <gtest/gtest.h>

#include <vector>

#include "tests/unit/kernels/nf4_cases.h"
#include "tests/unit/kernels/on_device.h"

namespace sbora::kernels {
namespace {

void CompareCase(const testing::Nf4Case& c, DType dtype) {
  const int64_t elements = (c.first_row + c.rows) * c.columns;
  const int64_t blocks = Nf4Blocks(elements);
  const std::vector<uint8_t> weight = testing::ToBytes(testing::Nf4Values(elements), dtype);
  testing::Nf4Parts want(elements);
  ASSERT_TRUE(QuantizeNf4(Device::kCpuReference, elements, dtype, weight.data(), want.codes.data(), want.scales.data()).ok());
  ASSERT_TRUE(QuantizeScales(Device::kCpuReference, blocks, want.scales.data(), want.scale_codes.data(),
                             want.group_scales.data(), &want.offset).ok());
  const testing::Nf4Parts empty(elements);
  const testing::OnDevice<uint8_t> weight_device(weight);
  const testing::OnDevice<uint8_t> codes(empty.codes);
  const testing::OnDevice<float> scales(empty.scales);
  const testing::OnDevice<uint8_t> scale_codes(empty.scale_codes);
  const testing::OnDevice<float> group_scales(empty.group_scales);
  const testing::OnDevice<float> offset({0.0f});
  ASSERT_TRUE(QuantizeNf4(Device::kCuda, elements, dtype, weight_device.get(), codes.get(), scales.get()).ok());
  ASSERT_TRUE(QuantizeScales(Device::kCuda, blocks, scales.get(), scale_codes.get(), group_scales.get(), offset.get()).ok());
  EXPECT_EQ(codes.Read(), want.codes);
  EXPECT_EQ(scales.Read(), testing::AsBytes(want.scales));
  EXPECT_EQ(scale_codes.Read(), want.scale_codes);
  EXPECT_EQ(group_scales.Read(), testing::AsBytes(want.group_scales));
  EXPECT_EQ(offset.Read(), testing::AsBytes(std::vector<float>{want.offset}));

  const Nf4Matrix matrix{.rows = c.rows, .columns = c.columns, .stride = c.columns + c.padding,
                         .first_element = c.first_row * c.columns, .dtype = dtype};
  std::vector<uint8_t> out(static_cast<size_t>(c.rows * matrix.stride) * SizeOf(dtype), 0xA5);
  const testing::OnDevice<uint8_t> out_device(out);
  ASSERT_TRUE(DequantizeNf4(Device::kCpuReference, matrix, want.codes.data(), want.scales.data(), out.data()).ok());
  ASSERT_TRUE(DequantizeNf4(Device::kCuda, matrix, codes.get(), scales.get(), out_device.get()).ok());
  EXPECT_EQ(out_device.Read(), out);
  std::vector<float> restored(want.scales.size());
  ASSERT_TRUE(DequantizeScales(Device::kCpuReference, blocks, want.scale_codes.data(), want.group_scales.data(),
                               &want.offset, restored.data()).ok());
  ASSERT_TRUE(DequantizeScales(Device::kCuda, blocks, scale_codes.get(), group_scales.get(), offset.get(), scales.get()).ok());
  EXPECT_EQ(scales.Read(), testing::AsBytes(restored));
}

TEST(Nf4Cuda, EqualsTheReferenceBitForBit) {
  SBORA_NEEDS_GPU();
  for (const DType dtype : testing::kNf4DTypes) {
    for (const testing::Nf4Case& c : testing::kNf4Cases) {
      SCOPED_TRACE(testing::Name(c, dtype));
      CompareCase(c, dtype);
    }
    CompareCase({.rows = 2048, .columns = 8192, .padding = 64, .first_row = 0}, dtype);  // 262,144 scales
  }
}

}  // namespace
}  // namespace sbora::kernels
