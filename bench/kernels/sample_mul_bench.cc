// sampleMul in its four uses, at the shapes of SmolLM2-135M and LLaMA-3-8B. Bytes are those of the r columns alone: a gather
// that touches whole cache lines or sectors for single elements shows as a copy that is faster.
#include <fmt/format.h>

#include "bench/kernels/measured.h"
#include "kernels/sample_mul/sample_mul.h"

namespace sbora::bench {
namespace {

using kernels::Device;
using kernels::DType;

struct Case {
  const char* use;
  bool gathers;  ///< else it scatters and adds
  int64_t rows, columns, rank;
  DType dtype;
  std::vector<Device> devices;
};

int Register(const Case& one) {
  const auto size = static_cast<int64_t>(kernels::SizeOf(one.dtype));
  // A gather reads and writes each element; a sum reads two and writes one.
  const int64_t bytes = (one.gathers ? 2 : 3) * one.rows * one.rank * size;
  const auto name = fmt::format("sample_mul/{}/{}x{}/r{}/{}", one.use, one.rows, one.columns, one.rank, NameOf(one.dtype));
  return RegisterCall({.name = name, .bytes = bytes, .devices = one.devices}, [one](Device device) -> Call {
    const kernels::SampleMulShape shape{.rows = one.rows, .wide_columns = one.columns, .wide_stride = one.columns,
                                        .indices = one.rank, .narrow_stride = one.rank, .dtype = one.dtype};
    auto wide = std::make_shared<Buffer>(device, one.dtype, one.rows * one.columns);
    auto narrow = std::make_shared<Buffer>(device, one.dtype, one.rows * one.rank);
    const std::vector<int32_t> indices = SpreadIndices(one.rank, one.columns);
    auto index = std::make_shared<Buffer>(device, indices.data(), static_cast<int64_t>(indices.size() * sizeof(int32_t)));
    return [=] {
      const auto* idx = static_cast<const int32_t*>(index->get());
      // A scale of zero: the wide matrix stays finite however often the benchmark adds to it.
      return one.gathers ? kernels::GatherColumns(device, shape, wide->get(), idx, narrow->get())
                         : kernels::ScatterAddColumns(device, shape, wide->get(), idx, narrow->get(), 0.0f);
    };
  });
}

int RegisterAll() {
  const std::vector<Device> cpu = {Device::kCpu};
  const std::vector<Device> both = {Device::kCpu, Device::kCuda};
  const std::vector<Device> cuda = {Device::kCuda};
  // FA works on a layer's inputs, FB on its outputs: here those of the up projection.
  for (const auto& [rows, in, out, rank, dtype, devices] :
       std::initializer_list<std::tuple<int64_t, int64_t, int64_t, int64_t, DType, std::vector<Device>>>{
           {592, 576, 1536, 32, DType::kF32, cpu},
           {512, 4096, 14336, 64, DType::kF32, both},
           {16384, 4096, 14336, 64, DType::kBF16, cuda}}) {
    Register({"fa_forward", true, rows, in, rank, dtype, devices});
    Register({"fa_input_gradient", false, rows, in, rank, dtype, devices});
    Register({"fb_forward", false, rows, out, rank, dtype, devices});
    Register({"fb_input_gradient", true, rows, out, rank, dtype, devices});
  }
  return 0;
}
[[maybe_unused]] const int kRegistered = RegisterAll();

}  // namespace
}  // namespace sbora::bench
