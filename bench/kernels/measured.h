/// Kernel benchmarks on the CPU and, where this build and machine have one, on a GPU: each registered call is measured beside
/// a copy of as many bytes, so that a machine's own bandwidth is in the same output. Single-threaded, as kernels are.
///
///     RegisterCall({.name = "nf4_dequantize/1536x576/f32", .bytes = ...}, [](Device device) -> Call {
///       auto out = std::make_shared<Buffer>(device, DType::kF32, 1536 * 576);
///       return [=] { return DequantizeNf4(device, ..., out->get()); };
///     });
///
/// gives cpu/nf4_dequantize/1536x576/f32, the same with /copy, and both as cuda/. A call that fails ends its benchmark with
/// the error. Programs link benchmark's own main.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/status.h"
#include "kernels/types.h"

namespace sbora::bench {

/// Seeded values in [-1, 1) in the memory of `device`. Ends the program when there is none.
class Buffer {
 public:
  Buffer(kernels::Device device, kernels::DType dtype, int64_t elements);
  /// The given bytes.
  Buffer(kernels::Device device, const void* bytes, int64_t size);
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer();
  void* get() const { return data_; }

 private:
  kernels::Device device_;
  void* data_ = nullptr;
};

/// Distinct indices, spread over [0, columns). REQUIRED: count <= columns.
std::vector<int32_t> SpreadIndices(int64_t count, int64_t columns);

struct Measured {
  std::string name;
  int64_t bytes = 0;  ///< read and written, each operand once
  std::vector<kernels::Device> devices = {kernels::Device::kCpu, kernels::Device::kCuda};
};
using Call = std::function<Status()>;
using Prepare = std::function<Call(kernels::Device)>;  ///< called once for each measurement

/// Returns a value so that it can be called for a namespace's constant.
int RegisterCall(const Measured& measured, const Prepare& prepare);

}  // namespace sbora::bench
