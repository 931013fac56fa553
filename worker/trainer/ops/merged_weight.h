/// A dense weight that holds W0 + s F in place of W0, F being an SBoRA factor: the merged form of an adapter. One product
/// forward and one backward are then all that the adapter costs beside its own gradient.
///
/// | method   | F        | region                        |
/// | SBoRA-FA | B [O, R] | columns idx: O x R elements   |
/// | SBoRA-FB | A [R, I] | rows idx: R x I elements      |
/// The region is written anew from a saved slice of W0, never added to, when the adapter's parameters have changed since
/// the last write (TrainedParameters' version): at the first use after an optimizer step or a resume.
/// Ownership: borrows the adapter, shares W0's storage, owns the slice. Threading: one thread at a time.
/// Errors: c10::Error when memory runs out.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "worker/trainer/nn/adapter_set.h"

namespace sbora::trainer::ops {

class MergedWeight {
 public:
  /// Both must outlive it, or its End. REQUIRED: an SBoRA method without dropout (the merged product multiplies the whole
  /// input), w_OI [O, I] contiguous float32 that nobody else reads.
  MergedWeight(at::Tensor w_OI, const AdapterSet& adapter, const AdapterModule& module);
  MergedWeight(const MergedWeight&) = delete;
  MergedWeight& operator=(const MergedWeight&) = delete;

  bool Holds(const AdapterModule& module) const { return module_ == &module; }
  /// [O, I] W0 + s F with today's F: the weight's own tensor.
  const at::Tensor& Sum();
  /// [O, I] W0: a copy, bit for bit.
  at::Tensor Base() const;
  /// Puts W0 back, bit for bit. Sum must not be called again.
  void End();
  /// Of the saved slice.
  int64_t Bytes() const { return static_cast<int64_t>(saved_.nbytes()); }

 private:
  void Write();
  int64_t dim() const { return columns_ ? 1 : 0; }

  at::Tensor w_OI_;
  const AdapterSet* adapter_;
  const AdapterModule* module_;  // null after End
  bool columns_;                 // FA
  at::Tensor index_R_;           // i64
  at::Tensor saved_;             // W0's region, [O, R] or [R, I]
  int64_t version_ = -1;         // of the parameters that the region holds; -1: it holds W0
};

}  // namespace sbora::trainer::ops
