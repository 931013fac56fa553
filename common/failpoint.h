/// Named moments at which a test kills the process, to prove that every one of them is survived.
///
///     FailPoint("commit.after_manifest");  // SBORA_FAILPOINT=commit.after_manifest:kill ends the process here
///
/// Off unless the environment says so: then one test of a bool. The variable is read once. Thread-safe.
///
/// | name | where |
/// |---|---|
/// | commit.before_manifest, commit.after_manifest | server: around the put of an artifact's manifest |
/// | store.before_commit, store.after_commit | server: around the COMMIT that makes a work's result a resource |
/// | agent.before_commit, agent.after_commit | worker: around CommitAttempt, which was answered OK in the second |
#pragma once

#include <string_view>

namespace sbora {

/// True when any is set: for what has to be found out only for a failpoint's sake.
bool FailPointsOn();

/// SIGKILL to this process when SBORA_FAILPOINT is "{name}:kill".
void FailPoint(std::string_view name);

}  // namespace sbora
