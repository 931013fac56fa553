#include "worker/trainer/nn/packed_batch.h"

#include "common/check.h"

namespace sbora::trainer {

void PackedBatch::Append(uint64_t sample_id, const std::vector<int64_t>& token_ids, const std::vector<bool>& supervised) {
  SBORA_CHECK(supervised.empty() || supervised.size() == token_ids.size(), "{} tokens, {} supervised flags",
              token_ids.size(), supervised.size());
  if (cu_seqlens.empty()) cu_seqlens.push_back(0);
  const int64_t begin = tokens();
  for (size_t i = 0; i < token_ids.size(); ++i) {
    ids.push_back(token_ids[i]);
    positions.push_back(static_cast<int64_t>(i));
    if (i > 0 && (supervised.empty() || supervised[i])) {
      supervised_rows.push_back(begin + static_cast<int64_t>(i) - 1);
      targets.push_back(token_ids[i]);
    }
  }
  cu_seqlens.push_back(tokens());
  sample_ids.push_back(sample_id);
}

}  // namespace sbora::trainer
