#include "common/failpoint.h"

#include <signal.h>

#include <cstdlib>
#include <string>

namespace sbora {
namespace {

const std::string& Armed() {
  static const std::string armed = [] {
    const char* text = std::getenv("SBORA_FAILPOINT");
    return std::string(text == nullptr ? "" : text);
  }();
  return armed;
}

}  // namespace

bool FailPointsOn() {
  static const bool on = !Armed().empty();
  return on;
}

void FailPoint(std::string_view name) {
  if (FailPointsOn() && Armed() == std::string(name) + ":kill") ::raise(SIGKILL);
}

}  // namespace sbora
