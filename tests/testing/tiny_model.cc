#include "tests/testing/tiny_model.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "common/file.h"
#include "common/status_macros.h"
#include "core/counter_rng.h"
#include "core/safetensors.h"

namespace sbora::testing {
namespace {

constexpr int kBytes = 256;
constexpr const char* kSpecialTokens[] = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
constexpr char kChatTemplate[] =
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' "
    "}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

std::string Utf8(uint32_t code_point) {
  if (code_point < 0x80) return std::string(1, static_cast<char>(code_point));
  return {static_cast<char>(0xC0 | (code_point >> 6)), static_cast<char>(0x80 | (code_point & 0x3F))};
}

/// GPT-2's printable stand-in for each byte.
std::vector<std::string> ByteLetters() {
  const auto printable = [](int byte) {
    return (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || (byte >= 174 && byte <= 255);
  };
  std::vector<std::string> letters;
  uint32_t next = kBytes;
  for (int byte = 0; byte < kBytes; ++byte) letters.push_back(Utf8(printable(byte) ? static_cast<uint32_t>(byte) : next++));
  return letters;
}

std::string TokenizerJson() {
  nlohmann::json vocab = nlohmann::json::object();
  const auto letters = ByteLetters();
  for (int byte = 0; byte < kBytes; ++byte) vocab[letters[static_cast<size_t>(byte)]] = byte;
  nlohmann::json added = nlohmann::json::array();
  for (int i = 0; i < 3; ++i) {
    vocab[kSpecialTokens[i]] = kBytes + i;
    added.push_back({{"id", kBytes + i}, {"content", kSpecialTokens[i]}, {"single_word", false}, {"lstrip", false},
                     {"rstrip", false}, {"normalized", false}, {"special", true}});
  }
  const nlohmann::json byte_level = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true},
                                     {"use_regex", true}};
  const nlohmann::json tokenizer = {
      {"version", "1.0"},       {"truncation", nullptr},     {"padding", nullptr},
      {"added_tokens", added},  {"normalizer", nullptr},     {"pre_tokenizer", byte_level},
      {"post_processor", nullptr}, {"decoder", byte_level},
      {"model", {{"type", "BPE"}, {"dropout", nullptr}, {"unk_token", nullptr}, {"continuing_subword_prefix", nullptr},
                 {"end_of_word_suffix", nullptr}, {"fuse_unk", false}, {"byte_fallback", false}, {"vocab", vocab},
                 {"merges", nlohmann::json::array()}}}};
  return tokenizer.dump();
}

}  // namespace

core::ModelConfig TinyModelConfig(const TinyModelOptions& options) {
  core::ModelConfig config;
  config.hidden_size = options.hidden_size;
  config.num_layers = options.num_layers;
  config.num_heads = options.num_heads;
  config.num_kv_heads = options.num_kv_heads;
  config.head_dim = options.hidden_size / options.num_heads;
  config.intermediate_size = options.intermediate_size;
  config.vocab_size = kBytes + 8;
  config.max_position_embeddings = options.max_position_embeddings;
  config.rms_norm_eps = 1e-5;
  config.tie_word_embeddings = options.tie_word_embeddings;
  config.bos_token_id = kBytes;
  config.eos_token_ids = {kBytes + 2};
  return config;
}

Status WriteTinyModel(const std::filesystem::path& dir, const TinyModelOptions& options) {
  std::error_code error;
  std::filesystem::create_directories(dir, error);
  if (error) return FromErrno(error.value(), "creating " + dir.string());
  const core::ModelConfig config = TinyModelConfig(options);
  std::vector<std::vector<float>> values;
  std::vector<core::TensorToWrite> tensors;
  const auto specs = core::ExpectedTensors(config);
  values.reserve(specs.size());
  for (const auto& spec : specs) {
    core::PhiloxStream stream(core::DeriveKey("sbora.testing.tiny_model", options.seed, spec.name));
    int64_t count = 1;
    for (const int64_t extent : spec.shape) count *= extent;
    auto& data = values.emplace_back(static_cast<size_t>(count));
    for (auto& value : data) value = spec.shape.size() == 1 ? 1.0f : 0.1f * stream.NextNormal();
    tensors.push_back({spec, std::as_bytes(std::span(data))});
  }
  SBORA_RETURN_IF_ERROR(core::WriteSafetensors(dir / "model.safetensors", tensors, {{"format", "pt"}}).status());
  SBORA_RETURN_IF_ERROR(WriteFileAtomic(dir / "config.json", core::ToHfConfigJson(config)));
  SBORA_RETURN_IF_ERROR(WriteFileAtomic(dir / "tokenizer.json", TokenizerJson()));
  const nlohmann::json tokenizer_config = {{"bos_token", kSpecialTokens[0]}, {"eos_token", kSpecialTokens[2]},
                                           {"chat_template", kChatTemplate}};
  return WriteFileAtomic(dir / "tokenizer_config.json", tokenizer_config.dump(2));
}

Status WriteTinyDataset(const std::filesystem::path& file, int samples) {
  std::error_code error;
  std::filesystem::create_directories(file.parent_path(), error);
  if (error) return FromErrno(error.value(), "creating " + file.parent_path().string());
  std::string text;
  for (int i = 0; i < samples; ++i) {
    const int a = i % 7;
    const int b = i % 11;
    text += fmt::format(R"({{"prompt": "add {} {} = ", "completion": "{}"}})", a, b, a + b) + "\n";
  }
  return WriteFileAtomic(file, text);
}

}  // namespace sbora::testing
