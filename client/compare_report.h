/// The figures of a comparison, out of its runs. Pure functions.
#pragma once

#include <vector>

#include "sbora/v1/comparison.pb.h"

namespace sbora::client {

/// Count, mean, standard deviation of the sample, least and greatest. No values: count 0 and the rest 0.
v1::Spread SpreadOf(const std::vector<double>& values);

/// Fills in what follows from the runs of each method: parameter_ratio, the spreads, the differences from the first method
/// seed by seed (over seeds at which both succeeded), and `failure` of methods with runs that did not succeed (a refusal
/// that is already there stays). A figure that a run does not have (no validation data, a peak of 0 bytes) is left out of its
/// spread, which may then stay unset.
void Summarize(v1::MethodComparison& comparison);

/// Whether every method was taken and every run and evaluation succeeded.
bool AllSucceeded(const v1::MethodComparison& comparison);

}  // namespace sbora::client
