//! Credentials of a machine's role, from a metadata service that speaks `IMDSv2` only.

use std::time::{Duration, Instant};

use store::{Environment, Kind, open_with};

use crate::raw::{Say, Server, answer, options};
use crate::remote::serve;

const TOKEN: &str = "token-of-the-session";

/// As AWS describes it: a token first, by PUT, and nothing without it.
fn metadata() -> Server {
    Server::start(|_, asked| {
        let json =
            r#"{"AccessKeyId":"key","SecretAccessKey":"secret","Token":"t","Expiration":"2999-01-01T00:00:00Z"}"#;
        let knows = asked.header("x-aws-ec2-metadata-token") == Some(TOKEN);
        Say::Bytes(match (asked.method.as_str(), asked.path.as_str()) {
            ("PUT", "/latest/api/token") if asked.header("x-aws-ec2-metadata-token-ttl-seconds").is_some() => {
                answer("200 OK", &[], TOKEN.as_bytes())
            }
            _ if !knows => answer("401 Unauthorized", &[], b""),
            ("GET", "/latest/meta-data/iam/security-credentials/") => answer("200 OK", &[], b"flasher"),
            ("GET", "/latest/meta-data/iam/security-credentials/flasher") => answer("200 OK", &[], json.as_bytes()),
            _ => answer("404 Not Found", &[], b""),
        })
    })
}

fn environment(server: &store::serve::Server, metadata: &str) -> Environment {
    let endpoint = format!("http://{}", server.address());
    [("AWS_ENDPOINT_URL", endpoint.as_str()), ("AWS_EC2_METADATA_SERVICE_ENDPOINT", metadata)].into_iter().collect()
}

#[test]
fn credentials_come_from_the_machines_role() {
    let ((server, _folder), metadata) = (serve(), metadata());
    let environment = environment(&server, &format!("http://{}/", metadata.address));
    let store = open_with("s3://images/os", &options(environment)).expect("opens");
    store.put("a", b"x").expect("is written: the server knows no other key");
    store.put("b", b"x").expect("is written");
    let asked: Vec<_> = metadata.asked().into_iter().map(|asked| format!("{} {}", asked.method, asked.path)).collect();
    assert_eq!(
        asked,
        [
            "PUT /latest/api/token",
            "GET /latest/meta-data/iam/security-credentials/",
            "GET /latest/meta-data/iam/security-credentials/flasher"
        ],
        "once, and kept"
    );
}

#[test]
fn no_credentials_anywhere_is_said_at_once() {
    let (server, _folder) = serve();
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("an address");
    let silent = Server::start(|_, _| Say::Hang(Vec::new()));
    let without_role = Server::start(|_, asked| {
        Say::Bytes(if asked.method == "PUT" { answer("200 OK", &[], b"t") } else { answer("404 Not Found", &[], b"") })
    });
    let began = Instant::now();
    for metadata in [nobody, silent.address, without_role.address] {
        let environment = environment(&server, &format!("http://{metadata}"));
        let store = open_with("s3://images/os", &options(environment)).expect("opens");
        let error = store.head("a").expect_err("no credentials");
        assert_eq!(error.kind, Kind::Denied, "{error:?}");
        assert!(error.source.to_string().starts_with("no credentials: "), "{}", error.source);
    }
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());

    let off = [("AWS_EC2_METADATA_DISABLED", "true")].into_iter().collect();
    let error = open_with("s3://images/os", &options(off)).expect_err("nobody to ask");
    assert!(error.source.to_string().starts_with("no credentials: "), "{}", error.source);
}

#[test]
fn a_metadata_service_that_asks_to_wait_is_asked_again() {
    let (server, _folder) = serve();
    let busy = Server::start(|_, _| Say::Bytes(answer("503 Service Unavailable", &[], b"")));
    let environment = environment(&server, &format!("http://{}", busy.address));
    let store = open_with("s3://images/os", &options(environment)).expect("opens");
    assert_eq!(store.head("a").expect_err("busy").kind, Kind::Throttled);
}
