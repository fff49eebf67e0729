//! From what a person writes to a store: `s3://bucket/prefix`, `https://…`, a path.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use url::Url;

use crate::environment::Environment;
use crate::{Error, Kind, Local, Policy, Result, Store, remote};

/// What is said nowhere in the URL.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Endpoint, region, credentials, proxies.
    pub environment: Environment,
    /// How long a remote store may be silent.
    pub deadlines: Deadlines,
    /// How often parts of an upload are repeated; for all else see [`crate::Transfer`].
    pub policy: Policy,
}

/// How long a remote store may be silent before an attempt is over.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    /// Until a connection stands: name, TCP, TLS.
    pub connect: Duration,
    /// Until an answer begins. What is sent is given the time of a slow link on top.
    pub answer: Duration,
    /// Between two pieces of a body.
    pub stall: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self { connect: Duration::from_secs(5), answer: Duration::from_secs(20), stall: Duration::from_secs(15) }
    }
}

/// Opens the store at `url` with the environment of this process: `s3://bucket/prefix` (`?endpoint=…&region=…`),
/// `https://…` (read-only), `file://…` or a path.
pub fn open(url: &str) -> Result<Arc<dyn Store>> {
    open_with(url, &Options { environment: Environment::process(), ..Options::default() })
}

/// Opens the store at `url`.
pub fn open_with(url: &str, options: &Options) -> Result<Arc<dyn Store>> {
    if !url.contains("://") {
        if url.is_empty() {
            return Err(invalid(url, "it is empty"));
        }
        return Ok(Arc::new(Local::new(url)));
    }
    let parsed = Url::parse(url).map_err(|error| invalid(url, error))?;
    match parsed.scheme() {
        "s3" => Ok(Arc::new(remote::s3::open(&parsed, options)?)),
        "http" | "https" => Ok(Arc::new(remote::http::open(&parsed, options)?)),
        "file" => {
            let path = parsed.to_file_path().map_err(|()| invalid(url, "a file URL is file:///PATH"))?;
            Ok(Arc::new(Local::new(path)))
        }
        _ => Err(invalid(url, "a store is s3://, https://, file:// or a path")),
    }
}

/// Opens the store that holds the single object `url`, and says its key there: for objects without a manifest.
pub fn open_object(url: &str) -> Result<(Arc<dyn Store>, String)> {
    open_object_with(url, &Options { environment: Environment::process(), ..Options::default() })
}

/// Opens the store that holds the single object `url`, and says its key there.
pub fn open_object_with(url: &str, options: &Options) -> Result<(Arc<dyn Store>, String)> {
    let no_object = || invalid(url, "it names no object");
    if !url.contains("://") {
        let path = Path::new(url);
        let key = path.file_name().and_then(|name| name.to_str()).ok_or_else(no_object)?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        return Ok((Arc::new(Local::new(folder)), key.to_owned()));
    }
    // The last part of the path is the key; options after it belong to the store.
    let mut store = Url::parse(url).map_err(|error| invalid(url, error))?;
    let key = remote::decoded_path(&store).map_err(|why| invalid(url, why))?;
    let key = key.rsplit('/').next().filter(|key| !key.is_empty()).ok_or_else(no_object)?.to_owned();
    store.path_segments_mut().map_err(|()| no_object())?.pop();
    Ok((open_with(store.as_str(), options)?, key))
}

/// `url` is no store; what may be a secret in it is not repeated.
pub(crate) fn invalid(url: &str, why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    let shown = url.split(['?', '#']).next().unwrap_or_default();
    // A user and password stand before an @ of the host.
    let shown = match shown.split_once("://") {
        Some((scheme, rest)) => {
            let host_end = rest.find('/').unwrap_or(rest.len());
            let host_start = rest[..host_end].rfind('@').map_or(0, |at| at + 1);
            format!("{scheme}://{}", &rest[host_start..])
        }
        None => shown.to_owned(),
    };
    Error::new(Kind::Invalid, "opening", shown, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(url: &str) -> String {
        crate::error::chain(&open_with(url, &Options::default()).expect_err(url))
    }

    #[test]
    fn says_what_is_no_store() {
        assert_eq!(error(""), "opening : it is empty");
        assert_eq!(error("gs://bucket"), "opening gs://bucket: a store is s3://, https://, file:// or a path");
        assert_eq!(error("s3://"), "opening s3://: it names no bucket");
        assert_eq!(
            error("s3://b?endpiont=http://x"),
            "opening s3://b: it has the option \"endpiont\", known are endpoint and region"
        );
        assert_eq!(
            error("s3://b?endpoint=ftp://x"),
            "opening s3://b: the endpoint \"ftp://x\" is not http://… or https://…"
        );
        assert!(error("http://example.com/images").contains("KEEPSTATE_ALLOW_HTTP=1"));
        assert!(error("file://host/path").contains("file:///PATH"));
        let told = error("https://user:secret@host/?token=secret");
        assert_eq!(told, "opening https://host/: it holds a user or password, which would be shown in messages");
    }

    #[test]
    fn takes_the_object_off_its_store() {
        let split = |url: &str| {
            let (store, key) = open_object_with(url, &Options::default()).expect(url);
            (store.describe(), key)
        };
        assert_eq!(split("disk.lz4"), (".".into(), "disk.lz4".into()));
        assert_eq!(split("/disk.lz4"), ("/".into(), "disk.lz4".into()));
        assert_eq!(split("a/b.lz4"), ("a".into(), "b.lz4".into()));
        assert_eq!(split("file:///a/b.lz4"), ("/a".into(), "b.lz4".into()));
        assert_eq!(split("s3://images/a%20b/c.lz4?region=eu-west-1"), ("s3://images/a b".into(), "c.lz4".into()));
        assert_eq!(split("s3://images/c.lz4"), ("s3://images".into(), "c.lz4".into()));
        assert_eq!(split("https://example.com/a/c%20d.lz4"), ("https://example.com/a".into(), "c d.lz4".into()));
        for url in ["s3://images", "s3://images/", "https://example.com", "..", "/", ""] {
            assert_eq!(open_object_with(url, &Options::default()).expect_err(url).kind, Kind::Invalid, "{url}");
        }
    }
}
