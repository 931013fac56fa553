/// A model in HF layout as one GGUF file for llama.cpp and its relatives.
///
/// What the file holds: the weights in F16 or Q8_0 (norms in F32) under llama.cpp's names and row order, the config,
/// RoPE scaling (linear as a factor, LLaMA 3.1's as divisors), the tokenizer (byte-level BPE or sentencepiece) and the
/// chat template. What it cannot hold is refused by name, never left out.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>

#include "common/status.h"
#include "core/gguf_writer.h"
#include "core/model_config.h"
#include "core/peft_export.h"

namespace sbora::core {

/// What the linear layers and embeddings are stored as.
enum class GgufWeights { kF16, kQ8_0 };

struct GgufExportOptions {
  GgufWeights weights = GgufWeights::kF16;
  std::string name;  ///< "general.name", for people; may be empty
  std::function<void(int64_t tensors_done, int64_t tensors_total)> progress;  ///< called after each tensor
  std::function<bool()> cancelled;
};

/// Writes `out_dir`/model-f16.gguf or model-q8_0.gguf. Streams: memory is some rows of one tensor beside the mapped base.
/// Deterministic: equal folders and options give equal bytes.
/// Errors: those of ModelFolder::Open; UNIMPLEMENTED TOKENIZER_UNSUPPORTED (see GgufTokenizerMetadata); FAILED_PRECONDITION
/// GGUF_VALUE_RANGE (a weight no half can hold), OUTPUT_NOT_EMPTY; INVALID_ARGUMENT GGUF_ROW_LENGTH (Q8_0 wants rows of
/// whole blocks of 32); CANCELLED.
StatusOr<ExportedFolder> ExportGguf(const std::filesystem::path& model_dir, const std::filesystem::path& out_dir,
                                    const GgufExportOptions& options);

/// tokenizer.json and tokenizer_config.json as GGUF's tokenizer.* keys, the vocabulary filled up to the embedding's
/// rows. Only what llama.cpp computes alike is taken: byte-level BPE without normaliser, one of the pre-tokenizers that
/// core/gguf_tokenizer.h names, an optional BOS in front of a text, added tokens without stripping.
/// Or a sentencepiece-style BPE with byte fallback as LLaMA's, whose scores are recovered from the order of its merges
/// (core/gguf_export_sentencepiece.h). llama.cpp then puts a space in front of every text and behind every special
/// token, as sentencepiece does; transformers' LlamaTokenizer without `legacy` puts one in front of the first text
/// only, and none where the text begins with a space. GGUF has no key for that difference.
/// `chat_template`: chat_template.jinja's text, or empty for the one of tokenizer_config.json.
/// Errors: UNIMPLEMENTED TOKENIZER_UNSUPPORTED naming the part; INVALID_ARGUMENT TOKENIZER_MALFORMED.
Status GgufTokenizerMetadata(std::string_view tokenizer_json, std::string_view tokenizer_config_json,
                             std::string_view chat_template, const ModelConfig& config, GgufMetadata& metadata);

}  // namespace sbora::core
