/// The model's input: the samples of one micro-batch laid end to end, without padding. Plain data.
#pragma once

#include <cstdint>
#include <vector>

namespace sbora::trainer {

/// N samples, T tokens in all. Sample n occupies the rows [cu_seqlens[n], cu_seqlens[n + 1]); attention never crosses
/// that border, so a sample's result does not depend on its neighbours.
struct PackedBatch {
  std::vector<int64_t> ids;         ///< [T] token ids in [0, vocab_size)
  std::vector<int64_t> positions;   ///< [T] 0, 1, 2, ... within each sample
  std::vector<int64_t> cu_seqlens;  ///< [N + 1] starts at 0, ends at T, non-decreasing
  std::vector<uint64_t> sample_ids; ///< [N] names a sample across epochs and world sizes; keys the dropout masks
  std::vector<int64_t> supervised_rows;  ///< [S] rows whose next-token logits count; ascending
  std::vector<int64_t> targets;          ///< [S] the token that follows each of them

  int64_t tokens() const { return static_cast<int64_t>(ids.size()); }
  int64_t samples() const { return cu_seqlens.empty() ? 0 : static_cast<int64_t>(cu_seqlens.size()) - 1; }

  /// Appends one sample; `supervised[i]` says that token i is a target (never token 0: nothing precedes it).
  /// An empty `supervised` means all of them. REQUIRED: supervised is empty or as long as sample_ids_T.
  void Append(uint64_t sample_id, const std::vector<int64_t>& token_ids, const std::vector<bool>& supervised = {});
};

}  // namespace sbora::trainer
