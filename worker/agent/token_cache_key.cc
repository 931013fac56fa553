#include "worker/agent/token_cache_key.h"

#include <fmt/format.h>
#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>

#include "common/sha256.h"

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
  if (!task.has_train() && !task.has_evaluate()) return std::nullopt;
  std::string text = fmt::format("token cache {}\n", kTokenCacheVersion);
  for (const auto& group : task.inputs()) {
    if (group.name() == "checkpoint" || group.name() == "adapter") continue;
    for (const auto& file : group.files()) {
      if (group.name() == "model" && file.path().ends_with(".safetensors")) continue;
      text += fmt::format("{}/{} {}\n", group.name(), file.path(), file.sha256());
    }
  }
  if (task.has_train()) {
    const auto& train = task.train();
    text += fmt::format("seed {}\n", train.spec().training().seed());
    text += fmt::format("formats {} {}\n", static_cast<int>(train.dataset_format()),
                        static_cast<int>(train.validation_format()));
    text += Bytes(train.spec().data());
  } else {
    v1::EvaluationSpec spec = task.evaluate().spec();
    for (std::string* name : {spec.mutable_model(), spec.mutable_adapter(), spec.mutable_dataset()}) name->clear();
    spec.clear_device();
    spec.clear_threads();
    text += fmt::format("evaluate {}\n", static_cast<int>(task.evaluate().dataset_format()));
    text += Bytes(spec);
  }
  return Sha256Hex(text);
}

}  // namespace sbora::agent
