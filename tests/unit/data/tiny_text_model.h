/// A model folder whose tokenizer knows bytes, a few merges that cross borders, and a chat template.
#pragma once

#include <filesystem>
#include <string>

#include <nlohmann/json.hpp>

#include "common/file.h"
#include "core/model_config.h"
#include "data/text_model.h"

namespace sbora::data::testing {

inline constexpr const char* kChatTemplate =
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// Byte-level BPE over printable ASCII; merges: ": " with a letter crosses the border of "Q:" and " A".
inline std::string TinyTokenizerJson() {
  nlohmann::json vocab = nlohmann::json::object();
  int id = 0;
  for (const char* special : {"<|endoftext|>", "<|im_start|>", "<|im_end|>"}) vocab[special] = id++;
  for (int c = 33; c < 127; ++c) vocab[std::string(1, static_cast<char>(c))] = id++;
  for (const char* token : {"Ġ", "Ċ", "ab", "bc", "th", "the", "Ã", "©", "ĊĊ"}) vocab[token] = id++;
  nlohmann::json added = nlohmann::json::array();
  for (const char* special : {"<|endoftext|>", "<|im_start|>", "<|im_end|>"}) {
    added.push_back({{"id", vocab[special]}, {"content", special}, {"single_word", false}, {"lstrip", false},
                     {"rstrip", false}, {"normalized", false}, {"special", true}});
  }
  const nlohmann::json byte_level = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true},
                                     {"use_regex", true}};
  return nlohmann::json{{"version", "1.0"}, {"truncation", nullptr}, {"padding", nullptr}, {"added_tokens", added},
                        {"normalizer", nullptr}, {"pre_tokenizer", byte_level}, {"post_processor", nullptr},
                        {"decoder", byte_level},
                        {"model", {{"type", "BPE"}, {"dropout", nullptr}, {"unk_token", nullptr},
                                   {"continuing_subword_prefix", nullptr}, {"end_of_word_suffix", nullptr},
                                   {"fuse_unk", false}, {"byte_fallback", false}, {"vocab", vocab},
                                   {"merges", {"a b", "b c", "t h", "th e", "Ċ Ċ"}}}}}
      .dump();
}

inline void WriteTinyTextModel(const std::filesystem::path& dir, bool with_chat_template = true) {
  std::filesystem::create_directories(dir);
  core::ModelConfig config;
  config.hidden_size = 16;
  config.num_layers = 1;
  config.num_heads = config.num_kv_heads = 2;
  config.head_dim = 8;
  config.intermediate_size = 16;
  config.vocab_size = 128;
  config.max_position_embeddings = 256;
  config.eos_token_ids = {2};
  nlohmann::json tokenizer_config = {{"eos_token", "<|im_end|>"}};
  if (with_chat_template) tokenizer_config["chat_template"] = kChatTemplate;
  SBORA_CHECK(WriteFileAtomic(dir / "config.json", core::ToHfConfigJson(config)).ok(), "config");
  SBORA_CHECK(WriteFileAtomic(dir / "tokenizer.json", TinyTokenizerJson()).ok(), "tokenizer");
  SBORA_CHECK(WriteFileAtomic(dir / "tokenizer_config.json", tokenizer_config.dump()).ok(), "tokenizer config");
}

inline TextModel OpenTinyTextModel(const std::filesystem::path& dir, bool with_chat_template = true) {
  WriteTinyTextModel(dir, with_chat_template);
  auto model = TextModel::Open(dir);
  SBORA_CHECK(model.ok(), "{}", model.status().ToString());
  return std::move(model).value();
}

}  // namespace sbora::data::testing
