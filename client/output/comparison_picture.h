/// A comparison as one picture without outside files: a panel for each figure, a row in it for each method.
///
/// Losses, evaluations and perplexities lie on an axis of their own range, each seed a dot and the mean a stroke; counts,
/// speeds and sizes are bars from zero. Pure functions.
#pragma once

#include <string>

#include "sbora/v1/comparison.pb.h"

namespace sbora::client {

/// An SVG document.
std::string RenderSvg(const v1::MethodComparison& comparison);

/// An HTML document: the SVG, the table under it, failures and notes.
std::string RenderHtml(const v1::MethodComparison& comparison);

}  // namespace sbora::client
