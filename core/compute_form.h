/// How the trainer computes an adapted linear layer: one rule, from what decides whether a form is right for the job.
///
/// | form    | an adapted layer is                                       | beside the frozen layer's two products        |
/// | plain   | W0 x, and the adapter's own products added to it          | the adapter's products and its own gradient   |
/// | merged  | W x with W = W0 + s F in its region (SBoRA's r columns or | its own gradient; the region is written anew  |
/// |         | rows), written after every optimizer step                 | once per step from a saved slice of W0        |
/// Plain FA adds its product in the one call that multiplies (addmm).
/// Merged is chosen wherever it is right, since it does the least; docs/performance.md has what was measured, and how surely:
/// | asked                       | why another answer would be wrong                                                    |
/// | method SBoRA-FA or FB       | LoRA changes all of W, which would cost a full write per step; DoRA rescales it        |
/// | dropout 0                   | W x multiplies the whole input, dropout masks what the adapter alone sees             |
/// | a base that is not NF4      | codes hold no float columns                                                          |
/// | float32 weights             | bfloat16 would round s F to W0's last place in every step                            |
/// A trainer process owns its base (private memory, one job), so nobody else sees the changed weights.
/// The answer depends on spec and compute dtype alone: every attempt of a job on one kind of device computes alike.
#pragma once

#include <string_view>

#include "common/status.h"
#include "core/adapter.h"

namespace sbora::core {

enum class ComputeForm { kPlain, kMerged };

/// "plain", "merged".
std::string_view ComputeFormName(ComputeForm form);

struct ComputeFormFacts {
  AdapterMethod method = AdapterMethod::kSboraFa;
  double dropout = 0;
  bool quantized_base = false;
  bool float32 = true;  ///< weights and activations
};

/// Errors: INVALID_ARGUMENT COMPUTE_FORM_WRONG saying which fact makes merged another function than the job's.
Status CheckMerged(const ComputeFormFacts& facts);
/// Merged where CheckMerged has nothing against it, else plain.
ComputeForm ChooseComputeForm(const ComputeFormFacts& facts);

}  // namespace sbora::core
