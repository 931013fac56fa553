// One case table drives parity with the reference, guard bands and parts of a weight; files written by bitsandbytes
// (scripts/numerics/make_nf4_reference.py) say what the bits must be.
#include "kernels/nf4/nf4.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <limits>
#include <vector>

#include "core/safetensors.h"
#include "tests/unit/kernels/nf4_cases.h"

namespace sbora::kernels {
namespace {

using testing::kNf4Cases;
using testing::kNf4DTypes;
using testing::Nf4Case;
using testing::Nf4Parts;
using testing::ToBytes;

constexpr Device kCpuDevices[] = {Device::kCpuReference, Device::kCpu};

/// Bytes with a guard band on each side.
class Guarded {
 public:
  explicit Guarded(size_t bytes) : bytes_(bytes + 2 * kGuard, kMark) {}
  void* data() { return bytes_.data() + kGuard; }
  std::vector<uint8_t> Inside() const {
    return {bytes_.begin() + kGuard, bytes_.end() - static_cast<std::ptrdiff_t>(kGuard)};
  }
  bool Intact() const {
    for (size_t i = 0; i < kGuard; ++i) {
      if (bytes_[i] != kMark || bytes_[bytes_.size() - 1 - i] != kMark) return false;
    }
    return true;
  }
  static constexpr uint8_t kMark = 0xA5;

 private:
  static constexpr size_t kGuard = 64;
  std::vector<uint8_t> bytes_;
};

template <typename T>
std::vector<uint8_t> AsBytes(const std::vector<T>& values) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(values.data());
  return {bytes, bytes + values.size() * sizeof(T)};
}

/// Through guarded memory: an output one byte too far is seen.
Nf4Parts Quantized(Device device, int64_t elements, DType dtype, const std::vector<uint8_t>& weight) {
  Nf4Parts parts(elements);
  Guarded codes(parts.codes.size());
  Guarded scales(parts.scales.size() * 4);
  EXPECT_TRUE(QuantizeNf4(device, elements, dtype, weight.data(), static_cast<uint8_t*>(codes.data()),
                          static_cast<float*>(scales.data())).ok());
  parts.codes = codes.Inside();
  if (!parts.scales.empty()) std::memcpy(parts.scales.data(), scales.data(), parts.scales.size() * 4);
  const int64_t blocks = Nf4Blocks(elements);
  Guarded scale_codes(parts.scale_codes.size());
  Guarded group_scales(parts.group_scales.size() * 4);
  EXPECT_TRUE(QuantizeScales(device, blocks, parts.scales.data(), static_cast<uint8_t*>(scale_codes.data()),
                             static_cast<float*>(group_scales.data()), &parts.offset).ok());
  parts.scale_codes = scale_codes.Inside();
  if (!parts.group_scales.empty()) std::memcpy(parts.group_scales.data(), group_scales.data(), parts.group_scales.size() * 4);
  EXPECT_TRUE(codes.Intact() && scales.Intact() && scale_codes.Intact() && group_scales.Intact());
  return parts;
}

TEST(Nf4, CpuEqualsReferenceBitForBit) {
  for (const DType dtype : kNf4DTypes) {
    for (const Nf4Case& c : kNf4Cases) {
      SCOPED_TRACE(testing::Name(c, dtype));
      const int64_t elements = (c.first_row + c.rows) * c.columns;
      const std::vector<uint8_t> weight = ToBytes(testing::Nf4Values(elements), dtype);
      const Nf4Parts slow = Quantized(Device::kCpuReference, elements, dtype, weight);
      const Nf4Parts fast = Quantized(Device::kCpu, elements, dtype, weight);
      EXPECT_EQ(fast.codes, slow.codes);
      EXPECT_EQ(AsBytes(fast.scales), AsBytes(slow.scales));
      EXPECT_EQ(fast.scale_codes, slow.scale_codes);
      EXPECT_EQ(AsBytes(fast.group_scales), AsBytes(slow.group_scales));
      EXPECT_EQ(fast.offset, slow.offset);

      const Nf4Matrix matrix{.rows = c.rows, .columns = c.columns, .stride = c.columns + c.padding,
                             .first_element = c.first_row * c.columns, .dtype = dtype};
      std::vector<uint8_t> results[2];
      for (size_t i = 0; i < 2; ++i) {
        Guarded out(static_cast<size_t>(c.rows * matrix.stride) * SizeOf(dtype));
        ASSERT_TRUE(DequantizeNf4(kCpuDevices[i], matrix, slow.codes.data(), slow.scales.data(), out.data()).ok());
        EXPECT_TRUE(out.Intact());
        results[i] = out.Inside();
      }
      EXPECT_EQ(results[1], results[0]);
      std::vector<float> restored[2] = {std::vector<float>(slow.scales.size()), std::vector<float>(slow.scales.size())};
      for (size_t i = 0; i < 2; ++i) {
        ASSERT_TRUE(DequantizeScales(kCpuDevices[i], Nf4Blocks(elements), slow.scale_codes.data(),
                                     slow.group_scales.data(), &slow.offset, restored[i].data()).ok());
      }
      EXPECT_EQ(AsBytes(restored[1]), AsBytes(restored[0]));
    }
  }
}

TEST(Nf4, AMatrixIsItsPartOfTheWeightAndLeavesThePaddingAlone) {
  for (const Nf4Case& c : kNf4Cases) {
    SCOPED_TRACE(testing::Name(c, DType::kF32));
    const int64_t elements = (c.first_row + c.rows) * c.columns;
    const Nf4Parts parts =
        Quantized(Device::kCpu, elements, DType::kF32, ToBytes(testing::Nf4Values(elements), DType::kF32));
    std::vector<float> whole(static_cast<size_t>(elements));
    ASSERT_TRUE(DequantizeNf4(Device::kCpu, {.rows = 1, .columns = elements, .stride = elements}, parts.codes.data(),
                              parts.scales.data(), whole.data()).ok());
    const int64_t stride = c.columns + c.padding;
    std::vector<float> part(static_cast<size_t>(c.rows * stride), -7.0f);
    ASSERT_TRUE(DequantizeNf4(Device::kCpu,
                              {.rows = c.rows, .columns = c.columns, .stride = stride, .first_element = c.first_row * c.columns},
                              parts.codes.data(), parts.scales.data(), part.data()).ok());
    for (int64_t row = 0; row < c.rows; ++row) {
      for (int64_t column = 0; column < stride; ++column) {
        const float expected =
            column < c.columns ? whole[static_cast<size_t>((c.first_row + row) * c.columns + column)] : -7.0f;
        ASSERT_EQ(part[static_cast<size_t>(row * stride + column)], expected) << row << ", " << column;
      }
    }
  }
}

TEST(Nf4, ErrorIsAtMostHalfTheGapBetweenCodes) {
  constexpr float kWidestGap = 0.3038072f;  // between the two lowest codes
  const std::vector<float> values = testing::Nf4Values(4096);
  const Nf4Parts parts = Quantized(Device::kCpu, 4096, DType::kF32, ToBytes(values, DType::kF32));
  std::vector<float> back(values.size());
  ASSERT_TRUE(DequantizeNf4(Device::kCpu, {.rows = 64, .columns = 64, .stride = 64}, parts.codes.data(),
                            parts.scales.data(), back.data()).ok());
  for (size_t i = 0; i < values.size(); ++i) {
    ASSERT_LE(std::abs(back[i] - values[i]), parts.scales[i / 64] * kWidestGap / 2 * 1.0001f) << i;
    ASSERT_TRUE(values[i] != 0 || back[i] == 0) << i;
  }
}

TEST(Nf4, NanAndInfinityStayInTheirBlock) {
  for (const Device device : kCpuDevices) {
    std::vector<float> values(192, 0.5f);
    values[70] = std::numeric_limits<float>::quiet_NaN();
    values[130] = -std::numeric_limits<float>::infinity();
    const Nf4Parts parts = Quantized(device, 192, DType::kF32, ToBytes(values, DType::kF32));
    EXPECT_EQ(parts.scales[0], 0.5f);
    EXPECT_TRUE(std::isnan(parts.scales[1]));
    EXPECT_TRUE(std::isinf(parts.scales[2]));
    EXPECT_THAT(std::vector<uint8_t>(parts.codes.begin(), parts.codes.begin() + 64), ::testing::Each(0xFF));
    const Status status = CheckScales(parts.scales);
    EXPECT_EQ(status.reason(), "NF4_SCALE");
    EXPECT_THAT(status.message(), ::testing::HasSubstr("scale[1]=nan"));
    EXPECT_THAT(status.message(), ::testing::HasSubstr("elements 64 to 127"));
  }
  EXPECT_TRUE(CheckScales(std::vector<float>{0.0f, 1e-38f}).ok());
  EXPECT_EQ(CheckScales(std::vector<float>{-1.0f}).reason(), "NF4_SCALE");
}

/// Reads one golden file's tensors by name.
class Golden {
 public:
  explicit Golden(const std::string& name) {
    auto file = core::SafetensorsFile::Open(std::filesystem::path(SBORA_SOURCE_DIR) / "tests/data/golden/nf4" / name);
    SBORA_CHECK(file.ok(), "{}", file.status().ToString());
    file_ = std::make_unique<core::SafetensorsFile>(*std::move(file));
  }
  const core::SafetensorsFile& file() const { return *file_; }
  std::vector<uint8_t> Bytes(const std::string& name) const {
    const auto view = file_->Tensor(name);
    SBORA_CHECK(view.ok(), "{}", view.status().ToString());
    const auto* bytes = reinterpret_cast<const uint8_t*>(view->data.data());
    return {bytes, bytes + view->data.size()};
  }
  std::vector<float> Floats(const std::string& name) const {
    const std::vector<uint8_t> bytes = Bytes(name);
    std::vector<float> values(bytes.size() / 4);
    if (!bytes.empty()) std::memcpy(values.data(), bytes.data(), bytes.size());
    return values;
  }
  std::vector<std::string> Cases() const {
    std::vector<std::string> cases;
    for (const core::TensorView& view : file_->tensors()) {
      if (view.name.ends_with(".weight")) cases.push_back(view.name.substr(0, view.name.size() - 7));
    }
    return cases;
  }

 private:
  std::unique_ptr<core::SafetensorsFile> file_;
};

void ExpectDequantized(const Golden& golden, const std::string& name, Device device, int64_t elements) {
  const std::vector<uint8_t> codes = golden.Bytes(name + ".codes");
  const std::vector<float> offset = golden.Floats(name + ".offset");
  const std::vector<float> group_scales = golden.Floats(name + ".group_scales");
  std::vector<float> restored(static_cast<size_t>(Nf4Blocks(elements)));
  ASSERT_TRUE(DequantizeScales(device, Nf4Blocks(elements), golden.Bytes(name + ".scale_codes").data(),
                               group_scales.data(), offset.data(), restored.data()).ok());
  const std::vector<float> scales[] = {golden.Floats(name + ".scales"), restored};
  const char* const kinds[] = {".dequantized.", ".dequantized_double."};
  for (const DType dtype : kNf4DTypes) {
    for (size_t kind = 0; kind < 2; ++kind) {
      const std::string tensor = name + kinds[kind] + std::string(NameOf(dtype));
      if (!golden.file().Contains(tensor)) continue;
      std::vector<uint8_t> out(static_cast<size_t>(elements) * SizeOf(dtype));
      ASSERT_TRUE(DequantizeNf4(device, {.rows = 1, .columns = elements, .stride = elements, .dtype = dtype},
                                codes.data(), scales[kind].data(), out.data()).ok());
      EXPECT_EQ(out, golden.Bytes(tensor)) << tensor;
    }
  }
}

TEST(Nf4, EqualsBitsandbytesInEveryBit) {
  for (const DType dtype : kNf4DTypes) {
    const Golden golden(std::string(NameOf(dtype)) + ".safetensors");
    ASSERT_GE(golden.Cases().size(), 17u);
    for (const std::string& name : golden.Cases()) {
      for (const Device device : kCpuDevices) {
        SCOPED_TRACE(fmt::format("{} {} {}", name, NameOf(dtype), device == Device::kCpu ? "cpu" : "reference"));
        const std::vector<uint8_t> weight = golden.Bytes(name + ".weight");
        const auto elements = static_cast<int64_t>(weight.size() / SizeOf(dtype));
        const Nf4Parts parts = Quantized(device, elements, dtype, weight);
        EXPECT_EQ(parts.codes, golden.Bytes(name + ".codes"));
        EXPECT_EQ(AsBytes(parts.scales), golden.Bytes(name + ".scales"));
        EXPECT_EQ(parts.scale_codes, golden.Bytes(name + ".scale_codes"));
        EXPECT_EQ(AsBytes(parts.group_scales), golden.Bytes(name + ".group_scales"));
        EXPECT_EQ(AsBytes(std::vector<float>{parts.offset}), golden.Bytes(name + ".offset"));
        ExpectDequantized(golden, name, device, elements);
      }
    }
  }
}

TEST(Nf4, ScalesOverTheWholeEightBitMapEqualBitsandbytes) {
  const Golden golden("scales.safetensors");
  const std::vector<float> scales = golden.Floats("scales");
  const auto blocks = static_cast<int64_t>(scales.size());
  for (const Device device : kCpuDevices) {
    std::vector<uint8_t> codes(scales.size());
    std::vector<float> group_scales(static_cast<size_t>(Nf4Groups(blocks)));
    float offset = 0;
    ASSERT_TRUE(QuantizeScales(device, blocks, scales.data(), codes.data(), group_scales.data(), &offset).ok());
    EXPECT_EQ(codes, golden.Bytes("scale_codes"));
    EXPECT_EQ(AsBytes(group_scales), golden.Bytes("group_scales"));
    EXPECT_EQ(offset, golden.Floats("offset")[0]);
    std::vector<float> restored(scales.size());
    ASSERT_TRUE(DequantizeScales(device, blocks, codes.data(), group_scales.data(), &offset, restored.data()).ok());
    EXPECT_EQ(AsBytes(restored), golden.Bytes("restored"));
  }
}

TEST(Nf4, AWeightMayBeQuantisedInPiecesOfWholeBlocks) {
  const std::vector<float> values = testing::Nf4Values(1000);
  const Nf4Parts whole = Quantized(Device::kCpu, 1000, DType::kF32, ToBytes(values, DType::kF32));
  Nf4Parts pieces(1000);
  for (int64_t begin = 0; begin < 1000; begin += 320) {
    ASSERT_TRUE(QuantizeNf4(Device::kCpu, std::min<int64_t>(320, 1000 - begin), DType::kF32, values.data() + begin,
                            pieces.codes.data() + begin / 2, pieces.scales.data() + begin / 64).ok());
  }
  EXPECT_EQ(pieces.codes, whole.codes);
  EXPECT_EQ(pieces.scales, whole.scales);
}

TEST(Nf4, BadArgumentsArePlainErrors) {
  const std::vector<float> weight(64);
  Nf4Parts parts(64);
  std::vector<float> out(64);
  EXPECT_EQ(QuantizeNf4(Device::kCpu, -1, DType::kF32, weight.data(), parts.codes.data(), parts.scales.data()).reason(), "NF4_SHAPE");
  const Status null = QuantizeNf4(Device::kCpu, 64, DType::kF32, weight.data(), nullptr, parts.scales.data());
  EXPECT_EQ(null.reason(), "NF4_POINTER");
  EXPECT_EQ(null.message(), "codes is null");
  const auto dequantize = [&](Nf4Matrix matrix) {
    return DequantizeNf4(Device::kCpu, matrix, parts.codes.data(), parts.scales.data(), out.data()).reason();
  };
  EXPECT_EQ(dequantize({.rows = 2, .columns = 32, .stride = 31}), "NF4_STRIDE");
  EXPECT_EQ(dequantize({.rows = 2, .columns = 32, .stride = int64_t{1} << 60}), "NF4_SHAPE");
  EXPECT_EQ(dequantize({.rows = 2, .columns = 32, .stride = 32, .first_element = -1}), "NF4_SHAPE");
  EXPECT_EQ(QuantizeScales(Device::kCpu, 1, parts.scales.data(), parts.scale_codes.data(), nullptr, &parts.offset).reason(), "NF4_POINTER");
  EXPECT_EQ(DequantizeScales(Device::kCpu, 1, parts.scale_codes.data(), parts.group_scales.data(), nullptr, out.data()).reason(), "NF4_POINTER");
}

#ifndef SBORA_WITH_CUDA
TEST(Nf4, CudaIsRefusedWhereItWasNotBuilt) {
  const std::vector<float> weight(64);
  Nf4Parts parts(64);
  EXPECT_EQ(QuantizeNf4(Device::kCuda, 64, DType::kF32, weight.data(), parts.codes.data(), parts.scales.data()).reason(), "CUDA_NOT_BUILT");
  std::vector<float> out(64);
  EXPECT_EQ(DequantizeNf4(Device::kCuda, {.rows = 1, .columns = 64, .stride = 64}, parts.codes.data(), parts.scales.data(), out.data()).reason(), "CUDA_NOT_BUILT");
}
#endif

}  // namespace
}  // namespace sbora::kernels
