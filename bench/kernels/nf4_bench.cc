// NF4 to floats, at the largest matrices of SmolLM2-135M and LLaMA-3-8B.
#include <fmt/format.h>

#include "bench/kernels/measured.h"
#include "kernels/nf4/nf4.h"

namespace sbora::bench {
namespace {

using kernels::Device;
using kernels::DType;

int Register(int64_t rows, int64_t columns, DType dtype, const std::vector<Device>& devices) {
  const int64_t elements = rows * columns;
  const int64_t codes = kernels::Nf4CodeBytes(elements);
  const int64_t blocks = kernels::Nf4Blocks(elements);
  const int64_t bytes = codes + blocks * static_cast<int64_t>(sizeof(float)) +
                        elements * static_cast<int64_t>(kernels::SizeOf(dtype));
  const auto name = fmt::format("nf4_dequantize/{}x{}/{}", rows, columns, NameOf(dtype));
  return RegisterCall({.name = name, .bytes = bytes, .devices = devices}, [=](Device device) -> Call {
    auto code = std::make_shared<Buffer>(device, DType::kBF16, (codes + 1) / 2);  // any bits are codes
    auto scale = std::make_shared<Buffer>(device, DType::kF32, blocks);
    auto out = std::make_shared<Buffer>(device, dtype, elements);
    const kernels::Nf4Matrix matrix{.rows = rows, .columns = columns, .stride = columns, .first_element = 0, .dtype = dtype};
    return [=] {
      return kernels::DequantizeNf4(device, matrix, static_cast<const uint8_t*>(code->get()),
                                    static_cast<const float*>(scale->get()), out->get());
    };
  });
}

[[maybe_unused]] const int kRegistered = Register(1536, 576, DType::kF32, {Device::kCpu}) +
                                         Register(14336, 4096, DType::kBF16, {Device::kCpu, Device::kCuda}) +
                                         Register(14336, 4096, DType::kF32, {Device::kCuda});

}  // namespace
}  // namespace sbora::bench
