//! Exports in a bucket of an object store that speaks the S3 protocol.
//!
//! Touches the objects under the prefix. Credentials, region and endpoint come from the environment (`AWS_…`) or from the role
//! of the machine. Guarantees: a manifest is replaced only by a request with a condition (`If-Match`, or `If-None-Match` for the
//! first), so that of several exporters one wins, and the others start over. When the outcome of such a request is unknown, the
//! manifest is read again: the request succeeded if the manifest has its bytes.
//!
//! A store that ignores conditions cannot be told from one that honours them. `docs/export.md` says which stores were tried.

use std::time::Duration;

use futures::StreamExt as _;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::path::Path as ObjectPath;
use object_store::{
    BackoffConfig, Error as StoreError, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt as _,
    PutMode, PutOptions, PutPayload, RetryConfig, UpdateVersion,
};

use super::error::ExportError;
use super::layout::HomeId;
use super::spool::FileSpool;
use super::store::{
    ExportStore, FRESH_AGE, ManifestReplaced, PlaceStillHeld, Put, StoredFile, StoredManifest,
};
use crate::interrupt::Interrupt;

/// A larger file is uploaded in parts of this size.
const PART_BYTES: usize = 16 << 20;
/// How often a request is repeated after an error of the server or of the connection, and for how long.
const RETRIES_MAX: usize = 8;
const RETRY_TIMEOUT: Duration = Duration::from_secs(90);
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// How often a conditional request with an unknown outcome is looked at and repeated.
const REPLACE_ATTEMPTS_MAX: u32 = 5;
/// The time between two looks at the interrupt during a request.
const LOOK: Duration = Duration::from_millis(50);

/// A bucket and a prefix.
pub(super) struct ExportBucket {
    store: AmazonS3,
    bucket: String,
    prefix: String,
    runtime: tokio::runtime::Runtime,
    interrupt: Interrupt,
}

impl ExportBucket {
    pub(super) fn open(bucket: &str, prefix: &str, interrupt: Interrupt) -> Result<Self, ExportError> {
        // It fails when the program has chosen a provider before, which then serves.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let failed = |reason: String| ExportError::ObjectStore {
            doing: "open",
            place: format!("s3://{bucket}"),
            reason,
            remedy: "check the variables AWS_ENDPOINT, AWS_REGION and AWS_ALLOW_HTTP",
        };
        let retry = RetryConfig {
            backoff: BackoffConfig { init_backoff: BACKOFF_FIRST, max_backoff: BACKOFF_MAX, base: 2.0 },
            max_retries: RETRIES_MAX,
            retry_timeout: RETRY_TIMEOUT,
        };
        let store = AmazonS3Builder::from_env()
            .with_bucket_name(bucket)
            .with_retry(retry)
            .build()
            .map_err(|error| failed(chain(&error)))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| failed(error.to_string()))?;
        Ok(Self { store, bucket: bucket.to_owned(), prefix: prefix.to_owned(), runtime, interrupt })
    }

    /// The key of a path. Prefixes and paths have only characters that keys keep as they are.
    fn key(&self, path: &str) -> ObjectPath {
        ObjectPath::from(if self.prefix.is_empty() {
            path.to_owned()
        } else {
            format!("{}/{path}", self.prefix)
        })
    }

    /// Waits for a request, or for the interrupt.
    fn wait<T>(
        &self,
        doing: &'static str,
        path: &str,
        request: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, ExportError> {
        self.wait_raw(request)?.map_err(|error| self.failed(doing, path, &error))
    }

    fn wait_raw<T>(
        &self,
        request: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<Result<T, StoreError>, ExportError> {
        self.runtime.block_on(async {
            tokio::pin!(request);
            loop {
                match tokio::time::timeout(LOOK, &mut request).await {
                    Ok(outcome) => return Ok(outcome),
                    Err(_) if self.interrupt.is_requested() => return Err(ExportError::Interrupted),
                    Err(_) => {}
                }
            }
        })
    }

    fn failed(&self, doing: &'static str, path: &str, error: &StoreError) -> ExportError {
        let reason = chain(error);
        let remedy = match error {
            StoreError::NotFound { .. } => "check the name of the bucket, and AWS_ENDPOINT",
            _ if reason.contains("NoSuchBucket") => "check the name of the bucket, and AWS_ENDPOINT",
            StoreError::PermissionDenied { .. } | StoreError::Unauthenticated { .. } => {
                "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the role of this machine, and what they may do in the bucket"
            }
            _ if reason.contains("scheme is not allowed") => {
                "set AWS_ALLOW_HTTP=true if the server may be reached without TLS, or name an https:// server in AWS_ENDPOINT"
            }
            _ => "check AWS_ENDPOINT and the network, and run again; the next run goes on",
        };
        ExportError::ObjectStore { doing, place: self.shown(path), reason, remedy }
    }

    fn head(&self, path: &str) -> Result<Option<ObjectMeta>, ExportError> {
        match self.wait_raw(self.store.head(&self.key(path)))? {
            Err(StoreError::NotFound { .. }) => Ok(None),
            outcome => outcome.map(Some).map_err(|error| self.failed("look at", path, &error)),
        }
    }

    /// Uploads a file in parts. A failed upload is aborted; what an interrupted one leaves, a rule of the bucket removes.
    fn put_in_parts(&self, path: &str, content: &FileSpool<'_>) -> Result<(), ExportError> {
        let key = self.key(path);
        let mut upload = self.wait("begin to upload", path, self.store.put_multipart(&key))?;
        let uploaded = self.put_parts(&mut *upload, path, content);
        if let Err(error) = uploaded {
            // The first error is the one to report.
            let _ = self.wait_raw(upload.abort());
            return Err(error);
        }
        self.wait("finish to upload", path, upload.complete()).map(|_| ())
    }

    fn put_parts(
        &self,
        upload: &mut dyn MultipartUpload,
        path: &str,
        content: &FileSpool<'_>,
    ) -> Result<(), ExportError> {
        let mut part = Vec::with_capacity(PART_BYTES);
        content.pieces(|mut piece| {
            while part.len() + piece.len() >= PART_BYTES {
                let (first, rest) = piece.split_at(PART_BYTES - part.len());
                part.extend_from_slice(first);
                piece = rest;
                let full = std::mem::replace(&mut part, Vec::with_capacity(PART_BYTES));
                self.wait("upload a part of", path, upload.put_part(full.into()))?;
            }
            part.extend_from_slice(piece);
            Ok(())
        })?;
        if !part.is_empty() {
            self.wait("upload a part of", path, upload.put_part(part.into()))?;
        }
        Ok(())
    }
}

/// An error with its causes, each once.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

fn age_of(meta: &ObjectMeta) -> Duration {
    let now_ms = jiff::Timestamp::now().as_millisecond();
    Duration::from_millis(u64::try_from(now_ms - meta.last_modified.timestamp_millis()).unwrap_or(0))
}

impl ExportStore for ExportBucket {
    fn shown(&self, path: &str) -> String {
        format!("s3://{}/{}", self.bucket, self.key(path))
    }

    fn exclusively(
        &self,
        _: &HomeId,
        work: &mut dyn FnMut(PlaceStillHeld<'_>) -> Result<(), ExportError>,
    ) -> Result<(), ExportError> {
        // A bucket has no locks; the condition of the manifest decides between exporters.
        work(&|| Ok(()))
    }

    fn put(&self, path: &str, content: &FileSpool<'_>) -> Result<Put, ExportError> {
        let found = self.head(path)?;
        if found.is_some_and(|found| found.size == content.len_bytes() && age_of(&found) < FRESH_AGE) {
            return Ok(Put::WasThere);
        }
        if content.len_bytes() > PART_BYTES as u64 {
            self.put_in_parts(path, content)?;
            return Ok(Put::Written);
        }
        let mut bytes = Vec::with_capacity(content.len_bytes() as usize);
        content.pieces(|piece| {
            bytes.extend_from_slice(piece);
            Ok(())
        })?;
        self.wait("write", path, self.store.put(&self.key(path), bytes.into()))?;
        Ok(Put::Written)
    }

    fn read(&self, path: &str) -> Result<Option<StoredManifest>, ExportError> {
        let key = self.key(path);
        let get = async {
            let found = self.store.get(&key).await?;
            let version = found.meta.e_tag.clone();
            Ok((found.bytes().await?, version))
        };
        let (bytes, version) = match self.wait_raw(get)? {
            Err(StoreError::NotFound { .. }) => return Ok(None),
            outcome => outcome.map_err(|error| self.failed("read", path, &error))?,
        };
        let Some(version) = version else {
            return Err(ExportError::ObjectStore {
                doing: "read",
                place: self.shown(path),
                reason: "the store gives no ETag".to_owned(),
                remedy: "use a store with ETags and conditional requests",
            });
        };
        Ok(Some(StoredManifest { bytes: bytes.to_vec(), version }))
    }

    fn replace(
        &self,
        path: &str,
        bytes: &[u8],
        expected: Option<&str>,
    ) -> Result<ManifestReplaced, ExportError> {
        let payload = PutPayload::from(bytes.to_vec());
        let mode = match expected {
            Some(version) => {
                PutMode::Update(UpdateVersion { e_tag: Some(version.to_owned()), version: None })
            }
            None => PutMode::Create,
        };
        let mut attempt = 1;
        loop {
            let options = PutOptions { mode: mode.clone(), ..PutOptions::default() };
            let error = match self.wait_raw(self.store.put_opts(&self.key(path), payload.clone(), options))? {
                Ok(_) => return Ok(ManifestReplaced::Yes),
                Err(error) => error,
            };
            let is_refused =
                matches!(error, StoreError::Precondition { .. } | StoreError::AlreadyExists { .. });
            if !is_refused && is_final(&error) {
                return Err(self.failed("replace", path, &error));
            }
            // An earlier request may have succeeded although its answer was lost; then this one finds its own bytes.
            let found = self.read(path)?;
            if found.as_ref().is_some_and(|found| found.bytes == bytes) {
                return Ok(ManifestReplaced::Yes);
            }
            if found.map(|found| found.version).as_deref() != expected {
                return Ok(ManifestReplaced::No);
            }
            if attempt == REPLACE_ATTEMPTS_MAX {
                return Err(self.failed("replace", path, &error));
            }
            attempt += 1;
        }
    }

    fn list(
        &self,
        directory: &str,
        each: &mut dyn FnMut(StoredFile) -> Result<(), ExportError>,
    ) -> Result<(), ExportError> {
        let root = self.key("");
        let directory_key = self.key(directory);
        let mut listing = self.store.list(Some(&directory_key));
        while let Some(found) = self.wait("list", directory, async { listing.next().await.transpose() })? {
            let Some(inside) = found.location.prefix_match(&root) else { continue };
            let parts: Vec<_> = inside.collect();
            let path = parts.iter().map(|part| part.as_ref()).collect::<Vec<_>>().join("/");
            each(StoredFile { path, len_bytes: found.size, age: age_of(&found) })?;
        }
        Ok(())
    }

    fn age(&self, path: &str) -> Result<Option<Duration>, ExportError> {
        Ok(self.head(path)?.map(|found| age_of(&found)))
    }

    fn delete(&self, path: &str) -> Result<(), ExportError> {
        match self.wait_raw(self.store.delete(&self.key(path)))? {
            Err(StoreError::NotFound { .. }) => Ok(()),
            outcome => outcome.map_err(|error| self.failed("delete", path, &error)),
        }
    }
}

/// Whether repeating a request cannot help.
fn is_final(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::NotFound { .. }
            | StoreError::PermissionDenied { .. }
            | StoreError::Unauthenticated { .. }
            | StoreError::NotSupported { .. }
            | StoreError::NotImplemented { .. }
            | StoreError::InvalidPath { .. }
    )
}
