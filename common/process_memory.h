/// How much memory this process has held.
#pragma once

#include <cstdint>

namespace sbora {

/// The largest resident set so far in bytes (VmHWM: anonymous memory and file pages); 0 where /proc does not tell.
int64_t PeakResidentBytes();

}  // namespace sbora
