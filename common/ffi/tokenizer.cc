#include "common/ffi/tokenizer.h"

#include <cstring>
#include <limits>

#include <fmt/format.h>

#include "common/check.h"
#include "common/ffi/ffi_call.h"

namespace sbora {
namespace {

using Ids = std::vector<int32_t>;

Ids IdsFromBytes(const uint8_t* data, size_t size) {
  Ids ids(size / sizeof(int32_t));
  if (!ids.empty()) std::memcpy(ids.data(), data, size);
  return ids;
}

/// Sinks of the Rust side must not throw; running out of memory here ends the process, as it does inside Rust.
SboraFfiOutput PushTo(std::vector<Ids>* out) {
  return {[](void* context, const uint8_t* data, size_t size) noexcept {
            static_cast<std::vector<Ids>*>(context)->push_back(IdsFromBytes(data, size));
          },
          out};
}

}  // namespace

StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::FromJson(std::string_view tokenizer_json) {
  SboraFfiError error;
  SboraFfiTokenizer* handle = nullptr;
  if (const int32_t code = sbora_ffi_tokenizer_new(ffi::ToSlice(tokenizer_json), &handle, &error); code != 0) {
    return ffi::ToStatus(code, error);
  }
  int64_t size = 0;
  const int32_t code = sbora_ffi_tokenizer_vocab_size(handle, &size, &error);
  std::unique_ptr<Tokenizer> tokenizer(new Tokenizer(handle, size));
  if (code != 0) return ffi::ToStatus(code, error);
  return tokenizer;
}

Tokenizer::~Tokenizer() { sbora_ffi_tokenizer_free(handle_); }

StatusOr<Ids> Tokenizer::Encode(std::string_view text, bool add_special_tokens) const {
  SboraFfiError error;
  std::vector<Ids> out;
  const int32_t code =
      sbora_ffi_tokenizer_encode(handle_, ffi::ToSlice(text), add_special_tokens, PushTo(&out), &error);
  if (code != 0) return ffi::ToStatus(code, error);
  SBORA_CHECK(out.size() == 1, "encode gave {} results", out.size());
  return std::move(out.front());
}

StatusOr<Tokenizer::Encoding> Tokenizer::EncodeWithEnds(std::string_view text, bool add_special_tokens) const {
  if (text.size() > static_cast<size_t>(std::numeric_limits<int32_t>::max())) {
    return InvalidArgument("TEXT_TOO_LONG", fmt::format("a text of {} bytes is too long to tokenise in one piece: "
                                                        "split it into texts under 2 GiB", text.size()));
  }
  SboraFfiError error;
  std::vector<Ids> ids;
  std::vector<Ids> ends;
  const int32_t code = sbora_ffi_tokenizer_encode_with_ends(handle_, ffi::ToSlice(text), add_special_tokens, PushTo(&ids),
                                                            PushTo(&ends), &error);
  if (code != 0) return ffi::ToStatus(code, error);
  SBORA_CHECK(ids.size() == 1 && ends.size() == 1 && ids[0].size() == ends[0].size(), "{} ids, {} ends", ids.size(), ends.size());
  return Encoding{std::move(ids.front()), std::move(ends.front())};
}

StatusOr<std::vector<Ids>> Tokenizer::EncodeBatch(std::span<const std::string> texts, bool add_special_tokens) const {
  std::vector<SboraFfiSlice> slices;
  slices.reserve(texts.size());
  for (const std::string& text : texts) slices.push_back(ffi::ToSlice(text));
  SboraFfiError error;
  std::vector<Ids> out;
  out.reserve(texts.size());
  const int32_t code = sbora_ffi_tokenizer_encode_batch(handle_, slices.data(), slices.size(), add_special_tokens,
                                                        PushTo(&out), &error);
  if (code != 0) return ffi::ToStatus(code, error);
  SBORA_CHECK(out.size() == texts.size(), "encoding {} texts gave {} results", texts.size(), out.size());
  return out;
}

StatusOr<std::string> Tokenizer::Decode(std::span<const int32_t> ids, bool skip_special_tokens) const {
  std::vector<uint32_t> unsigned_ids;
  unsigned_ids.reserve(ids.size());
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0) {
      return InvalidArgument("TOKEN_ID_INVALID", fmt::format("ids[{}]={} is negative; mask it out first", i, ids[i]));
    }
    unsigned_ids.push_back(static_cast<uint32_t>(ids[i]));
  }
  SboraFfiError error;
  std::string text;
  const int32_t code = sbora_ffi_tokenizer_decode(handle_, unsigned_ids.data(), unsigned_ids.size(),
                                                  skip_special_tokens, ffi::AppendTo(&text), &error);
  if (code != 0) return ffi::ToStatus(code, error);
  return text;
}

std::optional<int32_t> Tokenizer::TokenToId(std::string_view token) const {
  SboraFfiError error;
  int64_t id = -1;
  const int32_t code = sbora_ffi_tokenizer_token_to_id(handle_, ffi::ToSlice(token), &id, &error);
  if (code != 0 || id < 0) return std::nullopt;
  return static_cast<int32_t>(id);
}

std::optional<std::string> Tokenizer::IdToToken(int32_t id) const {
  if (id < 0) return std::nullopt;
  // A sink call marks a known id: a token may be the empty string.
  struct Found {
    bool called = false;
    std::string token;
  } found;
  const SboraFfiOutput output = {[](void* context, const uint8_t* data, size_t size) noexcept {
                                   auto* result = static_cast<Found*>(context);
                                   result->called = true;
                                   result->token.assign(reinterpret_cast<const char*>(data), size);
                                 },
                                 &found};
  SboraFfiError error;
  const int32_t code = sbora_ffi_tokenizer_id_to_token(handle_, static_cast<uint32_t>(id), output, &error);
  if (code != 0 || !found.called) return std::nullopt;
  return std::move(found.token);
}

}  // namespace sbora
