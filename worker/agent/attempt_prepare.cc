// What an attempt makes before its ranks start, in a trainer of its own, and keeps in the cache for the next attempt: the
// base in NF4 and the token caches.
#include <fmt/format.h>

#include <utility>

#include "worker/agent/attempt.h"
#include "worker/agent/nf4_base_key.h"
#include "worker/agent/token_cache_key.h"

namespace sbora::agent {
namespace fs = std::filesystem;

std::optional<Verdict> Attempt::PrepareNf4Base() {
  const auto need = Nf4BaseNeedOf(lease_.task(), folder_ / "inputs");
  if (!need.ok()) return RecheckInputs(OfFailure(need.status()));
  if (!*need) return std::nullopt;
  const fs::path folder = folder_ / "nf4";
  const auto make_gang = [&]() -> StatusOr<GangOptions> {
    SetPhase("quantising the base");
    GangOptions options = MakeGang(true);
    auto& assignment = options.ranks.front().assignment;
    *assignment.mutable_task() = (*need)->quantize;
    assignment.set_output_directory(folder.string());
    assignment.set_prepare_only(false);
    return options;
  };
  return PrepareFolder((*need)->key, folder, make_gang,
                       [this](const fs::path& kept) { directories_["nf4"] = kept.string(); });
}

std::optional<Verdict> Attempt::PrepareTokenCaches() {
  const std::optional<std::string> key = TokenCacheKey(lease_.task());
  if (!key) return std::nullopt;
  const fs::path folder = folder_ / "prepared";
  const auto make_gang = [&]() -> StatusOr<GangOptions> {
    SetPhase("tokenising the data");
    std::error_code error;
    for (const char* name : {"token_cache", "validation_cache"}) {
      fs::create_directories(folder / name, error);
      if (error) return FromErrno(error.value(), fmt::format("making {}", folder.string()));
      directories_[name] = (folder / name).string();
    }
    return MakeGang(true);
  };
  return PrepareFolder(*key, folder, make_gang, [this](const fs::path& kept) { UseTokenCaches(kept); });
}

std::optional<Verdict> Attempt::PrepareFolder(const std::string& key, const fs::path& folder,
                                              const std::function<StatusOr<GangOptions>()>& make_gang,
                                              const std::function<void(const fs::path&)>& use) {
  if (auto found = context_.cache.FindFolder(key); found) {
    use(found->path());
    made_.push_back(*std::move(found));
    return std::nullopt;
  }
  auto gang = make_gang();
  if (!gang.ok()) return OfFailure(gang.status());
  GangObserver observer;
  observer.on_event = [this](v1::FineTuningEvent event) { reports_.Add(std::move(event)); };
  observer.on_progress = [this](const v1::JobProgress& progress, int64_t) {
    if (!progress.phase().empty()) SetPhase(progress.phase());
  };
  auto outcome = RunOneGang(*std::move(gang), observer);
  if (!outcome.ok()) return OfFailure(outcome.status());
  const bool good = outcome->cause == KillCause::kNone && !outcome->error && outcome->exits.size() == 1 &&
                    !outcome->exits[0].exit.signaled && outcome->exits[0].exit.value == 0;
  if (!good) return RecheckInputs(JudgeGang(*outcome));
  auto pin = context_.cache.AddFolder(key, folder);
  if (!pin.ok()) return OfFailure(pin.status());
  use(pin->path());
  made_.push_back(*std::move(pin));
  return std::nullopt;
}

void Attempt::UseTokenCaches(const fs::path& folder) {
  for (const char* name : {"token_cache", "validation_cache"}) {
    std::error_code error;
    directories_.erase(name);
    if (!fs::is_empty(folder / name, error) && !error) directories_[name] = (folder / name).string();
  }
}

}  // namespace sbora::agent
