#include "worker/agent/token_cache_key.h"

#include <fmt/format.h>

#include "common/sha256.h"
#include "core/proto/stable_bytes.h"
#include "data/token_cache.h"

namespace sbora::agent {

std::optional<std::string> TokenCacheKey(const worker::v1::Task& task) {
  if (!task.has_train()) return std::nullopt;
  const auto& train = task.train();
  std::string text = fmt::format("token cache {}.{}\n", kTokenCacheVersion, data::kTokenCacheVersion);
  for (const auto& group : task.inputs()) {
    if (group.name() == "checkpoint" || group.name() == "checkpoint_before") continue;
    for (const auto& file : group.files()) {
      if (group.name() == "model" && file.path().ends_with(".safetensors")) continue;
      text += fmt::format("{}/{} {}\n", group.name(), file.path(), file.sha256());
    }
  }
  text += fmt::format("seed {}\nformats {} {}\n", train.spec().training().seed(),
                      static_cast<int>(train.dataset_format()), static_cast<int>(train.validation_format()));
  for (const int format : train.mixture_formats()) text += fmt::format("mixed format {}\n", format);
  text += core::StableBytes(train.spec().data());  // other bytes of another version only cost a cache
  return Sha256Hex(text);
}

}  // namespace sbora::agent
