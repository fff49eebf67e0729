//! `keepstate store serve`, as it is typed.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

const KEEPSTATE: &str = env!("CARGO_BIN_EXE_keepstate");

/// A server that runs, until it is dropped.
struct Served {
    process: Child,
}

impl Served {
    fn start(arguments: &[&str]) -> Self {
        let process = Command::new(KEEPSTATE)
            .args(["store", "serve"])
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("starts");
        Self { process }
    }

    /// What it prints, up to a line that begins with `last`.
    fn prints_until(&mut self, last: &str) -> String {
        let mut text = String::new();
        let mut reader = BufReader::new(self.process.stdout.take().expect("is piped"));
        while !text.lines().last().is_some_and(|line| line.starts_with(last)) {
            assert!(reader.read_line(&mut text).expect("reads") > 0, "it ended after {text:?}");
        }
        text
    }

    /// Ends it as `kill -SIGNAL` does; its exit code and what it said.
    fn ends_by(mut self, signal: &str) -> (Option<i32>, String) {
        let kill = Command::new("kill").args([format!("-{signal}"), self.process.id().to_string()]).status();
        assert!(kill.expect("kill runs").success());
        let code = self.process.wait().expect("ends").code();
        let mut said = String::new();
        self.process.stderr.take().expect("is piped").read_to_string(&mut said).expect("reads");
        (code, said)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // It has ended by itself in a test that went well.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The status line of a request that is not signed.
fn asks(endpoint: &str) -> String {
    let address = endpoint.strip_prefix("http://").expect("an http address");
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.write_all(b"GET /images/none HTTP/1.0\r\nHost: x\r\n\r\n").expect("is sent");
    let mut said = String::new();
    BufReader::new(stream).read_line(&mut said).expect("is answered");
    said
}

#[test]
fn prints_what_a_shell_can_use_and_ends_when_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let bucket = folder.path().join("not/yet");
    let mut served = Served::start(&[bucket.to_str().expect("a text"), "--listen", "127.0.0.1:0"]);
    let text = served.prints_until("export KEEPSTATE_STORE=");
    let environment: BTreeMap<_, _> =
        text.lines().filter_map(|line| line.strip_prefix("export ")?.split_once('=')).collect();
    assert_eq!(environment["KEEPSTATE_STORE"], "s3://images/os");
    assert_eq!(environment["AWS_ACCESS_KEY_ID"], "keepstate");
    assert_eq!(environment["AWS_REGION"], "us-east-1");
    assert!(!environment["AWS_ENDPOINT_URL"].ends_with(":0"), "the real port: {text}");
    assert!(bucket.join("images").is_dir());
    assert_eq!(asks(environment["AWS_ENDPOINT_URL"]), "HTTP/1.0 403 Forbidden\r\n");
    assert_eq!(served.ends_by("TERM"), (Some(0), String::new()));
}

#[test]
fn prints_one_document_with_json() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().to_str().expect("a text");
    let keys = ["--access-key", "it's", "--secret-key", "mine", "--bucket", "disks"];
    let mut served = Served::start(&[&[path, "--json", "--listen", "127.0.0.1:0"], &keys[..]].concat());
    let document: serde_json::Value = serde_json::from_str(&served.prints_until("}")).expect("one document");
    let environment = &document["environment"];
    assert_eq!(environment["AWS_ENDPOINT_URL"], format!("http://{}", document["listening"].as_str().expect("a text")));
    assert_eq!(environment["AWS_ACCESS_KEY_ID"], "it's");
    assert_eq!(environment["KEEPSTATE_STORE"], "s3://disks/os");
    assert_eq!(served.ends_by("INT"), (Some(0), String::new()));
}

#[test]
fn refuses_what_cannot_be_meant() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().to_str().expect("a text");
    let run = |arguments: &[&str]| {
        let output = Command::new(KEEPSTATE).args(["store", "serve"]).args(arguments).output().expect("runs");
        (output.status.code(), String::from_utf8(output.stderr).expect("text"))
    };
    let (code, said) = run(&[path, "--listen", "0.0.0.0:0"]);
    assert_eq!((code, said.contains("--allow-remote")), (Some(2), true), "{said}");
    let (code, said) = run(&[path, "--access-key", "alone"]);
    assert_eq!((code, said.contains("--secret-key")), (Some(2), true), "{said}");
    let (code, said) = run(&["/proc/cannot/be/made", "--listen", "127.0.0.1:0"]);
    assert_eq!((code, said.contains("/proc/cannot/be/made cannot be served")), (Some(1), true), "{said}");
}
