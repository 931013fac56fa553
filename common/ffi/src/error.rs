//! Errors and panics at the C border. No panic leaves this crate: every exported function runs inside `guard`.

use std::panic::{catch_unwind, AssertUnwindSafe};

/// Numbers of gRPC's canonical codes, as in common/status.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Code {
    InvalidArgument = 3,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    OutOfRange = 11,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    DataLoss = 15,
    Unauthenticated = 16,
}

/// An error on its way to C++.
#[derive(Debug)]
pub struct Failure {
    pub code: Code,
    pub reason: &'static str,
    pub message: String,
}

impl Failure {
    pub fn new(code: Code, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into() }
    }
}

const REASON_BYTES: usize = 64;
const MESSAGE_BYTES: usize = 2048;

/// Mirrors SboraFfiError in sbora_ffi.h: fixed size, so that nobody has to free it.
#[repr(C)]
pub struct FfiError {
    pub code: i32,
    pub reason: [u8; REASON_BYTES],
    pub message: [u8; MESSAGE_BYTES],
}

/// Copies as much of `text` as fits with a final NUL, cut at a character; NULs inside become spaces.
fn copy_text(text: &str, out: &mut [u8]) {
    let mut end = text.len().min(out.len() - 1);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    for (to, from) in out.iter_mut().zip(text.as_bytes()[..end].iter()) {
        *to = if *from == 0 { b' ' } else { *from };
    }
    out[end] = 0;
}

/// Runs `body`; a failure or a panic is written to `error` and its code returned, 0 otherwise.
///
/// # Safety
/// `error` points to a writable FfiError.
pub unsafe fn guard(error: *mut FfiError, body: impl FnOnce() -> Result<(), Failure>) -> i32 {
    let failure = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => return 0,
        Ok(Err(failure)) => failure,
        Err(panic) => {
            let text = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("no message");
            Failure::new(Code::Internal, "FFI_PANIC", format!("internal error in the Rust library: {text}"))
        }
    };
    let out = unsafe { &mut *error };
    out.code = failure.code as i32;
    copy_text(failure.reason, &mut out.reason);
    copy_text(&failure.message, &mut out.message);
    out.code
}

/// Mirrors SboraFfiSlice: borrowed bytes of the caller, valid during the call.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Slice {
    pub data: *const u8,
    pub size: usize,
}

impl Slice {
    /// # Safety
    /// The caller's bytes stay valid and unchanged during the call.
    pub unsafe fn bytes<'a>(self) -> &'a [u8] {
        if self.size == 0 {
            &[]
        } else {
            unsafe { std::slice::from_raw_parts(self.data, self.size) }
        }
    }

    /// # Safety
    /// As for `bytes`.
    pub unsafe fn text<'a>(self, what: &str) -> Result<&'a str, Failure> {
        std::str::from_utf8(unsafe { self.bytes() }).map_err(|e| {
            Failure::new(
                Code::InvalidArgument,
                "INVALID_UTF8",
                format!("{what} is not valid UTF-8 at byte {}", e.valid_up_to()),
            )
        })
    }
}

/// Mirrors SboraFfiSink: takes one result; it must not unwind.
pub type Sink = extern "C" fn(context: *mut std::ffi::c_void, data: *const u8, size: usize);

/// Where a function writes its result.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Output {
    pub sink: Sink,
    pub context: *mut std::ffi::c_void,
}

impl Output {
    pub fn write(self, bytes: &[u8]) {
        (self.sink)(self.context, bytes.as_ptr(), bytes.len());
    }

    pub fn write_ids(self, ids: &[u32]) {
        (self.sink)(self.context, ids.as_ptr().cast(), std::mem::size_of_val(ids));
    }
}
