#include "server/services/curve_thinner.h"

#include <algorithm>
#include <utility>

namespace sbora::server {

void CurveThinner::Add(v1::MetricPoint point) {
  const size_t index = seen_++;
  newest_.reset();
  if (!OnStride(index) && !point.has_validation_loss()) {
    newest_ = std::move(point);
    return;
  }
  kept_.push_back({index, std::move(point)});
  if (OnStride(index) && ++on_stride_ >= limit_) Coarsen();
}

void CurveThinner::Coarsen() {
  stride_ *= 2;
  const Kept last = kept_.back();
  std::erase_if(kept_, [this](const Kept& kept) { return !OnStride(kept.index) && !kept.point.has_validation_loss(); });
  on_stride_ = static_cast<size_t>(std::count_if(kept_.begin(), kept_.end(), [this](const Kept& kept) { return OnStride(kept.index); }));
  if (kept_.back().index != last.index) newest_ = last.point;
}

std::vector<v1::MetricPoint> CurveThinner::Take() && {
  std::vector<v1::MetricPoint> points;
  points.reserve(kept_.size() + 1);
  for (Kept& kept : kept_) points.push_back(std::move(kept.point));
  if (newest_) points.push_back(*std::move(newest_));
  return points;
}

}  // namespace sbora::server
