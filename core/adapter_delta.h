/// What one adapter adds to one linear layer's weight, row by row: the arithmetic of every merge and patch.
///
/// FA: delta[:, idx] = s B; FB: delta[idx, :] = s A; LoRA: delta = s B A;
/// DoRA: delta = m / ||W0 + s B A|| (W0 + s B A) - W0, norm per row.
/// All in float32; LoRA's products are summed over r in order, DoRA's squares in double. W0 is [O, I].
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "common/status.h"
#include "core/adapter.h"
#include "core/dtype.h"
#include "core/safetensors.h"

namespace sbora::core {

/// Thread-safe after Load; holds the module's factors as float32.
class AdapterDelta {
 public:
  /// `weight` (lambda) scales the delta; 1 adds it as it was trained. Errors: those of AdapterFolder's readers.
  static StatusOr<AdapterDelta> Load(const AdapterFolder& adapter, int64_t layer, LinearModule module, double weight);

  /// False when no weight of the row changes.
  bool TouchesRow(size_t row) const;
  /// sum_I += weight * delta, at the touched places only. `base_I` is the row of W0. `first`: nothing was added to
  /// sum_I yet, so that DoRA at weight 1 gives its merged row itself, not W0 plus a rounded difference.
  void AddRow(size_t row, std::span<const float> base_I, bool first, std::span<float> sum_I) const;

 private:
  AdapterDelta() = default;
  void AddDense(size_t row, std::span<const float> base_I, bool first, std::span<float> sum_I) const;

  AdapterMethod method_ = AdapterMethod::kSboraFa;
  float weight_ = 1.0f;
  float scale_ = 1.0f;                            // s; times the weight unless DoRA
  std::vector<int32_t> idx_R_;                    // SBoRA
  std::vector<float> factor_;                     // FA: B [O, R]; FB: A [R, I]
  std::vector<float> a_RI_, b_OR_, magnitude_O_;  // LoRA, DoRA
  std::vector<int64_t> factor_row_O_;             // FB: row of A for a row of W, -1 for none
};

/// W0 plus the deltas in the order given, written into `out` (a copy of `base`'s bytes): float32 sums, rounded once to
/// W's dtype. A weight whose sum is bit-equal to the base keeps its bytes. Where no weight is touched by two deltas,
/// the order does not matter. Errors: INVALID_ARGUMENT DTYPE_UNSUPPORTED for a base that is no F32, F16 or BF16.
Status AddDeltas(std::span<const AdapterDelta> deltas, const TensorView& base, std::span<std::byte> out);

}  // namespace sbora::core
