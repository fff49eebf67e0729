//! One `GET`, as plain as can be: what is asked here has a length or ends with its connection.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

/// The body of an answer of 200 at a port of this host; everything else is an error.
pub(super) fn get(port: u16, path: &str, within: Duration) -> io::Result<String> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, within)?;
    stream.set_read_timeout(Some(within))?;
    stream.set_write_timeout(Some(within))?;
    // Of 1.0: no answer comes in pieces, and none leaves the connection open.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    body(&String::from_utf8_lossy(&answer)).ok_or_else(|| io::Error::other("no answer of 200"))
}

fn body(answer: &str) -> Option<String> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    (head.split_whitespace().nth(1) == Some("200")).then(|| body.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_answer_of_200_has_a_body() {
        assert_eq!(body("HTTP/1.0 200 OK\r\nA: b\r\n\r\ntext\r\n\r\nmore"), Some("text\r\n\r\nmore".into()));
        assert_eq!(body("HTTP/1.0 404 Not Found\r\n\r\nthere is none"), None);
        assert_eq!(body(""), None);
    }
}
