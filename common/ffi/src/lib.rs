//! The Rust libraries this project uses, behind the C interface of sbora_ffi.h.

mod chat_template;
mod error;
mod object_store;
mod object_store_c;
mod python_text;
mod store_error;
mod tokenizer;
