#include <algorithm>
#include <limits>
#include <numeric>
#include <vector>

#include <fmt/format.h>

#include "kernels/sample_mul/sample_mul_internal.h"

namespace sbora::kernels {

Status CheckIndex(std::span<const int32_t> idx_R, int64_t columns) {
  for (size_t i = 0; i < idx_R.size(); ++i) {
    if (idx_R[i] < 0 || idx_R[i] >= columns) {
      return InvalidArgument("INDEX_OUT_OF_RANGE",
                             fmt::format("index[{}]={} is outside [0, {})", i, idx_R[i], columns));
    }
  }
  std::vector<size_t> order(idx_R.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return idx_R[a] < idx_R[b]; });
  for (size_t i = 1; i < order.size(); ++i) {
    if (idx_R[order[i]] == idx_R[order[i - 1]]) {
      return InvalidArgument("INDEX_REPEATED", fmt::format("index[{}] and index[{}] are both {}; indices must be distinct",
                                                           order[i - 1], order[i], idx_R[order[i]]));
    }
  }
  return OkStatus();
}

namespace internal {

Status CheckShape(const SampleMulShape& shape, const void* wide_TC, const int32_t* idx_R, const void* narrow_TR) {
  if (shape.rows < 0 || shape.wide_columns < 0 || shape.indices < 0) {
    return InvalidArgument("SAMPLE_MUL_SHAPE", fmt::format("negative extent: rows={}, wide_columns={}, indices={}",
                                                           shape.rows, shape.wide_columns, shape.indices));
  }
  if (shape.wide_columns > std::numeric_limits<int32_t>::max()) {
    return InvalidArgument("SAMPLE_MUL_SHAPE", fmt::format("wide_columns={} exceeds the limit of int32 indices, {}",
                                                           shape.wide_columns, std::numeric_limits<int32_t>::max()));
  }
  if (shape.indices > shape.wide_columns) {
    return InvalidArgument("SAMPLE_MUL_SHAPE", fmt::format("indices={} exceeds wide_columns={}: they cannot be distinct",
                                                           shape.indices, shape.wide_columns));
  }
  if (shape.rows == 0 || shape.indices == 0) return OkStatus();
  if (shape.wide_stride < shape.wide_columns || shape.narrow_stride < shape.indices) {
    return InvalidArgument("SAMPLE_MUL_STRIDE",
                           fmt::format("wide_stride={} must be at least {}, narrow_stride={} at least {}",
                                       shape.wide_stride, shape.wide_columns, shape.narrow_stride, shape.indices));
  }
  constexpr int64_t kMaxElements = std::numeric_limits<int64_t>::max() / 8;
  if (shape.wide_stride > kMaxElements / shape.rows || shape.narrow_stride > kMaxElements / shape.rows) {
    return InvalidArgument("SAMPLE_MUL_SHAPE", fmt::format("rows={} times a stride overflows", shape.rows));
  }
  if (wide_TC == nullptr || idx_R == nullptr || narrow_TR == nullptr) {
    return InvalidArgument("SAMPLE_MUL_POINTER",
                           fmt::format("null pointer: wide={}, index={}, narrow={}", wide_TC == nullptr ? "null" : "set",
                                       idx_R == nullptr ? "null" : "set", narrow_TR == nullptr ? "null" : "set"));
  }
  return OkStatus();
}

}  // namespace internal
}  // namespace sbora::kernels
