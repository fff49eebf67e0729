//! One request, as far as a web server of files needs it.

use std::io::{self, BufRead, ErrorKind, Read};
use std::ops::Range;

/// A head larger than this is none.
const HEAD_MAX: u64 = 16 << 10;

/// A request's head.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) method: String,
    /// Without what follows a `?`, and with `%20` and the like as what they stand for.
    pub(super) path: String,
    pub(super) range: Option<String>,
}

impl Request {
    /// Reads a head; none if the client hung up instead.
    pub(super) fn read(stream: &mut impl BufRead) -> io::Result<Option<Self>> {
        let mut stream = stream.take(HEAD_MAX);
        let mut line = String::new();
        if stream.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let mut words = line.split_whitespace();
        let (Some(method), Some(target)) = (words.next(), words.next()) else {
            return Err(ErrorKind::InvalidData.into());
        };
        let path = target.split('?').next().unwrap_or(target);
        let mut request = Self { method: method.into(), path: plain(path), range: None };
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line)? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            match line.trim_end().split_once(':') {
                Some((name, value)) if name.eq_ignore_ascii_case("range") => request.range = Some(value.trim().into()),
                None if line.trim().is_empty() => return Ok(Some(request)),
                _ => {}
            }
        }
    }
}

/// A path with `%20` and the like as what they stand for.
fn plain(path: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = path.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let code = after.get(..2).filter(|_| first == b'%').and_then(|code| std::str::from_utf8(code).ok());
        if let Some(byte) = code.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            bytes.push(byte);
            rest = &after[2..];
        } else {
            bytes.push(first);
            rest = after;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What a `Range` header means for an object of `size` bytes; nothing if none of it is there (RFC 9110, section 14).
pub(super) fn range(header: &str, size: u64) -> Option<Range<u64>> {
    let (first, last) = header.strip_prefix("bytes=")?.split_once('-')?;
    let range = match (first.trim(), last.trim()) {
        ("", last) => size.saturating_sub(last.parse().ok()?)..size,
        (first, "") => first.parse().ok()?..size,
        (first, last) => first.parse().ok()?..last.parse::<u64>().ok()?.saturating_add(1).min(size),
    };
    (range.start < range.end).then_some(range)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_ends_where_the_object_does() {
        assert_eq!(range("bytes=0-9", 100), Some(0..10));
        assert_eq!(range("bytes=90-200", 100), Some(90..100));
        assert_eq!(range("bytes=-10", 100), Some(90..100));
        assert_eq!(range("bytes=5-", 100), Some(5..100));
        for nothing in
            ["bytes=100-", "bytes=7-5", "bytes=-0", "bytes=x-y", "lines=1-2", "bytes=0-18446744073709551615x"]
        {
            assert_eq!(range(nothing, 100), None, "{nothing}");
        }
    }

    #[test]
    fn a_head_is_read_to_its_end() {
        let text = b"GET /a%20b/c%zz?list HTTP/1.1\r\nHost: x\r\nRANGE: bytes=1-2\r\n\r\nrest";
        let mut stream = text.as_slice();
        let request = Request::read(&mut stream).expect("read").expect("a request");
        assert_eq!(request.path, "/a b/c%zz");
        assert_eq!(request.range.as_deref(), Some("bytes=1-2"));
        assert_eq!(stream, b"rest");
    }

    #[test]
    fn what_is_no_head_is_refused() {
        assert_eq!(Request::read(&mut b"".as_slice()).expect("read"), None);
        Request::read(&mut b"GET\r\n\r\n".as_slice()).expect_err("no path");
        Request::read(&mut b"GET / HTTP/1.1\r\nHost: x\r\n".as_slice()).expect_err("no end");
        let endless = [b"GET / HTTP/1.1\r\nX: ".as_slice(), &vec![b'x'; 20 << 10]].concat();
        Request::read(&mut endless.as_slice()).expect_err("too long");
    }
}
