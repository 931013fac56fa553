/// What a GGUF file of a LLaMA says, in HF terms. Internal to model_import.
#pragma once

#include <string>
#include <vector>

#include "common/status.h"
#include "core/gguf.h"
#include "core/model_config.h"

namespace sbora::core {

/// The config behind the file's llama.* keys. Errors: UNIMPLEMENTED ARCHITECTURE_UNSUPPORTED, ROPE_SCALING_UNSUPPORTED;
/// INVALID_ARGUMENT GGUF_KEY_MISSING and others when keys and tensors disagree.
StatusOr<ModelConfig> GgufModelConfig(const GgufFile& file);

/// The HF tensors this file yields, forward order: F16 and BF16 stay, all else becomes F32. Checks that names and shapes
/// are those of the config and that nothing is left over.
StatusOr<std::vector<TensorSpec>> GgufTensorSpecs(const GgufFile& file, const ModelConfig& config);

/// Bytes of one of GgufTensorSpecs: de-quantised, rows of q and k in HF order (llama.cpp interleaves the two halves of
/// each head for its rotary embedding).
StatusOr<std::vector<std::byte>> GgufTensorBytes(const GgufFile& file, const ModelConfig& config,
                                                 const TensorSpec& spec);

struct TokenizerFiles {
  std::string tokenizer_json;
  std::string tokenizer_config_json;
  bool has_chat_template = false;
};
/// tokenizer.json rebuilt from the metadata, for byte-level BPE ("gpt2") with the pre-tokenizers smollm, llama-bpe,
/// gpt-2 and default, and for sentencepiece ("llama"): the ids of transformers' LlamaTokenizer on the file's tokens and
/// scores, with the file's add_space_prefix (core/sentencepiece.h). Errors: UNIMPLEMENTED TOKENIZER_UNSUPPORTED naming
/// model and pre-tokenizer, or what sentencepiece files lack; INVALID_ARGUMENT TOKENIZER_MALFORMED.
StatusOr<TokenizerFiles> GgufTokenizer(const GgufFile& file, const ModelConfig& config);

}  // namespace sbora::core
