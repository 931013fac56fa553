//! Object stores behind C functions. Calls block; each store owns a small tokio runtime for its connections.
//! Keys are validated by the C++ side. Retries: the crate's own, as configured, and no others.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use object_store::aws::AmazonS3Builder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::signer::Signer;
use object_store::{
    BackoffConfig, Certificate, ClientOptions, GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode,
    PutOptions, PutPayload, RetryConfig, WriteMultipart,
};
use tokio::runtime::Runtime;

use crate::error::{Code, Failure, Slice};
use crate::store_error::to_failure;

/// Mirrors SboraFfiStoreOptions; empty slices mean "not set".
#[repr(C)]
#[derive(Clone, Copy)]
pub struct StoreOptions {
    /// Directory of a local store; empty for S3.
    pub directory: Slice,
    pub bucket: Slice,
    pub prefix: Slice,
    pub endpoint: Slice,
    pub region: Slice,
    pub access_key_id: Slice,
    pub secret_access_key: Slice,
    pub session_token: Slice,
    pub ca_pem: Slice,
    pub allow_http: bool,
    pub virtual_hosted_style: bool,
    pub fsync: bool,
    pub max_retries: u32,
    pub retry_timeout_ms: u64,
    pub connect_timeout_ms: u64,
    pub request_timeout_ms: u64,
}

pub struct Store {
    store: Arc<dyn ObjectStore>,
    signer: Option<Arc<dyn Signer>>,
    prefix: Path,
    pub runtime: Arc<Runtime>,
}

pub const CONCURRENCY: usize = 4;
const GET_CHUNK_BYTES: u64 = 16 << 20;
pub const MIN_PART_BYTES: u64 = 8 << 20;
/// S3 allows 10,000 parts; some room for files that are being counted.
const MAX_PARTS: u64 = 9_000;

pub fn io_failure(what: &str, error: &std::io::Error) -> Failure {
    let (code, reason) = match error.raw_os_error() {
        Some(libc_errno) => crate::store_error::errno_code(libc_errno),
        None => (Code::Internal, "FILE_IO_FAILED"),
    };
    let reason = if reason == "STORE_IO_FAILED" { "FILE_IO_FAILED" } else { reason };
    Failure::new(code, reason, format!("{what}: {error}"))
}

unsafe fn open_s3(options: &StoreOptions) -> Result<object_store::aws::AmazonS3, Failure> {
    let invalid =
        |e: object_store::Error| Failure::new(Code::InvalidArgument, "STORE_CONFIG_INVALID", format!("S3 store: {e}"));
    unsafe {
        let key_id = options.access_key_id.text("access key id")?;
        // Without given keys the crate's own chain applies: environment, web identity, container, instance.
        let mut builder = if key_id.is_empty() { AmazonS3Builder::from_env() } else { AmazonS3Builder::new() };
        if !key_id.is_empty() {
            builder = builder
                .with_access_key_id(key_id)
                .with_secret_access_key(options.secret_access_key.text("secret access key")?);
        }
        let token = options.session_token.text("session token")?;
        if !token.is_empty() {
            builder = builder.with_token(token);
        }
        let endpoint = options.endpoint.text("endpoint")?;
        if !endpoint.is_empty() {
            builder = builder.with_endpoint(endpoint);
        }
        let region = options.region.text("region")?;
        if !region.is_empty() {
            builder = builder.with_region(region);
        }
        let mut client = ClientOptions::new()
            .with_allow_http(options.allow_http)
            .with_connect_timeout(Duration::from_millis(options.connect_timeout_ms))
            .with_timeout(Duration::from_millis(options.request_timeout_ms));
        if options.ca_pem.size > 0 {
            for certificate in Certificate::from_pem_bundle(options.ca_pem.bytes()).map_err(invalid)? {
                client = client.with_root_certificate(certificate);
            }
        }
        let retry = RetryConfig {
            backoff: BackoffConfig { max_backoff: Duration::from_secs(5), ..Default::default() },
            max_retries: options.max_retries as usize,
            retry_timeout: Duration::from_millis(options.retry_timeout_ms),
        };
        builder
            .with_bucket_name(options.bucket.text("bucket")?)
            .with_virtual_hosted_style_request(options.virtual_hosted_style)
            .with_client_options(client)
            .with_retry(retry)
            .build()
            .map_err(invalid)
    }
}

/// # Safety
/// The slices of `options` are valid.
pub unsafe fn open(options: &StoreOptions) -> Result<Store, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(8)
        .thread_name("object-store")
        .enable_all()
        .build()
        .map(Arc::new)
        .map_err(|e| io_failure("starting the object store's threads", &e))?;
    unsafe {
        let prefix = Path::from(options.prefix.text("prefix")?);
        if options.directory.size > 0 {
            let directory = std::path::Path::new(OsStr::from_bytes(options.directory.bytes()));
            let store = LocalFileSystem::new_with_prefix(directory)
                .map_err(|e| to_failure(&e, &format!("opening {}", directory.display())))?
                .with_fsync(options.fsync);
            return Ok(Store { store: Arc::new(store), signer: None, prefix, runtime });
        }
        let store = Arc::new(open_s3(options)?);
        Ok(Store { store: store.clone(), signer: Some(store), prefix, runtime })
    }
}

impl Store {
    fn path(&self, key: &str) -> Path {
        self.prefix.parts().chain(Path::from(key).parts()).collect()
    }

    /// The key of a listed object, relative to the prefix.
    fn key_of(&self, meta: &ObjectMeta) -> Option<String> {
        let parts: Vec<_> = meta.location.prefix_match(&self.prefix)?.collect();
        Some(parts.iter().map(|p| p.as_ref()).collect::<Vec<_>>().join("/"))
    }

    pub fn put(&self, key: &str, bytes: &[u8], create: bool) -> Result<(), Failure> {
        let mode = if create { PutMode::Create } else { PutMode::Overwrite };
        let payload = PutPayload::from(bytes.to_vec());
        self.runtime
            .block_on(self.store.put_opts(&self.path(key), payload, PutOptions::from(mode)))
            .map_err(|e| to_failure(&e, &format!("putting {key}")))?;
        Ok(())
    }

    pub fn head(&self, key: &str) -> Result<ObjectMeta, Failure> {
        self.runtime
            .block_on(self.store.head(&self.path(key)))
            .map_err(|e| read_failure(&e, &format!("looking up {key}")))
    }

    /// The whole object, or `range` of it cut at its end.
    pub fn get(&self, key: &str, range: Option<Range<u64>>, max_bytes: u64) -> Result<Vec<u8>, Failure> {
        let context = format!("reading {key}");
        let mut options = GetOptions::default();
        options.range = range.clone().map(GetRange::Bounded);
        let result = match self.runtime.block_on(self.store.get_opts(&self.path(key), options)) {
            Ok(result) => result,
            Err(e) => {
                // Stores answer a range behind the end each in their own way: look at the size instead.
                if let (Some(range), Ok(meta)) = (&range, self.head(key)) {
                    if range.start >= meta.size {
                        return Err(Failure::new(
                            Code::OutOfRange,
                            "RANGE_OUTSIDE_OBJECT",
                            format!("{context}: offset {} is outside the object of {} bytes", range.start, meta.size),
                        ));
                    }
                }
                return Err(read_failure(&e, &context));
            }
        };
        let size = result.range.end - result.range.start;
        if size > max_bytes {
            return Err(Failure::new(
                Code::OutOfRange,
                "OBJECT_TOO_LARGE",
                format!("{context}: {size} bytes exceed the limit of {max_bytes}; read it in ranges or into a file"),
            ));
        }
        let bytes = self.runtime.block_on(result.bytes()).map_err(|e| to_failure(&e, &context))?;
        if bytes.len() as u64 != size {
            return Err(Failure::new(
                Code::DataLoss,
                "STORE_SHORT_READ",
                format!("{context}: {} of {size} bytes came", bytes.len()),
            ));
        }
        Ok(bytes.to_vec())
    }

    pub fn copy(&self, from: &str, to: &str) -> Result<(), Failure> {
        self.runtime
            .block_on(self.store.copy(&self.path(from), &self.path(to)))
            .map_err(|e| read_failure(&e, &format!("copying {from} to {to}")))
    }

    /// A missing object is fine: S3 says so anyway.
    pub fn delete(&self, key: &str) -> Result<(), Failure> {
        match self.runtime.block_on(self.store.delete(&self.path(key))) {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(e) => match read_failure(&e, &format!("deleting {key}")) {
                failure if failure.code == Code::NotFound => Ok(()),
                failure => Err(failure),
            },
        }
    }

    /// Writes the object into `file`, a few ranges at a time, all of one version.
    pub fn get_to_file(&self, key: &str, file: &mut File) -> Result<u64, Failure> {
        let context = format!("downloading {key}");
        let meta = self.head(key)?;
        let path = self.path(key);
        let ranges = (0..meta.size)
            .step_by(GET_CHUNK_BYTES as usize)
            .map(|start| start..(start + GET_CHUNK_BYTES).min(meta.size));
        let mut chunks = futures::stream::iter(ranges)
            .map(|range| {
                let mut options = GetOptions::default();
                options.if_match = meta.e_tag.clone();
                options.range = Some(GetRange::Bounded(range));
                let store = Arc::clone(&self.store);
                let path = path.clone();
                async move { store.get_opts(&path, options).await?.bytes().await }
            })
            .buffered(CONCURRENCY);
        let mut written = 0u64;
        self.runtime.block_on(async {
            while let Some(chunk) = chunks.next().await {
                let chunk = chunk.map_err(|e| to_failure(&e, &context))?;
                file.write_all(&chunk).map_err(|e| io_failure(&context, &e))?;
                written += chunk.len() as u64;
            }
            Ok(())
        })?;
        if written != meta.size {
            return Err(Failure::new(
                Code::DataLoss,
                "STORE_SHORT_READ",
                format!("{context}: {written} of {} bytes came", meta.size),
            ));
        }
        file.sync_all().map_err(|e| io_failure(&context, &e))?;
        Ok(written)
    }

    pub fn start_upload(&self, key: &str, part_bytes: u64) -> Result<WriteMultipart, Failure> {
        let upload = self
            .runtime
            .block_on(self.store.put_multipart(&self.path(key)))
            .map_err(|e| to_failure(&e, &format!("starting the upload of {key}")))?;
        Ok(WriteMultipart::new_with_chunk_size(upload, part_bytes as usize))
    }

    pub fn put_file(&self, key: &str, file: &mut File) -> Result<u64, Failure> {
        let context = format!("uploading {key}");
        let size = file.metadata().map_err(|e| io_failure(&context, &e))?.len();
        if size <= MIN_PART_BYTES {
            let mut bytes = Vec::with_capacity(size as usize);
            file.take(MIN_PART_BYTES + 1).read_to_end(&mut bytes).map_err(|e| io_failure(&context, &e))?;
            check_size(&context, bytes.len() as u64, size)?;
            self.put(key, &bytes, false)?;
            return Ok(size);
        }
        let part_bytes = (size / MAX_PARTS + 1).max(MIN_PART_BYTES);
        let mut writer = self.start_upload(key, part_bytes)?;
        match self.send_file(&mut writer, file, part_bytes, &context).and_then(|sent| check_size(&context, sent, size))
        {
            Ok(()) => finish_upload(&self.runtime, writer, key),
            Err(failure) => {
                // The first error is the one to report; what an abort leaves behind is the bucket's lifecycle rule's.
                let _ = self.runtime.block_on(writer.abort());
                Err(failure)
            }
        }?;
        Ok(size)
    }

    fn send_file(
        &self,
        writer: &mut WriteMultipart,
        file: &mut File,
        part_bytes: u64,
        context: &str,
    ) -> Result<u64, Failure> {
        let mut sent = 0u64;
        loop {
            let mut part = Vec::with_capacity(part_bytes as usize);
            Read::by_ref(file).take(part_bytes).read_to_end(&mut part).map_err(|e| io_failure(context, &e))?;
            if part.is_empty() {
                return Ok(sent);
            }
            sent += part.len() as u64;
            self.runtime
                .block_on(async {
                    writer.wait_for_capacity(CONCURRENCY).await?;
                    writer.put(part.into());
                    Ok(())
                })
                .map_err(|e: object_store::Error| to_failure(&e, context))?;
        }
    }

    /// One page as JSON: {"objects": [{key, size, etag, modified_ms}], "more": bool}.
    pub fn list(&self, prefix: &str, start_after: &str, limit: usize) -> Result<String, Failure> {
        let context = format!("listing {prefix:?}");
        let folder = self.path(prefix);
        let folder = if folder.as_ref().is_empty() { None } else { Some(folder) };
        let mut metas: Vec<ObjectMeta> = self
            .runtime
            .block_on(async {
                let stream = if start_after.is_empty() {
                    self.store.list(folder.as_ref())
                } else {
                    self.store.list_with_offset(folder.as_ref(), &self.path(start_after))
                };
                let stream = stream.try_filter(|meta| std::future::ready(is_our_name(meta.location.as_ref())));
                if self.signer.is_some() {
                    // S3 lists in key order; a directory does not, and has to be read whole.
                    stream.take(limit + 1).try_collect().await
                } else {
                    stream.try_collect().await
                }
            })
            .map_err(|e| to_failure(&e, &context))?;
        metas.sort_by(|a, b| a.location.as_ref().cmp(b.location.as_ref()));
        let more = metas.len() > limit;
        metas.truncate(limit);
        let objects: Vec<_> = metas
            .iter()
            .filter_map(|meta| {
                Some(serde_json::json!({
                    "key": self.key_of(meta)?,
                    "size": meta.size,
                    "etag": meta.e_tag.clone().unwrap_or_default(),
                    "modified_ms": meta.last_modified.timestamp_millis(),
                }))
            })
            .collect();
        Ok(serde_json::json!({"objects": objects, "more": more}).to_string())
    }

    pub fn presign(&self, key: &str, put: bool, ttl_seconds: u64) -> Result<String, Failure> {
        let Some(signer) = &self.signer else {
            return Err(Failure::new(
                Code::Unimplemented,
                "PRESIGN_UNSUPPORTED",
                "this object store has no presigned URLs",
            ));
        };
        let method = if put { http::Method::PUT } else { http::Method::GET };
        let url = self
            .runtime
            .block_on(signer.signed_url(method, &self.path(key), Duration::from_secs(ttl_seconds)))
            .map_err(|e| to_failure(&e, &format!("presigning {key}")))?;
        Ok(url.to_string())
    }
}

/// Below a file there is nothing to find: where a write meets a conflict, a read finds no object.
fn read_failure(error: &object_store::Error, context: &str) -> Failure {
    match to_failure(error, context) {
        failure if failure.reason == "OBJECT_KEY_CONFLICT" => {
            Failure::new(Code::NotFound, "OBJECT_NOT_FOUND", failure.message)
        }
        failure => failure,
    }
}

/// The characters of our keys: whatever else lies in the bucket or folder is not ours.
fn is_our_name(location: &str) -> bool {
    location.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-' | b'=' | b'/'))
}

fn check_size(context: &str, sent: u64, size: u64) -> Result<(), Failure> {
    if sent == size {
        return Ok(());
    }
    Err(Failure::new(
        Code::FailedPrecondition,
        "FILE_CHANGED",
        format!("{context}: the file had {size} bytes and gave {sent}; it must not change while it is sent"),
    ))
}

pub fn finish_upload(runtime: &Runtime, writer: WriteMultipart, key: &str) -> Result<(), Failure> {
    runtime.block_on(writer.finish()).map_err(|e| to_failure(&e, &format!("completing the upload of {key}")))?;
    Ok(())
}
