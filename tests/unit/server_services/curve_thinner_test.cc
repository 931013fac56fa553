#include "server/services/curve_thinner.h"

#include <gtest/gtest.h>

namespace sbora::server {
namespace {

v1::MetricPoint Point(int64_t step, bool validated = false) {
  v1::MetricPoint point;
  point.set_step(step);
  point.set_loss(1.0 / static_cast<double>(step));
  if (validated) point.set_validation_loss(2.0);
  return point;
}

std::vector<v1::MetricPoint> Thinned(int64_t steps, size_t limit, int64_t validate_every) {
  CurveThinner curve(limit);
  for (int64_t step = 1; step <= steps; ++step) curve.Add(Point(step, validate_every > 0 && step % validate_every == 0));
  return std::move(curve).Take();
}

TEST(CurveThinner, AShortCurveStaysWhole) {
  for (const int64_t steps : {0, 1, 2, 7}) {
    const auto points = Thinned(steps, 8, 0);
    ASSERT_EQ(points.size(), static_cast<size_t>(steps));
    for (int64_t i = 0; i < steps; ++i) EXPECT_EQ(points[static_cast<size_t>(i)].step(), i + 1);
  }
}

TEST(CurveThinner, ALongCurveKeepsItsEndsItsOrderAndWholePoints) {
  for (int64_t steps = 8; steps < 200; ++steps) {
    const auto points = Thinned(steps, 8, 0);
    EXPECT_LE(points.size(), 9u);
    EXPECT_GE(points.size(), 4u);
    EXPECT_EQ(points.front().step(), 1);
    EXPECT_EQ(points.back().step(), steps);
    int64_t last = 0;
    for (const auto& point : points) {
      EXPECT_GT(point.step(), last);
      last = point.step();
      EXPECT_DOUBLE_EQ(point.loss(), 1.0 / static_cast<double>(point.step())) << "a point lost its content";
    }
  }
}

TEST(CurveThinner, ValidationsStayWhereverTheyFall) {
  const auto points = Thinned(1000, 16, 50);
  int validated = 0;
  for (const auto& point : points) validated += point.has_validation_loss() ? 1 : 0;
  EXPECT_EQ(validated, 20);
  EXPECT_LE(points.size(), 16u + 20u + 1u);
}

}  // namespace
}  // namespace sbora::server
