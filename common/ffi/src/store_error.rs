//! object_store's errors as codes and reasons: the one table.

use object_store::client::{HttpError, HttpErrorKind};
use object_store::Error;

use crate::error::{Code, Failure};

const ENOENT: i32 = 2;
const EACCES: i32 = 13;
const EPERM: i32 = 1;
const ENOTDIR: i32 = 20;
const EISDIR: i32 = 21;
const ENOSPC: i32 = 28;
const EFBIG: i32 = 27;
const EROFS: i32 = 30;
const EDQUOT: i32 = 122;

pub fn errno_code(errno: i32) -> (Code, &'static str) {
    match errno {
        // EFBIG is a file size limit (ulimit, quota of some file systems).
        ENOSPC | EDQUOT | EFBIG => (Code::ResourceExhausted, "NO_SPACE"),
        EACCES | EPERM | EROFS => (Code::PermissionDenied, "STORE_PERMISSION_DENIED"),
        ENOENT => (Code::NotFound, "OBJECT_NOT_FOUND"),
        ENOTDIR | EISDIR => (Code::FailedPrecondition, "OBJECT_KEY_CONFLICT"),
        _ => (Code::Internal, "STORE_IO_FAILED"),
    }
}

/// Every error of the chain that is a `T`, outermost first.
fn find_in_chain<'a, T: std::error::Error + 'static>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a T> {
    let mut cause = Some(error);
    while let Some(e) = cause {
        if let Some(found) = e.downcast_ref::<T>() {
            return Some(found);
        }
        cause = e.source();
    }
    None
}

/// The HTTP status of a failure the crate has no variant for; its error type is private, its text is not.
fn http_status(text: &str) -> Option<u16> {
    let (_, after) = text.split_once("non-2xx status code: ")?;
    after.get(..3)?.parse().ok()
}

fn classify_generic(error: &Error, text: &str) -> (Code, &'static str) {
    if let Some(io) = find_in_chain::<std::io::Error>(error) {
        if let (Some(errno), None) = (io.raw_os_error(), find_in_chain::<HttpError>(error)) {
            return errno_code(errno);
        }
    }
    if let Some(http) = find_in_chain::<HttpError>(error) {
        return match http.kind() {
            HttpErrorKind::Timeout => (Code::Unavailable, "STORE_TIMEOUT"),
            _ => (Code::Unavailable, "STORE_UNAVAILABLE"),
        };
    }
    match http_status(text) {
        Some(507) => (Code::ResourceExhausted, "NO_SPACE"),
        Some(429) => (Code::Unavailable, "STORE_UNAVAILABLE"),
        Some(400..=499) => (Code::FailedPrecondition, "STORE_REFUSED"),
        Some(_) => (Code::Unavailable, "STORE_UNAVAILABLE"),
        None => (Code::Internal, "STORE_IO_FAILED"),
    }
}

pub fn to_failure(error: &Error, context: &str) -> Failure {
    let mut text = error.to_string();
    // Some layers print their cause and some do not; the deepest one usually holds the reason.
    let mut cause = std::error::Error::source(error);
    while let Some(e) = cause {
        let part = e.to_string();
        if !text.contains(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        cause = e.source();
    }
    let (code, reason) = match error {
        Error::NotFound { .. } if text.contains("NoSuchBucket") => (Code::FailedPrecondition, "BUCKET_NOT_FOUND"),
        Error::NotFound { .. } => (Code::NotFound, "OBJECT_NOT_FOUND"),
        Error::AlreadyExists { .. } => (Code::AlreadyExists, "OBJECT_EXISTS"),
        Error::Precondition { .. } | Error::NotModified { .. } => (Code::FailedPrecondition, "OBJECT_CHANGED"),
        Error::PermissionDenied { .. } => (Code::PermissionDenied, "STORE_PERMISSION_DENIED"),
        Error::Unauthenticated { .. } => (Code::Unauthenticated, "STORE_UNAUTHENTICATED"),
        Error::NotSupported { .. } | Error::NotImplemented { .. } => (Code::Unimplemented, "STORE_UNSUPPORTED"),
        Error::InvalidPath { .. } => (Code::InvalidArgument, "OBJECT_KEY_INVALID"),
        _ => classify_generic(error, &text),
    };
    Failure::new(code, reason, format!("{context}: {text}"))
}
