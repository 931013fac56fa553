#include "kernels/swiglu/swiglu.h"

#include <fmt/format.h>

#include "common/status_macros.h"
#include "kernels/dispatch.h"
#include "kernels/swiglu/swiglu_internal.h"

namespace sbora::kernels {
namespace {

using internal::Offset;

bool IsNoOp(int64_t rows, int64_t columns) { return rows == 0 || columns == 0; }

/// The one validation.
Status Check(int64_t rows, int64_t columns, std::initializer_list<int64_t> strides,
             std::initializer_list<internal::NamedPointer> pointers) {
  if (!internal::ValidExtent(rows, columns)) {
    return InvalidArgument("SWIGLU_SHAPE", fmt::format("rows={}, columns={}: negative or too large", rows, columns));
  }
  if (IsNoOp(rows, columns)) return OkStatus();
  for (const int64_t stride : strides) {
    if (stride < columns || !internal::ValidExtent(rows, stride)) {
      return InvalidArgument("SWIGLU_STRIDE", fmt::format("a stride of {} for {} rows of {} columns: too small or too large",
                                                          stride, rows, columns));
    }
  }
  if (const char* bad = internal::BadPointer(pointers)) {
    return InvalidArgument("SWIGLU_POINTER", fmt::format("{} is null or not aligned to its elements", bad));
  }
  return OkStatus();
}

}  // namespace

Status SwiGlu(Device device, const SwiGluArguments& a, Stream stream) {
  const size_t element = SizeOf(a.dtype);
  SBORA_RETURN_IF_ERROR(Check(a.rows, a.columns, {a.gate_stride, a.up_stride, a.y_stride},
                              {{"gate", a.gate_TF, element}, {"up", a.up_TF, element}, {"y", a.y_TF, element}}));
  if (IsNoOp(a.rows, a.columns)) return OkStatus();
  return internal::RunBackend<SwiGluArguments>(
      {"SwiGlu", internal::SwiGluReference, internal::SwiGluCpu, SBORA_CUDA_LAUNCHER(LaunchSwiGlu)}, device, a, stream);
}

Status SwiGluBackward(Device device, const SwiGluBackwardArguments& a, Stream stream) {
  const size_t element = SizeOf(a.dtype);
  SBORA_RETURN_IF_ERROR(Check(a.rows, a.columns,
                              {a.gate_stride, a.up_stride, a.grad_stride, a.dgate_stride, a.dup_stride},
                              {{"gate", a.gate_TF, element},
                               {"up", a.up_TF, element},
                               {"grad", a.grad_TF, element},
                               {"dgate", a.dgate_TF, element},
                               {"dup", a.dup_TF, element}}));
  if (IsNoOp(a.rows, a.columns)) return OkStatus();
  return internal::RunBackend<SwiGluBackwardArguments>({"SwiGluBackward", internal::SwiGluBackwardReference,
                                                        internal::SwiGluBackwardCpu,
                                                        SBORA_CUDA_LAUNCHER(LaunchSwiGluBackward)},
                                                       device, a, stream);
}

SwiGluArguments Part(const SwiGluArguments& arguments, int64_t begin, int64_t end) {
  SwiGluArguments part = arguments;
  const size_t element = SizeOf(part.dtype);
  part.rows = end - begin;
  part.gate_TF = Offset(part.gate_TF, begin * part.gate_stride, element);
  part.up_TF = Offset(part.up_TF, begin * part.up_stride, element);
  part.y_TF = Offset(part.y_TF, begin * part.y_stride, element);
  return part;
}

SwiGluBackwardArguments Part(const SwiGluBackwardArguments& arguments, int64_t begin, int64_t end) {
  SwiGluBackwardArguments part = arguments;
  const size_t element = SizeOf(part.dtype);
  part.rows = end - begin;
  part.gate_TF = Offset(part.gate_TF, begin * part.gate_stride, element);
  part.up_TF = Offset(part.up_TF, begin * part.up_stride, element);
  part.grad_TF = Offset(part.grad_TF, begin * part.grad_stride, element);
  part.dgate_TF = Offset(part.dgate_TF, begin * part.dgate_stride, element);
  part.dup_TF = Offset(part.dup_TF, begin * part.dup_stride, element);
  return part;
}

}  // namespace sbora::kernels
