/// Keeps a curve small enough to send and draw, however many points it has.
///
///     CurveThinner curve(10'000);
///     for (...) curve.Add(point);  // in the order of steps
///     for (v1::MetricPoint& point : std::move(curve).Take()) ...
///
/// Every n-th point stays, with n doubling whenever `limit` of them are there. The newest point stays too, and so does
/// each with a validation loss: those are few, and mean more than their neighbours. Not thread-safe.
#pragma once

#include <cstddef>
#include <optional>
#include <vector>

#include "sbora/v1/job.pb.h"

namespace sbora::server {

class CurveThinner {
 public:
  /// `limit` at least 2.
  explicit CurveThinner(size_t limit) : limit_(limit) {}

  void Add(v1::MetricPoint point);
  /// In the order they came.
  std::vector<v1::MetricPoint> Take() &&;

 private:
  struct Kept {
    size_t index = 0;  // among all that came
    v1::MetricPoint point;
  };
  bool OnStride(size_t index) const { return index % stride_ == 0; }
  void Coarsen();

  const size_t limit_;
  size_t stride_ = 1;
  size_t seen_ = 0;
  size_t on_stride_ = 0;  // of kept_
  std::vector<Kept> kept_;
  std::optional<v1::MetricPoint> newest_;  // when it is not in kept_
};

}  // namespace sbora::server
