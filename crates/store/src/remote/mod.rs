//! Stores behind a network, over `object_store`: one request a call, retries and total time-outs of its own off.

mod body;
mod client;
pub(crate) mod http;
mod names;
mod profile;
mod runtime;
pub(crate) mod s3;
mod stall;
mod tls;
mod upload;
mod wire;

use std::fmt;
use std::future::Future;
use std::io::Read;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::{BackoffConfig, GetOptions, GetRange, ObjectStore, ObjectStoreExt, RetryConfig};
use tokio::runtime::Runtime;
use url::Url;

use crate::open::Options;
use crate::{Error, Kind, Object, Policy, Result, Store, key};

/// Most objects that one listing may bring: a bucket of images has thousands.
const LISTED_MAX: usize = 1_000_000;

/// A bucket, or a read-only web server.
pub(crate) struct Remote {
    /// As a person writes it.
    name: String,
    /// Put before every key; empty, or without `/` at its ends.
    prefix: String,
    objects: Arc<dyn ObjectStore>,
    /// How large objects are written; a store without it is read-only.
    parts: Option<Arc<dyn MultipartStore>>,
    policy: Policy,
    runtime: &'static Runtime,
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Remote({})", self.name)
    }
}

impl Remote {
    fn new(
        name: String,
        prefix: String,
        objects: Arc<dyn ObjectStore>,
        parts: Option<Arc<dyn MultipartStore>>,
        options: &Options,
    ) -> Result<Self> {
        let name = if prefix.is_empty() { name } else { format!("{name}/{prefix}") };
        let runtime = runtime::start()?;
        Ok(Self { name, prefix, objects, parts, policy: options.policy.clone(), runtime })
    }

    /// Where `key` stands in the bucket.
    fn path(&self, doing: &'static str, key: &str) -> Result<Path> {
        key::check(doing, key)?;
        let full = if self.prefix.is_empty() { key.to_owned() } else { format!("{}/{key}", self.prefix) };
        Path::parse(full).map_err(|error| Error::new(Kind::Invalid, doing, self.object(key), error))
    }

    fn object(&self, key: &str) -> String {
        format!("{}/{key}", self.name)
    }

    /// Waits for `future` and says what its failure means. It has deadlines of its own, see [`wire`].
    fn wait<T>(
        &self,
        doing: &'static str,
        key: &str,
        future: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T> {
        self.runtime.block_on(future).map_err(|error| classify(doing, self.object(key), error))
    }

    fn writable(&self, doing: &'static str, key: &str) -> Result<&Arc<dyn MultipartStore>> {
        let read_only = || Error::new(Kind::Invalid, doing, self.object(key), "a store behind http is read-only");
        self.parts.as_ref().ok_or_else(read_only)
    }
}

impl Store for Remote {
    fn describe(&self) -> String {
        self.name.clone()
    }

    fn head(&self, key: &str) -> Result<Object> {
        let path = self.path("looking for", key)?;
        let size = match self.wait("looking for", key, self.objects.head(&path)) {
            // A URL that was signed for GET allows nothing else, and some servers know nothing else: the answer to a
            // range says the whole size too.
            Err(error) if self.parts.is_none() && matches!(error.kind, Kind::Denied | Kind::Invalid) => {
                let options = GetOptions { range: Some(GetRange::Bounded(0..1)), ..GetOptions::default() };
                self.wait("looking for", key, self.objects.get_opts(&path, options))?.meta.size
            }
            meta => meta?.size,
        };
        Ok(Object { key: key.to_owned(), size })
    }

    fn read(&self, key: &str, range: Range<u64>) -> Result<Box<dyn Read + Send>> {
        self.read_version(key, range, &mut None)
    }

    fn read_version(&self, key: &str, range: Range<u64>, version: &mut Option<String>) -> Result<Box<dyn Read + Send>> {
        let path = self.path("reading", key)?;
        if range.is_empty() {
            return Ok(Box::new(std::io::empty()));
        }
        let options = GetOptions {
            range: Some(GetRange::Bounded(range.clone())),
            if_match: version.clone(),
            ..GetOptions::default()
        };
        let answer = self.wait("reading", key, self.objects.get_opts(&path, options))?;
        if answer.range != range {
            let why = format!("bytes {range:?} were asked for, the answer is of {:?}", answer.range);
            return Err(Error::new(Kind::Wrong, "reading", self.object(key), why));
        }
        // Only a strong tag can be asked for again (RFC 9110, 13.1.1).
        *version = answer.meta.e_tag.clone().filter(|tag| !tag.starts_with("W/"));
        Ok(Box::new(body::Body::new(answer.into_stream(), self.runtime, self.object(key))))
    }

    fn put(&self, key: &str, bytes: &[u8]) -> Result<()> {
        let path = self.path("writing", key)?;
        self.writable("writing", key)?;
        self.wait("writing", key, self.objects.put(&path, bytes.to_vec().into())).map(drop)
    }

    fn upload(&self, key: &str, size: u64, body: &mut (dyn Read + Send), progress: &dyn Fn(u64)) -> Result<()> {
        upload::upload(self, key, size, body, progress)
    }

    fn list(&self, prefix: &str) -> Result<Vec<Object>> {
        self.writable("listing", prefix)?;
        // Buckets are asked by whole parts; a prefix of the text is told apart here.
        let folder = prefix.rfind('/').map_or("", |end| &prefix[..end]);
        let path = match (folder.is_empty(), self.prefix.is_empty()) {
            (true, true) => None,
            (true, false) => Some(Path::parse(&self.prefix)),
            (false, _) => Some(Ok(self.path("listing", folder)?)),
        };
        let path =
            path.transpose().map_err(|error| Error::new(Kind::Invalid, "listing", self.object(prefix), error))?;
        let skip = if self.prefix.is_empty() { 0 } else { self.prefix.len() + 1 };
        let mut objects = Vec::new();
        self.wait("listing", prefix, async {
            let mut found = self.objects.list(path.as_ref());
            while let Some(meta) = found.next().await {
                let meta = meta?;
                let Some(key) = meta.location.as_ref().get(skip..) else { continue };
                if key.starts_with(prefix) && key::check("listing", key).is_ok() {
                    objects.push(Object { key: key.to_owned(), size: meta.size });
                }
                if objects.len() > LISTED_MAX {
                    break;
                }
            }
            Ok(())
        })?;
        if objects.len() > LISTED_MAX {
            let why = format!("there are more than {LISTED_MAX} objects");
            return Err(Error::new(Kind::Invalid, "listing", self.object(prefix), why));
        }
        objects.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(objects)
    }

    fn delete(&self, key: &str) -> Result<()> {
        let path = self.path("deleting", key)?;
        self.writable("deleting", key)?;
        match self.wait("deleting", key, self.objects.delete(&path)) {
            Err(error) if error.kind == Kind::NotFound => Ok(()),
            result => result,
        }
    }
}

/// What a failure means: as [`wire::Answer`] or one of our own errors says, if one lies beneath it.
fn classify(doing: &'static str, object: String, error: object_store::Error) -> Error {
    let kind = match &error {
        object_store::Error::NotFound { .. } => Kind::NotFound,
        object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => Kind::Denied,
        object_store::Error::Precondition { .. } => Kind::Wrong,
        object_store::Error::NotSupported { .. }
        | object_store::Error::NotImplemented { .. }
        | object_store::Error::InvalidPath { .. }
        | object_store::Error::UnknownConfigurationKey { .. } => Kind::Invalid,
        // An answer that cannot be understood, such as half an XML document: another one may be better.
        _ => Kind::Transient,
    };
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(next) = cause {
        if let Some(answer) = next.downcast_ref::<wire::Answer>() {
            return Error::new(answer.kind, doing, object, answer.text.clone());
        }
        if let Some(own) = next.downcast_ref::<Error>() {
            return Error::new(own.kind, doing, object, crate::error::chain(own));
        }
        cause = next.source();
    }
    Error::new(kind, doing, object, error)
}

/// Never: the budget is ours.
fn no_retry() -> RetryConfig {
    RetryConfig { backoff: BackoffConfig::default(), max_retries: 0, retry_timeout: Duration::ZERO }
}

/// A URL's path as text, without `/` at its ends.
pub(crate) fn decoded_path(url: &Url) -> Result<String, String> {
    let mut bytes = Vec::new();
    let mut rest = url.path().trim_matches('/').bytes();
    while let Some(byte) = rest.next() {
        let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
        bytes.push(match byte {
            b'%' => match (digit(rest.next()), digit(rest.next())) {
                (Some(high), Some(low)) => (high * 16 + low) as u8,
                _ => return Err("it holds a % that no two hexadecimal digits follow".to_owned()),
            },
            byte => byte,
        });
    }
    String::from_utf8(bytes).map_err(|_| "its path is no text".to_owned())
}
