// The CUDA backend against the CPU, bit for bit. Needs a GPU.
#include <gtest/gtest.h>

#include <limits>
#include <random>
#include <vector>

#include "kernels/adamw8bit/adamw8bit.h"
#include "tests/unit/kernels/on_device.h"

namespace sbora::kernels {
namespace {

using testing::AsBytes;
using testing::OnDevice;

std::vector<float> Normal(int64_t elements, uint32_t seed, float width) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal(0, width);
  std::vector<float> values(static_cast<size_t>(elements));
  for (float& value : values) value = normal(rng);
  return values;
}

void CompareSteps(int64_t elements, bool odd_values) {
  std::vector<float> p = Normal(elements, 1, 1.0f);
  const auto count = static_cast<size_t>(elements);
  const auto blocks = static_cast<size_t>(AdamW8BitBlocks(elements));
  std::vector<uint8_t> m_codes(count), v_codes(count);
  std::vector<float> m_scales(blocks), v_scales(blocks), m(count), v(count), p32 = p;
  const OnDevice<float> device_p(p), device_p32(p), device_m(m), device_v(v), device_m_scales(m_scales), device_v_scales(v_scales);
  const OnDevice<uint8_t> device_m_codes(m_codes), device_v_codes(v_codes);
  const OnDevice<float> go({0.0f}), skip({1.0f});
  for (int64_t t = 1; t <= 4; ++t) {
    const AdamWStep step{.weight_decay = 0.01, .learning_rate = 1e-3, .step = t};
    std::vector<float> g = Normal(elements, static_cast<uint32_t>(10 + t), 0.01f);
    if (odd_values) {
      for (size_t i = 0; i < count; i += 97) g[i] = 0.0f;
      g[count / 2] = 1e30f;
      g[count / 3] = 1e-40f;
      if (t == 3) g[0] = std::numeric_limits<float>::infinity();
    }
    const OnDevice<float> device_g(g);
    ASSERT_TRUE(UpdateAdamW8Bit(Device::kCpu, step, elements, p.data(), g.data(), {m_codes.data(), m_scales.data()},
                                {v_codes.data(), v_scales.data()}).ok());
    ASSERT_TRUE(UpdateAdamW32Bit(Device::kCpu, step, elements, p32.data(), g.data(), m.data(), v.data()).ok());
    for (const auto* flag : {&go, &skip}) {  // the second changes nothing
      ASSERT_TRUE(UpdateAdamW8Bit(Device::kCuda, step, elements, device_p.get(), device_g.get(),
                                  {device_m_codes.get(), device_m_scales.get()}, {device_v_codes.get(), device_v_scales.get()},
                                  flag->get()).ok());
      ASSERT_TRUE(UpdateAdamW32Bit(Device::kCuda, step, elements, device_p32.get(), device_g.get(), device_m.get(),
                                   device_v.get(), flag->get()).ok());
    }
    EXPECT_EQ(device_m_codes.Read(), m_codes) << t;
    EXPECT_EQ(device_v_codes.Read(), v_codes) << t;
    EXPECT_EQ(device_m_scales.Read(), AsBytes(m_scales)) << t;
    EXPECT_EQ(device_v_scales.Read(), AsBytes(v_scales)) << t;
    if (!odd_values) {  // the bits of a NaN are each processor's own
      EXPECT_EQ(device_p.Read(), AsBytes(p)) << t;
      EXPECT_EQ(device_p32.Read(), AsBytes(p32)) << t;
      EXPECT_EQ(device_m.Read(), AsBytes(m)) << t;
      EXPECT_EQ(device_v.Read(), AsBytes(v)) << t;
    }
  }
  for (const MomentKind kind : {MomentKind::kFirst, MomentKind::kSecond}) {
    const bool first = kind == MomentKind::kFirst;
    std::vector<float> values(count);
    const OnDevice<float> device_values(values);
    ASSERT_TRUE(DequantizeMoment(Device::kCpu, kind, elements, (first ? m_codes : v_codes).data(),
                                 (first ? m_scales : v_scales).data(), values.data()).ok());
    ASSERT_TRUE(DequantizeMoment(Device::kCuda, kind, elements, (first ? device_m_codes : device_v_codes).get(),
                                 (first ? device_m_scales : device_v_scales).get(), device_values.get()).ok());
    if (!odd_values) {
      EXPECT_EQ(device_values.Read(), AsBytes(values));
    }
  }
}

TEST(AdamW8BitCuda, EqualsTheCpuBitForBit) {
  SBORA_NEEDS_GPU();
  for (const int64_t elements : {1, 31, 255, 256, 257, 1000, 65536 * 256 + 300}) {  // the last walks the grid twice
    SCOPED_TRACE(elements);
    CompareSteps(elements, /*odd_values=*/false);
  }
  for (const int64_t elements : {300, 1000}) {
    SCOPED_TRACE(elements);
    CompareSteps(elements, /*odd_values=*/true);
  }
}

}  // namespace
}  // namespace sbora::kernels
