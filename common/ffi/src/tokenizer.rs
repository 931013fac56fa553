//! Hugging Face tokenizers behind C functions. A tokenizer is immutable after loading, so all calls may run at once.

use std::ptr;

use tokenizers::Tokenizer;

use crate::error::{guard, Code, Failure, FfiError, Output, Slice};

fn failure(reason: &'static str, error: impl std::fmt::Display) -> Failure {
    Failure::new(Code::InvalidArgument, reason, error.to_string())
}

/// # Safety
/// Pointers are valid; `*out` receives a handle for `sbora_ffi_tokenizer_free`.
#[no_mangle]
pub unsafe extern "C" fn sbora_ffi_tokenizer_new(json: Slice, out: *mut *mut Tokenizer, error: *mut FfiError) -> i32 {
    unsafe {
        *out = ptr::null_mut();
        guard(error, || {
            let mut tokenizer = Tokenizer::from_bytes(json.bytes())
                .map_err(|e| failure("TOKENIZER_INVALID", format!("tokenizer.json: {e}")))?;
            // Saved padding and truncation belong to whoever saved them: lengths are decided by our callers.
            tokenizer.with_truncation(None).map_err(|e| failure("TOKENIZER_INVALID", e))?;
            tokenizer.with_padding(None);
            *out = Box::into_raw(Box::new(tokenizer));
            Ok(())
        })
    }
}

/// # Safety
/// `tokenizer` comes from `sbora_ffi_tokenizer_new`, or is null.
#[no_mangle]
pub unsafe extern "C" fn sbora_ffi_tokenizer_free(tokenizer: *mut Tokenizer) {
    if !tokenizer.is_null() {
        drop(unsafe { Box::from_raw(tokenizer) });
    }
}

/// Calls the sink once with the ids.
///
/// # Safety
/// Pointers are valid.
#[no_mangle]
pub unsafe extern "C" fn sbora_ffi_tokenizer_encode(
    tokenizer: *const Tokenizer,
    text: Slice,
    add_special_tokens: bool,
    out: Output,
    error: *mut FfiError,
) -> i32 {
    unsafe {
        guard(error, || {
            let text = text.text("the text to encode")?;
            let encoding = (*tokenizer)
                .encode_fast(text, add_special_tokens)
                .map_err(|e| failure("TOKENIZER_ENCODE_FAILED", e))?;
            out.write_ids(encoding.get_ids());
            Ok(())
        })
    }
}

/// Calls the first sink once with the ids and the second once with the byte offset in `text` behind each token; 0 for
/// tokens that stand for no text.
///
/// # Safety
/// Pointers are valid.
#[no_mangle]
pub unsafe extern "C" fn sbora_ffi_tokenizer_encode_with_ends(
    tokenizer: *const Tokenizer,
    text: Slice,
    add_special_tokens: bool,
    ids: Output,
    ends: Output,
    error: *mut FfiError,
) -> i32 {
    unsafe {
        guard(error, || {
            let text = text.text("the text to encode")?;
            let encoding =
                (*tokenizer).encode(text, add_special_tokens).map_err(|e| failure("TOKENIZER_ENCODE_FAILED", e))?;
            let offsets: Vec<u32> = encoding.get_offsets().iter().map(|(_, end)| *end as u32).collect();
            ids.write_ids(encoding.get_ids());
            ends.write_ids(&offsets);
            Ok(())
        })
    }
}

/// Calls the sink once per text, in order, after all have been encoded on every core.
///
/// # Safety
/// Pointers are valid; `texts` has `count` elements.
#[no_mangle]
pub unsafe extern "C" fn sbora_ffi_tokenizer_encode_batch(
    tokenizer: *const Tokenizer,
    texts: *const Slice,
    count: usize,
    add_special_tokens: bool,
    out: Output,
    error: *mut FfiError,
) -> i32 {
    unsafe {
        guard(error, || {
            let mut inputs = Vec::with_capacity(count);
            for i in 0..count {
                inputs.push((*texts.add(i)).text(&format!("text {i} of the batch"))?);
            }
            let encodings = (*tokenizer)
                .encode_batch_fast(inputs, add_special_tokens)
                .map_err(|e| failure("TOKENIZER_ENCODE_FAILED", e))?;
            for encoding in &encodings {
                out.write_ids(encoding.get_ids());
            }
            Ok(())
        })
    }
}

/// # Safety
/// Pointers are valid; `ids` has `count` elements.
#[no_mangle]
pub unsafe extern "C" fn sbora_ffi_tokenizer_decode(
    tokenizer: *const Tokenizer,
    ids: *const u32,
    count: usize,
    skip_special_tokens: bool,
    out: Output,
    error: *mut FfiError,
) -> i32 {
    unsafe {
        guard(error, || {
            let ids = if count == 0 { &[] } else { std::slice::from_raw_parts(ids, count) };
            let text =
                (*tokenizer).decode(ids, skip_special_tokens).map_err(|e| failure("TOKENIZER_DECODE_FAILED", e))?;
            out.write(text.as_bytes());
            Ok(())
        })
    }
}

/// `*id` is -1 for an unknown token.
///
/// # Safety
/// Pointers are valid.
#[no_mangle]
pub unsafe extern "C" fn sbora_ffi_tokenizer_token_to_id(
    tokenizer: *const Tokenizer,
    token: Slice,
    id: *mut i64,
    error: *mut FfiError,
) -> i32 {
    unsafe {
        guard(error, || {
            *id = match token.text("the token") {
                Ok(token) => (*tokenizer).token_to_id(token).map_or(-1, i64::from),
                Err(_) => -1,
            };
            Ok(())
        })
    }
}

/// Calls the sink once when the id exists, never otherwise.
///
/// # Safety
/// Pointers are valid.
#[no_mangle]
pub unsafe extern "C" fn sbora_ffi_tokenizer_id_to_token(
    tokenizer: *const Tokenizer,
    id: u32,
    out: Output,
    error: *mut FfiError,
) -> i32 {
    unsafe {
        guard(error, || {
            if let Some(token) = (*tokenizer).id_to_token(id) {
                out.write(token.as_bytes());
            }
            Ok(())
        })
    }
}

/// Size of the vocabulary, added tokens included.
///
/// # Safety
/// Pointers are valid.
#[no_mangle]
pub unsafe extern "C" fn sbora_ffi_tokenizer_vocab_size(
    tokenizer: *const Tokenizer,
    size: *mut i64,
    error: *mut FfiError,
) -> i32 {
    unsafe {
        guard(error, || {
            *size = (*tokenizer).get_vocab_size(true) as i64;
            Ok(())
        })
    }
}
