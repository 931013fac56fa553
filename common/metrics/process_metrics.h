/// The standard process_* series of Prometheus client libraries, read off /proc: CPU seconds, resident and virtual bytes,
/// open and allowed file descriptors, start time.
///
///     auto families = registry.Collect();
///     for (auto& family : sbora::ProcessMetrics()) families.push_back(std::move(family));
///
/// What cannot be read is left out. Threading: any.
#pragma once

#include <prometheus/metric_family.h>

#include <vector>

namespace sbora {

std::vector<prometheus::MetricFamily> ProcessMetrics();

}  // namespace sbora
