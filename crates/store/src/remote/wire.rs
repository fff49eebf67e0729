//! The wire beneath `object_store`: its HTTP client, with our deadlines, our view of what an answer means, and no retry.
//!
//! Every refusal becomes an [`Answer`], which travels up through `object_store`'s errors and is found again by
//! [`classify`](super::classify): what to do about a failure is decided here, from status and code, not from texts.

use std::collections::BTreeSet;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody, HttpService,
};
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, HeaderMap, RANGE};
use reqwest::{Client, StatusCode};
use tokio::time::timeout;

use super::stall::Stalling;
use crate::Kind;
use crate::open::Deadlines;

/// A link slower than this cannot send a part within the answer's deadline, bytes a second.
const SENDING_RATE_MIN: u64 = 64 << 10;
/// Most that is read of an answer that says no.
const REFUSAL_BYTES_MAX: usize = 64 << 10;
/// The metadata service is one hop away.
const METADATA_ANSWER: Duration = Duration::from_secs(2);

/// What a server's answer, or its silence, means.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub(super) struct Answer {
    pub(super) kind: Kind,
    pub(super) text: String,
}

/// Speaks HTTP for `object_store`.
#[derive(Clone, Debug)]
pub(super) struct Wire {
    client: Client,
    deadlines: Deadlines,
    /// Hosts that give credentials, not objects.
    metadata: Arc<BTreeSet<String>>,
    metadata_answered: Arc<AtomicBool>,
}

impl Wire {
    pub(super) fn new(client: Client, deadlines: Deadlines, metadata: BTreeSet<String>) -> Self {
        Self { client, deadlines, metadata: Arc::new(metadata), metadata_answered: Arc::default() }
    }

    async fn ask(&self, request: HttpRequest) -> Result<HttpResponse, Answer> {
        let host = request.uri().authority().map(ToString::to_string).unwrap_or_default();
        let is_metadata = self.metadata.contains(&host);
        let asked = asked_range(request.headers());
        let sending = Duration::from_secs(request.body().content_length() as u64 / SENDING_RATE_MIN);
        let deadline =
            if is_metadata { METADATA_ANSWER.min(self.deadlines.answer) } else { self.deadlines.answer + sending };
        let answer = match timeout(deadline, self.client.call(request)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) if is_stranger(&error) => {
                let text = format!("{host}: {}", crate::error::chain(root(&error)));
                return Err(Answer { kind: Kind::Denied, text });
            }
            Ok(Err(error)) => return Err(self.silence(is_metadata, &host, &crate::error::chain(root(&error)))),
            Err(_) => return Err(self.silence(is_metadata, &host, &format!("no answer within {deadline:?}"))),
        };
        if is_metadata {
            self.metadata_answered.store(true, Ordering::Relaxed);
        }
        let (parts, body) = answer.into_parts();
        let body = HttpResponseBody::new(Stalling::new(body, self.deadlines.stall));
        if !parts.status.is_success() {
            let said = beginning(body).await;
            let answer = refusal(parts.status, &parts.headers, &said);
            // A machine without a role answers 404: that is no missing object.
            let kind = if is_metadata && answer.kind.is_final() { Kind::Denied } else { answer.kind };
            return Err(if is_metadata { no_credentials(kind, &host, &answer.text) } else { answer });
        }
        if let Some(asked) = asked {
            check_range(&asked, parts.status, &parts.headers)?;
        }
        Ok(HttpResponse::from_parts(parts, body))
    }

    /// Nobody answered. A metadata service that never did is most likely not there: saying so beats trying for a minute.
    fn silence(&self, is_metadata: bool, host: &str, why: &str) -> Answer {
        if !is_metadata {
            return Answer { kind: Kind::Transient, text: format!("{host}: {why}") };
        }
        let kind = if self.metadata_answered.load(Ordering::Relaxed) { Kind::Transient } else { Kind::Denied };
        no_credentials(kind, host, why)
    }
}

#[async_trait]
impl HttpService for Wire {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        self.ask(request).await.map_err(|answer| HttpError::new(HttpErrorKind::Unknown, answer))
    }
}

impl HttpConnector for Wire {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

fn no_credentials(kind: Kind, host: &str, why: &str) -> Answer {
    let text = format!(
        "no credentials: neither the environment nor a profile has any, and the metadata service at {host} gave none ({why})"
    );
    Answer { kind, text }
}

/// `HttpError` repeats its source in its own text.
fn root(error: &HttpError) -> &(dyn std::error::Error + 'static) {
    std::error::Error::source(error).unwrap_or(error)
}

/// Whether the server could not prove who it is: another attempt would not either.
fn is_stranger(error: &HttpError) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(next) = cause {
        // What lies inside an `io::Error` is not its source.
        let inside = next.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if let Some(rustls::Error::InvalidCertificate(_)) = inside.and_then(|inside| inside.downcast_ref()) {
            return true;
        }
        cause = match inside {
            Some(inside) => Some(inside),
            None => next.source(),
        };
    }
    false
}

/// The range of a `Range: bytes=FIRST-LAST` header.
fn asked_range(headers: &HeaderMap) -> Option<Range<u64>> {
    let (first, last) = headers.get(RANGE)?.to_str().ok()?.strip_prefix("bytes=")?.split_once('-')?;
    Some(first.parse().ok()?..last.parse::<u64>().ok()?.checked_add(1)?)
}

/// The answer must be of exactly the range asked for: what a proxy or a broken server sends else is not believed.
fn check_range(asked: &Range<u64>, status: StatusCode, headers: &HeaderMap) -> Result<(), Answer> {
    let wrong = |text: String| Err(Answer { kind: Kind::Wrong, text });
    let asked_text = format!("bytes {}-{}", asked.start, asked.end - 1);
    if status != StatusCode::PARTIAL_CONTENT {
        return wrong(format!("{asked_text} were asked for, the answer is {status}, not a part"));
    }
    let range = headers.get(CONTENT_RANGE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if range.split('/').next().map(str::trim) != Some(asked_text.as_str()) {
        return wrong(format!("{asked_text} were asked for, the answer's Content-Range is {range:?}"));
    }
    match headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()) {
        None => wrong(format!("{asked_text} were asked for, the answer does not say its length")),
        Some(length) if length.parse() != Ok(asked.end - asked.start) => {
            wrong(format!("{asked_text} were asked for, the answer has {length} bytes"))
        }
        Some(_) => Ok(()),
    }
}

/// The first bytes of a body, as text.
async fn beginning(body: HttpResponseBody) -> String {
    use futures_util::StreamExt;

    let mut stream = body.bytes_stream();
    let mut bytes = Vec::new();
    while let Some(Ok(piece)) = stream.next().await {
        bytes.extend_from_slice(&piece);
        if bytes.len() >= REFUSAL_BYTES_MAX {
            break;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What a status other than success means, with the code and message that S3 puts into the body.
fn refusal(status: StatusCode, headers: &HeaderMap, body: &str) -> Answer {
    let (code, message) = (element(body, "Code"), element(body, "Message"));
    let kind = match (status.as_u16(), code.unwrap_or_default()) {
        (401 | 403 | 407, _)
        | (400, "ExpiredToken" | "InvalidToken" | "InvalidAccessKeyId" | "TokenRefreshRequired") => Kind::Denied,
        (408 | 409 | 425 | 500 | 502 | 504.., _)
        | (400, "RequestTimeout" | "BadDigest" | "IncompleteBody" | "XAmzContentSHA256Mismatch") => Kind::Transient,
        (404 | 410, _) => Kind::NotFound,
        (412 | 416, _) => Kind::Wrong,
        (429 | 503, _) => Kind::Throttled,
        _ => Kind::Invalid,
    };
    let mut text = status.to_string();
    match (code, message) {
        (Some(code), Some(message)) => text = format!("{text} ({code}: {message})"),
        (Some(code), None) => text = format!("{text} ({code})"),
        _ => {}
    }
    if status == StatusCode::PRECONDITION_FAILED {
        text.push_str(": the object was replaced while it was being read");
    }
    // A bucket of another region redirects without saying where to.
    if let Some(region) = headers.get("x-amz-bucket-region").and_then(|value| value.to_str().ok())
        && (status.is_redirection() || status == StatusCode::BAD_REQUEST)
    {
        text = format!("{text}: the bucket is in {region}, set AWS_REGION={region}");
    }
    Answer { kind, text }
}

/// The text of an XML element that holds nothing else. Enough for S3's error documents, and never more than a hint.
fn element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let rest = &xml[xml.find(&format!("<{name}>"))? + name.len() + 2..];
    let text = rest[..rest.find("</")?].trim();
    (!text.is_empty() && text.len() <= 500).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_means_something() {
        let cases = [
            (404, "<Error><Code>NoSuchKey</Code></Error>", Kind::NotFound),
            (403, "", Kind::Denied),
            (401, "", Kind::Denied),
            (400, "<Error><Code>ExpiredToken</Code></Error>", Kind::Denied),
            (400, "<Error><Code>RequestTimeout</Code></Error>", Kind::Transient),
            (400, "<Error><Code>BadDigest</Code></Error>", Kind::Transient),
            (400, "<Error><Code>InvalidBucketName</Code></Error>", Kind::Invalid),
            (301, "", Kind::Invalid),
            (405, "", Kind::Invalid),
            (408, "", Kind::Transient),
            (409, "", Kind::Transient),
            (412, "", Kind::Wrong),
            (416, "", Kind::Wrong),
            (429, "", Kind::Throttled),
            (500, "", Kind::Transient),
            (501, "", Kind::Invalid),
            (502, "<html>", Kind::Transient),
            (503, "<Error><Code>SlowDown</Code></Error>", Kind::Throttled),
            (504, "", Kind::Transient),
            (599, "", Kind::Transient),
        ];
        for (status, body, kind) in cases {
            let status = StatusCode::from_u16(status).expect("a status");
            assert_eq!(refusal(status, &HeaderMap::new(), body).kind, kind, "{status} {body}");
        }
    }

    #[test]
    fn a_bucket_of_another_region_is_named() {
        let headers = [("x-amz-bucket-region", "eu-west-1")];
        let headers =
            headers.into_iter().map(|(n, v)| (n.parse().expect("a name"), v.parse().expect("a value"))).collect();
        let answer =
            refusal(StatusCode::MOVED_PERMANENTLY, &headers, "<Code>PermanentRedirect</Code><Message> no </Message>");
        assert_eq!(
            answer.text,
            "301 Moved Permanently (PermanentRedirect: no): the bucket is in eu-west-1, set AWS_REGION=eu-west-1"
        );
    }

    #[test]
    fn only_the_range_asked_for_is_believed() {
        let check = |status: u16, range: &str, length: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_RANGE, range.parse().expect("a value"));
            if let Some(length) = length {
                headers.insert(CONTENT_LENGTH, length.parse().expect("a value"));
            }
            check_range(&(10..20), StatusCode::from_u16(status).expect("a status"), &headers)
                .map_err(|answer| answer.kind)
        };
        assert_eq!(check(206, "bytes 10-19/100", Some("10")), Ok(()));
        assert_eq!(check(206, "bytes 10-19/*", Some("10")), Ok(()));
        assert_eq!(check(206, "bytes 10-19/*", None), Err(Kind::Wrong));
        assert_eq!(check(200, "bytes 10-19/100", Some("10")), Err(Kind::Wrong));
        assert_eq!(check(206, "bytes 10-18/100", Some("9")), Err(Kind::Wrong));
        assert_eq!(check(206, "bytes 0-9/100", Some("10")), Err(Kind::Wrong));
        assert_eq!(check(206, "bytes 10-19/100", Some("11")), Err(Kind::Wrong));
        assert_eq!(check(206, "", None), Err(Kind::Wrong));
    }

    #[test]
    fn what_was_asked_is_read_from_the_request() {
        let asked = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RANGE, text.parse().expect("a value"));
            asked_range(&headers)
        };
        assert_eq!(asked("bytes=0-0"), Some(0..1));
        assert_eq!(asked("bytes=5-9"), Some(5..10));
        assert_eq!(asked("bytes=5-"), None);
        assert_eq!(asked("bytes=5-18446744073709551615"), None);
        assert_eq!(asked_range(&HeaderMap::new()), None);
    }
}
