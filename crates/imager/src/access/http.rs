//! `GET /log` and `GET /status`, for whoever can reach the port: nobody is asked who he is, and nothing can be changed.

use std::convert::Infallible;
use std::fs::File;
use std::io::{self, Cursor, Read};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;

use super::files::Files;
use super::said::Status;

/// Clients at once.
pub(super) const CONNECTIONS_MAX: usize = 8;
/// How long one may stay: a log of 4 MiB needs 150 kB/s.
const STAY: Duration = Duration::from_secs(30);
/// How long it may take to say what it wants.
const HEADERS_WITHIN: Duration = Duration::from_secs(5);
/// What a request may have of headers, bytes; it needs none.
const HEADERS_BYTES: usize = 8 << 10;
/// What is sent at a time, bytes.
const PIECE_BYTES: usize = 32 << 10;

/// Serves one connection to its end.
pub(super) async fn serve(stream: TcpStream, files: Files) {
    let answer = service_fn(move |request: Request<Incoming>| {
        let answer = answer(request.method(), request.uri().path(), &files);
        async { Ok::<_, Infallible>(answer) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEADERS_WITHIN).max_buf_size(HEADERS_BYTES).keep_alive(false);
    // Who stays too long, or speaks something else, is of no interest here.
    let _ = tokio::time::timeout(STAY, builder.serve_connection(TokioIo::new(stream), answer)).await;
}

fn answer(method: &Method, path: &str, files: &Files) -> Response<Pieces> {
    let known = matches!(path, "/log" | "/status");
    let (status, kind, body) = match path {
        _ if known && method != Method::GET => (StatusCode::METHOD_NOT_ALLOWED, "text/plain", Pieces::of("only GET\n")),
        "/status" => (StatusCode::OK, "application/json", Pieces::of(Status::read(files).json())),
        "/log" => match File::open(files.log()) {
            Ok(log) => (StatusCode::OK, "text/plain; charset=utf-8", Pieces(Box::new(log))),
            Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "text/plain", Pieces::of("there is no log yet\n")),
        },
        _ => (StatusCode::NOT_FOUND, "text/plain", Pieces::of("there are /log and /status\n")),
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(ALLOW, HeaderValue::from_static("GET"));
    }
    response
}

/// A body, read piece by piece: from memory only, so that reading never waits.
struct Pieces(Box<dyn Read + Send>);

impl Pieces {
    fn of(text: impl Into<String>) -> Self {
        Self(Box::new(Cursor::new(text.into())))
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let mut piece = vec![0; PIECE_BYTES];
        Poll::Ready(match self.0.read(&mut piece) {
            Ok(0) => None,
            Ok(length) => {
                piece.truncate(length);
                Some(Ok(Frame::data(piece.into())))
            }
            Err(error) => Some(Err(error)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_two_things_can_be_had_and_only_by_get() {
        let folder = tempfile::tempdir().unwrap();
        let files = Files::at(folder.path());
        let status = |method: Method, path: &str| answer(&method, path, &files).status().as_u16();
        assert_eq!(status(Method::GET, "/log"), 503, "before there is one");
        std::fs::write(files.log(), "one\n").unwrap();
        assert_eq!((status(Method::GET, "/log"), status(Method::GET, "/status")), (200, 200));
        for path in ["/", "/log/", "/../log", "/request.json", "//status"] {
            assert_eq!(status(Method::GET, path), 404, "{path}");
        }
        for method in [Method::POST, Method::HEAD, Method::DELETE] {
            assert_eq!(status(method, "/log"), 405);
        }
    }
}
