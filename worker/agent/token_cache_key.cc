#include "worker/agent/token_cache_key.h"

#include <fmt/format.h>
#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>

#include "common/sha256.h"
#include "data/token_cache.h"

namespace sbora::agent {
namespace {

/// The same bytes for the same message in one program version; a difference only costs a cache.
std::string Bytes(const google::protobuf::Message& message) {
  std::string bytes;
  {
    google::protobuf::io::StringOutputStream stream(&bytes);
    google::protobuf::io::CodedOutputStream out(&stream);
    out.SetSerializationDeterministic(true);
    message.SerializeToCodedStream(&out);
  }
  return bytes;
}

}  // namespace

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
  text += Bytes(train.spec().data());
  return Sha256Hex(text);
}

}  // namespace sbora::agent
