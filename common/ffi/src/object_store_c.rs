//! The C functions over object_store.rs. Every function is safe to call from many threads on one store.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::os::unix::ffi::OsStrExt;
use std::ptr;
use std::sync::Arc;

use object_store::WriteMultipart;
use tokio::runtime::Runtime;

use crate::error::{guard, Code, Failure, FfiError, Output, Slice};
use crate::object_store::{finish_upload, io_failure, open, Store, StoreOptions, CONCURRENCY, MIN_PART_BYTES};
use crate::store_error::to_failure;

/// An upload in parts; `writer` is gone after complete or abort.
pub struct Upload {
    writer: Option<WriteMultipart>,
    runtime: Arc<Runtime>,
    key: String,
}

/// # Safety
/// Pointers are valid; `*out` receives a handle for `sbora_ffi_store_free`.
#[no_mangle]
pub unsafe extern "C" fn sbora_ffi_store_open(
    options: *const StoreOptions,
    out: *mut *mut Store,
    error: *mut FfiError,
) -> i32 {
    unsafe {
        *out = ptr::null_mut();
        guard(error, || {
            *out = Box::into_raw(Box::new(open(&*options)?));
            Ok(())
        })
    }
}

/// # Safety
/// `store` comes from `sbora_ffi_store_open`, or is null; no call on it is under way.
#[no_mangle]
pub unsafe extern "C" fn sbora_ffi_store_free(store: *mut Store) {
    if !store.is_null() {
        drop(unsafe { Box::from_raw(store) });
    }
}

/// # Safety
/// Pointers are valid.
#[no_mangle]
pub unsafe extern "C" fn sbora_ffi_store_put(
    store: *const Store,
    key: Slice,
    bytes: Slice,
    create: bool,
    error: *mut FfiError,
) -> i32 {
    unsafe { guard(error, || (*store).put(key.text("the key")?, bytes.bytes(), create)) }
}

/// Reads the whole object (`length` 0) or a range, at most `max_bytes`; one call of the sink.
///
/// # Safety
/// Pointers are valid.
#[no_mangle]
pub unsafe extern "C" fn sbora_ffi_store_get(
    store: *const Store,
    key: Slice,
    offset: u64,
    length: u64,
    max_bytes: u64,
    out: Output,
    error: *mut FfiError,
) -> i32 {
    unsafe {
        guard(error, || {
            let range = (length > 0).then(|| offset..offset.saturating_add(length));
            out.write(&(*store).get(key.text("the key")?, range, max_bytes)?);
            Ok(())
        })
    }
}

/// Writes the object into a new file at `path`, synced; an existing file is an error.
///
/// # Safety
/// Pointers are valid.
#[no_mangle]
pub unsafe extern "C" fn sbora_ffi_store_get_to_file(
    store: *const Store,
    key: Slice,
    path: Slice,
    size: *mut u64,
    error: *mut FfiError,
) -> i32 {
    unsafe {
        guard(error, || {
            let path = std::path::Path::new(OsStr::from_bytes(path.bytes()));
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .open(path)
                .map_err(|e| file_failure(&format!("creating {}", path.display()), &e))?;
            *size = (*store).get_to_file(key.text("the key")?, &mut file)?;
            Ok(())
        })
    }
}

fn file_failure(what: &str, error: &std::io::Error) -> Failure {
    if error.kind() == std::io::ErrorKind::NotFound {
        return Failure::new(Code::NotFound, "FILE_NOT_FOUND", format!("{what}: {error}"));
    }
    io_failure(what, error)
}

/// # Safety
/// Pointers are valid.
#[no_mangle]
pub unsafe extern "C" fn sbora_ffi_store_put_file(
    store: *const Store,
    key: Slice,
    path: Slice,
    size: *mut u64,
    error: *mut FfiError,
) -> i32 {
    unsafe {
        guard(error, || {
            let path = std::path::Path::new(OsStr::from_bytes(path.bytes()));
            let mut file = File::open(path).map_err(|e| file_failure(&format!("opening {}", path.display()), &e))?;
            *size = (*store).put_file(key.text("the key")?, &mut file)?;
            Ok(())
        })
    }
}

/// The sink receives the etag.
///
/// # Safety
/// Pointers are valid.
#[no_mangle]
pub unsafe extern "C" fn sbora_ffi_store_head(
    store: *const Store,
    key: Slice,
    size: *mut u64,
    modified_ms: *mut i64,
    etag: Output,
    error: *mut FfiError,
) -> i32 {
    unsafe {
        guard(error, || {
            let meta = (*store).head(key.text("the key")?)?;
            *size = meta.size;
            *modified_ms = meta.last_modified.timestamp_millis();
            etag.write(meta.e_tag.as_deref().unwrap_or_default().as_bytes());
            Ok(())
        })
    }
}

/// The sink receives one page as JSON (see Store::list).
///
/// # Safety
/// Pointers are valid.
#[no_mangle]
pub unsafe extern "C" fn sbora_ffi_store_list(
    store: *const Store,
    prefix: Slice,
    start_after: Slice,
    limit: u64,
    out: Output,
    error: *mut FfiError,
) -> i32 {
    unsafe {
        guard(error, || {
            let page = (*store).list(prefix.text("the prefix")?, start_after.text("start_after")?, limit as usize)?;
            out.write(page.as_bytes());
            Ok(())
        })
    }
}

/// # Safety
/// Pointers are valid.
#[no_mangle]
pub unsafe extern "C" fn sbora_ffi_store_copy(
    store: *const Store,
    from: Slice,
    to: Slice,
    error: *mut FfiError,
) -> i32 {
    unsafe { guard(error, || (*store).copy(from.text("the source")?, to.text("the key")?)) }
}

/// # Safety
/// Pointers are valid.
#[no_mangle]
pub unsafe extern "C" fn sbora_ffi_store_delete(store: *const Store, key: Slice, error: *mut FfiError) -> i32 {
    unsafe { guard(error, || (*store).delete(key.text("the key")?)) }
}

/// # Safety
/// Pointers are valid.
#[no_mangle]
pub unsafe extern "C" fn sbora_ffi_store_presign(
    store: *const Store,
    key: Slice,
    put: bool,
    ttl_seconds: u64,
    out: Output,
    error: *mut FfiError,
) -> i32 {
    unsafe {
        guard(error, || {
            out.write((*store).presign(key.text("the key")?, put, ttl_seconds)?.as_bytes());
            Ok(())
        })
    }
}

/// # Safety
/// Pointers are valid; `*out` receives a handle for `sbora_ffi_upload_free`. The upload may outlive the store.
#[no_mangle]
pub unsafe extern "C" fn sbora_ffi_upload_start(
    store: *const Store,
    key: Slice,
    out: *mut *mut Upload,
    error: *mut FfiError,
) -> i32 {
    unsafe {
        *out = ptr::null_mut();
        guard(error, || {
            let key = key.text("the key")?.to_owned();
            let writer = Some((*store).start_upload(&key, MIN_PART_BYTES)?);
            *out = Box::into_raw(Box::new(Upload { writer, runtime: Arc::clone(&(*store).runtime), key }));
            Ok(())
        })
    }
}

fn finished() -> Failure {
    Failure::new(Code::FailedPrecondition, "UPLOAD_FINISHED", "this upload was already completed or aborted")
}

/// Blocks while four parts are under way.
///
/// # Safety
/// Pointers are valid; one thread at a time.
#[no_mangle]
pub unsafe extern "C" fn sbora_ffi_upload_write(upload: *mut Upload, bytes: Slice, error: *mut FfiError) -> i32 {
    unsafe {
        guard(error, || {
            let upload = &mut *upload;
            let writer = upload.writer.as_mut().ok_or_else(finished)?;
            upload
                .runtime
                .block_on(async {
                    for piece in bytes.bytes().chunks(MIN_PART_BYTES as usize) {
                        writer.wait_for_capacity(CONCURRENCY).await?;
                        writer.write(piece);
                    }
                    Ok(())
                })
                .map_err(|e: object_store::Error| to_failure(&e, &format!("uploading {}", upload.key)))
        })
    }
}

/// # Safety
/// Pointers are valid; one thread at a time.
#[no_mangle]
pub unsafe extern "C" fn sbora_ffi_upload_complete(upload: *mut Upload, error: *mut FfiError) -> i32 {
    unsafe {
        guard(error, || {
            let upload = &mut *upload;
            let writer = upload.writer.take().ok_or_else(finished)?;
            finish_upload(&upload.runtime, writer, &upload.key)
        })
    }
}

/// # Safety
/// Pointers are valid; one thread at a time.
#[no_mangle]
pub unsafe extern "C" fn sbora_ffi_upload_abort(upload: *mut Upload, error: *mut FfiError) -> i32 {
    unsafe {
        guard(error, || {
            let upload = &mut *upload;
            let writer = upload.writer.take().ok_or_else(finished)?;
            upload
                .runtime
                .block_on(writer.abort())
                .map_err(|e| to_failure(&e, &format!("aborting the upload of {}", upload.key)))
        })
    }
}

/// # Safety
/// `upload` comes from `sbora_ffi_upload_start`, or is null.
#[no_mangle]
pub unsafe extern "C" fn sbora_ffi_upload_free(upload: *mut Upload) {
    if !upload.is_null() {
        drop(unsafe { Box::from_raw(upload) });
    }
}
