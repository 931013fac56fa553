/* C interface of the Rust library sbora_ffi. Use tokenizer.h, chat_template.h and common/storage instead; this header
 * is theirs.
 *
 * Every function that can fail returns 0 or the number of a canonical code, and then fills `error`. No Rust panic
 * crosses this border (reason FFI_PANIC). Slices are borrowed for the call. Results arrive through a sink, which must
 * not throw. Handles may be used from many threads at once, except SboraFfiUpload. Layouts mirror src/error.rs,
 * src/chat_template.rs and src/object_store.rs. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct SboraFfiError {
  int32_t code;
  char reason[64];    /* NUL-terminated */
  char message[2048]; /* NUL-terminated, cut at a character */
} SboraFfiError;

typedef struct SboraFfiSlice {
  const uint8_t* data;
  size_t size;
} SboraFfiSlice;

typedef struct SboraFfiOutput {
  void (*sink)(void* context, const uint8_t* data, size_t size);
  void* context;
} SboraFfiOutput;

/* Tokenizers. Ids arrive as int32_t in native byte order. */
typedef struct SboraFfiTokenizer SboraFfiTokenizer;
int32_t sbora_ffi_tokenizer_new(SboraFfiSlice json, SboraFfiTokenizer** out, SboraFfiError* error);
void sbora_ffi_tokenizer_free(SboraFfiTokenizer* tokenizer);
int32_t sbora_ffi_tokenizer_encode(const SboraFfiTokenizer* tokenizer, SboraFfiSlice text, bool add_special_tokens,
                                   SboraFfiOutput ids, SboraFfiError* error);
/* Ends are byte offsets in `text`, uint32_t in native byte order; 0 for tokens that stand for no text. */
int32_t sbora_ffi_tokenizer_encode_with_ends(const SboraFfiTokenizer* tokenizer, SboraFfiSlice text,
                                             bool add_special_tokens, SboraFfiOutput ids, SboraFfiOutput ends,
                                             SboraFfiError* error);
int32_t sbora_ffi_tokenizer_encode_batch(const SboraFfiTokenizer* tokenizer, const SboraFfiSlice* texts, size_t count,
                                         bool add_special_tokens, SboraFfiOutput ids_per_text, SboraFfiError* error);
int32_t sbora_ffi_tokenizer_decode(const SboraFfiTokenizer* tokenizer, const uint32_t* ids, size_t count,
                                   bool skip_special_tokens, SboraFfiOutput text, SboraFfiError* error);
int32_t sbora_ffi_tokenizer_token_to_id(const SboraFfiTokenizer* tokenizer, SboraFfiSlice token, int64_t* id,
                                        SboraFfiError* error);
int32_t sbora_ffi_tokenizer_id_to_token(const SboraFfiTokenizer* tokenizer, uint32_t id, SboraFfiOutput token,
                                        SboraFfiError* error);
int32_t sbora_ffi_tokenizer_vocab_size(const SboraFfiTokenizer* tokenizer, int64_t* size, SboraFfiError* error);

/* Chat templates. */
typedef struct SboraFfiChatOptions {
  uint64_t fuel;
  uint64_t max_output_bytes;
  bool has_time;
  int64_t unix_seconds;
} SboraFfiChatOptions;
typedef struct SboraFfiChatInput {
  SboraFfiSlice messages_json; /* an array */
  SboraFfiSlice extra_json;    /* an object */
  SboraFfiSlice bos_token;
  SboraFfiSlice eos_token;
  bool add_generation_prompt;
} SboraFfiChatInput;
typedef struct SboraFfiChatTemplate SboraFfiChatTemplate;
int32_t sbora_ffi_chat_template_new(SboraFfiSlice source, SboraFfiChatOptions options, SboraFfiChatTemplate** out,
                                    SboraFfiError* error);
void sbora_ffi_chat_template_free(SboraFfiChatTemplate* chat_template);
int32_t sbora_ffi_chat_template_render(const SboraFfiChatTemplate* chat_template, const SboraFfiChatInput* input,
                                       SboraFfiOutput text, SboraFfiError* error);

/* Object stores. Keys are checked by the caller. */
typedef struct SboraFfiStoreOptions {
  SboraFfiSlice directory; /* a local store; empty for S3 */
  SboraFfiSlice bucket;
  SboraFfiSlice prefix;
  SboraFfiSlice endpoint;
  SboraFfiSlice region;
  SboraFfiSlice access_key_id;
  SboraFfiSlice secret_access_key;
  SboraFfiSlice session_token;
  SboraFfiSlice ca_pem;
  bool allow_http;
  bool virtual_hosted_style;
  bool fsync;
  uint32_t max_retries;
  uint64_t retry_timeout_ms;
  uint64_t connect_timeout_ms;
  uint64_t request_timeout_ms;
} SboraFfiStoreOptions;
typedef struct SboraFfiStore SboraFfiStore;
typedef struct SboraFfiUpload SboraFfiUpload;
int32_t sbora_ffi_store_open(const SboraFfiStoreOptions* options, SboraFfiStore** out, SboraFfiError* error);
void sbora_ffi_store_free(SboraFfiStore* store);
int32_t sbora_ffi_store_put(const SboraFfiStore* store, SboraFfiSlice key, SboraFfiSlice bytes, bool create,
                            SboraFfiError* error);
/* length 0 reads the whole object. */
int32_t sbora_ffi_store_get(const SboraFfiStore* store, SboraFfiSlice key, uint64_t offset, uint64_t length,
                            uint64_t max_bytes, SboraFfiOutput bytes, SboraFfiError* error);
int32_t sbora_ffi_store_get_to_file(const SboraFfiStore* store, SboraFfiSlice key, SboraFfiSlice path, uint64_t* size,
                                    SboraFfiError* error);
int32_t sbora_ffi_store_put_file(const SboraFfiStore* store, SboraFfiSlice key, SboraFfiSlice path, uint64_t* size,
                                 SboraFfiError* error);
int32_t sbora_ffi_store_copy(const SboraFfiStore* store, SboraFfiSlice from, SboraFfiSlice to, SboraFfiError* error);
int32_t sbora_ffi_store_head(const SboraFfiStore* store, SboraFfiSlice key, uint64_t* size, int64_t* modified_ms,
                             SboraFfiOutput etag, SboraFfiError* error);
int32_t sbora_ffi_store_list(const SboraFfiStore* store, SboraFfiSlice prefix, SboraFfiSlice start_after,
                             uint64_t limit, SboraFfiOutput page_json, SboraFfiError* error);
int32_t sbora_ffi_store_delete(const SboraFfiStore* store, SboraFfiSlice key, SboraFfiError* error);
int32_t sbora_ffi_store_presign(const SboraFfiStore* store, SboraFfiSlice key, bool put, uint64_t ttl_seconds,
                                SboraFfiOutput url, SboraFfiError* error);
int32_t sbora_ffi_upload_start(const SboraFfiStore* store, SboraFfiSlice key, SboraFfiUpload** out,
                               SboraFfiError* error);
int32_t sbora_ffi_upload_write(SboraFfiUpload* upload, SboraFfiSlice bytes, SboraFfiError* error);
int32_t sbora_ffi_upload_complete(SboraFfiUpload* upload, SboraFfiError* error);
int32_t sbora_ffi_upload_abort(SboraFfiUpload* upload, SboraFfiError* error);
void sbora_ffi_upload_free(SboraFfiUpload* upload);

#ifdef __cplusplus
} /* extern "C" */
#endif
