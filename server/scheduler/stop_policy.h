/// How leases are stopped and end, and what the end of one means for the other parts of its gang. Pure functions.
#pragma once

#include "server/scheduler/types.h"

namespace sbora::server {

/// How an attempt ended, as one of its leases told it.
struct AttemptEnd {
  core::TerminationReason reason = core::TerminationReason::kUnspecified;
  Failure failure;
};

/// A stronger reason replaces a weaker one. From kGangEnded on they kill.
int Strength(StopReason reason);

/// How a lease ends that was stopped like this and tells no more of it.
AttemptEnd EndOf(StopReason stop);

/// What the other parts are told when one has ended for `reason`: a pause or a drain they take part in, anything else
/// kills them.
StopReason StopAfterPart(core::TerminationReason reason);

/// True when `end` tells more of why the gang ended than `known`, which came before it: a part's own failure does before
/// RANK_LOST, what its ranks saw of the others, and that before GANG_ENDED, what its agent was told.
bool TellsMore(const AttemptEnd& end, const AttemptEnd& known);

}  // namespace sbora::server
