// Reads sentencepiece's ModelProto from the protobuf wire format: this library does without protobuf, and needs ten
// fields.
#include <fmt/format.h>

#include <bit>
#include <cstring>

#include "common/status_macros.h"
#include "core/sentencepiece.h"

namespace sbora::core {
namespace {

constexpr size_t kMaxPieces = size_t{1} << 22;

Status Malformed(std::string_view what) {
  return InvalidArgument("TOKENIZER_MALFORMED", fmt::format("tokenizer.model is no sentencepiece model: {}", what));
}

struct Field {
  uint64_t number = 0;
  uint64_t value = 0;      ///< varint or fixed
  std::string_view bytes;  ///< length-delimited
  bool has_bytes = false;
};

/// The fields of one message, in order.
class WireReader {
 public:
  explicit WireReader(std::string_view bytes) : rest_(bytes) {}

  bool done() const { return rest_.empty(); }

  StatusOr<Field> Next() {
    SBORA_ASSIGN_OR_RETURN(const uint64_t key, Varint());
    Field field{.number = key >> 3, .value = 0, .bytes = {}};
    switch (key & 7) {
      case 0: {
        SBORA_ASSIGN_OR_RETURN(field.value, Varint());
        return field;
      }
      case 1:
        return Fixed(field, 8);
      case 2: {
        SBORA_ASSIGN_OR_RETURN(const uint64_t size, Varint());
        SBORA_ASSIGN_OR_RETURN(field.bytes, Take(size));
        field.has_bytes = true;
        return field;
      }
      case 5:
        return Fixed(field, 4);
    }
    return Malformed(fmt::format("wire type {}", key & 7));
  }

 private:
  StatusOr<std::string_view> Take(uint64_t size) {
    if (size > rest_.size()) return Malformed("it ends early");
    const std::string_view taken = rest_.substr(0, size);
    rest_.remove_prefix(size);
    return taken;
  }

  StatusOr<Field> Fixed(Field field, size_t size) {
    static_assert(std::endian::native == std::endian::little);
    SBORA_ASSIGN_OR_RETURN(const std::string_view bytes, Take(size));
    std::memcpy(&field.value, bytes.data(), size);
    return field;
  }

  StatusOr<uint64_t> Varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      SBORA_ASSIGN_OR_RETURN(const std::string_view byte, Take(1));
      value |= uint64_t{static_cast<uint8_t>(byte[0]) & 0x7fu} << shift;
      if ((static_cast<uint8_t>(byte[0]) & 0x80) == 0) return value;
    }
    return Malformed("a number is too long");
  }

  std::string_view rest_;
};

Status ReadPiece(std::string_view bytes, SentencePieceVocabulary& vocabulary) {
  std::string token;
  float score = 0;
  int32_t type = 1;
  for (WireReader reader(bytes); !reader.done();) {
    SBORA_ASSIGN_OR_RETURN(const Field field, reader.Next());
    if (field.number == 1 && field.has_bytes) token = field.bytes;
    if (field.number == 2) score = std::bit_cast<float>(static_cast<uint32_t>(field.value));
    if (field.number == 3) type = static_cast<int32_t>(field.value);
  }
  if (vocabulary.tokens.size() >= kMaxPieces) return Malformed(fmt::format("more than {} pieces", kMaxPieces));
  vocabulary.tokens.push_back(std::move(token));
  vocabulary.scores.push_back(score);
  vocabulary.types.push_back(type);
  return OkStatus();
}

Status ReadTrainerSpec(std::string_view bytes, SentencePieceModel& model) {
  for (WireReader reader(bytes); !reader.done();) {
    SBORA_ASSIGN_OR_RETURN(const Field field, reader.Next());
    if (field.number == 3) model.model_type = static_cast<int64_t>(field.value);
    if (field.number == 24) model.whitespace_as_suffix = field.value != 0;
    if (field.number == 35) model.byte_fallback = field.value != 0;
  }
  return OkStatus();
}

Status ReadNormalizerSpec(std::string_view bytes, SentencePieceModel& model) {
  for (WireReader reader(bytes); !reader.done();) {
    SBORA_ASSIGN_OR_RETURN(const Field field, reader.Next());
    if (field.number == 1) model.normalization = field.bytes;
    if (field.number == 2) model.normalizes = !field.bytes.empty();
    if (field.number == 3) model.add_dummy_prefix = field.value != 0;
    if (field.number == 4) model.remove_extra_whitespaces = field.value != 0;
    if (field.number == 5) model.escape_whitespaces = field.value != 0;
  }
  return OkStatus();
}

}  // namespace

StatusOr<SentencePieceModel> ParseSentencePieceModel(std::string_view bytes) {
  SentencePieceModel model;
  for (WireReader reader(bytes); !reader.done();) {
    SBORA_ASSIGN_OR_RETURN(const Field field, reader.Next());
    if (!field.has_bytes) continue;
    if (field.number == 1) SBORA_RETURN_IF_ERROR(ReadPiece(field.bytes, model.vocabulary));
    if (field.number == 2) SBORA_RETURN_IF_ERROR(ReadTrainerSpec(field.bytes, model));
    if (field.number == 3) SBORA_RETURN_IF_ERROR(ReadNormalizerSpec(field.bytes, model));
  }
  if (model.vocabulary.tokens.empty()) return Malformed("it holds no pieces");
  return model;
}

}  // namespace sbora::core
