#include "kernels/rope/rope.h"

#include <fmt/format.h>

#include "common/status_macros.h"
#include "kernels/dispatch.h"
#include "kernels/rope/rope_internal.h"

namespace sbora::kernels {
namespace {

bool IsNoOp(const RopeArguments& a) { return a.rows == 0 || a.heads == 0 || a.head_dim == 0; }

/// The one validation.
Status Check(const RopeArguments& a) {
  if (a.head_dim < 0 || a.head_dim % 2 != 0 || !internal::ValidExtent(a.heads, a.head_dim) ||
      !internal::ValidExtent(a.rows, a.heads * a.head_dim)) {
    return InvalidArgument("ROPE_SHAPE", fmt::format("rows={}, heads={}, head_dim={}: negative, odd or too large", a.rows,
                                                     a.heads, a.head_dim));
  }
  if (IsNoOp(a)) return OkStatus();
  if (a.x_stride < a.heads * a.head_dim || !internal::ValidExtent(a.rows, a.x_stride)) {
    return InvalidArgument("ROPE_STRIDE", fmt::format("x_stride={} must be at least {} and not too large", a.x_stride,
                                                      a.heads * a.head_dim));
  }
  const size_t element = SizeOf(a.dtype);
  if (const char* bad = internal::BadPointer({{"x", a.x_TD, element},
                                              {"cos", a.cos_TD2, sizeof(float)},
                                              {"sin", a.sin_TD2, sizeof(float)},
                                              {"y", a.y_TD, element}})) {
    return InvalidArgument("ROPE_POINTER", fmt::format("{} is null or not aligned to its elements", bad));
  }
  return OkStatus();
}

}  // namespace

Status Rope(Device device, const RopeArguments& a, Stream stream) {
  SBORA_RETURN_IF_ERROR(Check(a));
  if (IsNoOp(a)) return OkStatus();
  return internal::RunBackend<RopeArguments>(
      {"Rope", internal::RopeReference, internal::RopeCpu, SBORA_CUDA_LAUNCHER(LaunchRope)}, device, a, stream);
}

RopeArguments Part(const RopeArguments& arguments, int64_t begin, int64_t end) {
  RopeArguments part = arguments;
  const size_t element = SizeOf(part.dtype);
  part.rows = end - begin;
  part.x_TD = internal::Offset(part.x_TD, begin * part.x_stride, element);
  part.y_TD = internal::Offset(part.y_TD, begin * part.heads * part.head_dim, element);
  part.cos_TD2 = internal::Offset(part.cos_TD2, begin * (part.head_dim / 2), sizeof(float));
  part.sin_TD2 = internal::Offset(part.sin_TD2, begin * (part.head_dim / 2), sizeof(float));
  return part;
}

}  // namespace sbora::kernels
