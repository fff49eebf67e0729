//! `https://`, with a certificate of our own.

use std::io::Write;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use store::{Environment, Kind, SystemClock, Transfer, open_with};
use tempfile::NamedTempFile;

use crate::raw::{Say, Server, answer, content, options, part, policy};

/// A server's side, and the file in which a client finds whom to believe.
fn certificate() -> (Arc<ServerConfig>, NamedTempFile) {
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("usual versions")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .expect("they belong together");
    let mut file = NamedTempFile::new().expect("a file");
    file.write_all(made.cert.pem().as_bytes()).expect("is written");
    (Arc::new(config), file)
}

fn transfer(url: &str, environment: Environment) -> Transfer {
    let store = open_with(url, &options(environment)).expect(url);
    Transfer::with(store, policy(), Arc::new(SystemClock::default()))
}

#[test]
fn a_web_server_is_read_through_tls() {
    let (config, bundle) = certificate();
    let object = content(300_000);
    let copy = object.clone();
    let server = Server::start_tls(config, move |number, asked| {
        let mut whole = part(&copy, asked);
        if number == 0 {
            whole.truncate(whole.len() / 2);
        }
        Say::Bytes(whole)
    });
    let believed: Environment = [("AWS_CA_BUNDLE", bundle.path().to_str().expect("a text"))].into_iter().collect();
    let port = server.address.port();
    let read = transfer(&format!("https://localhost:{port}"), believed.clone());
    assert!(read.get("disk", 0..300_000).expect("is put together") == object);
    assert_eq!(server.asked().len(), 2);
    assert!(transfer(&format!("https://127.0.0.1:{port}"), believed).get("disk", 0..9).expect("reads") == object[..9]);
}

#[test]
fn a_certificate_that_nobody_vouches_for_is_refused() {
    let ((config, _), (_, other)) = (certificate(), certificate());
    let server = Server::start_tls(config, |_, asked| Say::Bytes(part(&content(10), asked)));
    let url = format!("https://localhost:{}", server.address.port());
    let believes_another = [("AWS_CA_BUNDLE", other.path().to_str().expect("a text"))].into_iter().collect();
    for environment in [believes_another, Environment::default()] {
        let error = transfer(&url, environment).get("disk", 0..10).expect_err("a stranger");
        assert_eq!(error.kind, Kind::Denied, "and it is not asked again");
        assert!(format!("{error:?}").contains("invalid peer certificate"), "{error:?}");
    }
    assert_eq!(server.asked().len(), 0, "it was told nothing");
}

#[test]
fn a_redirect_does_not_lead_away_from_tls() {
    let (config, bundle) = certificate();
    let plain = Server::start(|_, asked| Say::Bytes(part(&content(10), asked)));
    let to = format!("Location: http://{}/disk", plain.address);
    let server = Server::start_tls(config, move |_, _| Say::Bytes(answer("302 Found", &[&to], b"")));
    let believed = [("AWS_CA_BUNDLE", bundle.path().to_str().expect("a text"))].into_iter().collect();
    let url = format!("https://localhost:{}", server.address.port());
    assert_eq!(transfer(&url, believed).get("disk", 0..10).expect_err("stays").kind, Kind::Invalid);
    assert_eq!(plain.asked().len(), 0);
}
