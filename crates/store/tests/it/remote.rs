//! S3, against `store serve` in process.

use std::io::{Cursor, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use store::serve::{Config, Server};
use store::{Environment, Kind, Options, Store, SystemClock, Transfer, open_with};
use tempfile::TempDir;

use crate::contract::keeps_the_contract;
use crate::raw::{Cutter, content, policy};

/// A server with a bucket `images`, and its directory.
pub(crate) fn serve() -> (Server, TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    let config = Config {
        root: folder.path().to_owned(),
        bucket: "images".into(),
        listen: "127.0.0.1:0".parse().expect("an address"),
        access_key: "key".into(),
        secret_key: "secret".into(),
    };
    (Server::start(&config).expect("starts"), folder)
}

fn keys() -> [(&'static str, String); 2] {
    [("AWS_ACCESS_KEY_ID", "key".into()), ("AWS_SECRET_ACCESS_KEY", "secret".into())]
}

fn environment(endpoint: std::net::SocketAddr) -> Environment {
    keys().into_iter().chain([("AWS_ENDPOINT_URL", format!("http://{endpoint}"))]).collect()
}

fn open(url: &str, environment: Environment) -> Arc<dyn Store> {
    open_with(url, &Options { environment, policy: policy(), ..Options::default() }).expect(url)
}

#[test]
fn a_bucket_keeps_the_contract() {
    let (server, _folder) = serve();
    keeps_the_contract(&*open("s3://images", environment(server.address())));
}

#[test]
fn a_prefix_of_a_bucket_keeps_the_contract() {
    let (server, folder) = serve();
    std::fs::create_dir_all(folder.path().join("images/os-not")).expect("a folder");
    std::fs::write(folder.path().join("images/os-not/x"), b"of somebody else").expect("is written");
    let store = open("s3://images/os/v 1", environment(server.address()));
    keeps_the_contract(&*store);
    assert_eq!(store.describe(), "s3://images/os/v 1");
    assert!(folder.path().join("images/os/v 1/debian/1/payload.zst").is_file());
}

#[test]
fn the_url_goes_before_the_environment() {
    let (server, _folder) = serve();
    let nobody = [("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1".to_owned()), ("AWS_REGION", "nowhere".into())];
    let url = format!("s3://images/os?endpoint=http://{}&region=eu-west-1", server.address());
    let store = open(&url, keys().into_iter().chain(nobody).collect());
    store.put("a", b"x").expect("is written");
    assert_eq!(store.list("").expect("lists").len(), 1);
    let named = [("AWS_ENDPOINT_URL_S3", format!("http://localhost:{}", server.address().port()))];
    let store = open("s3://images/os", keys().into_iter().chain(named).collect());
    assert_eq!(store.head("a").expect("the name is resolved").size, 1);
}

#[test]
fn a_bucket_or_key_that_is_wrong_is_said_so() {
    let (server, _folder) = serve();
    let store = open("s3://other", environment(server.address()));
    assert_eq!(store.list("").expect_err("no bucket").kind, Kind::NotFound);
    assert_eq!(store.head("a").expect_err("no bucket").kind, Kind::NotFound);
    assert_eq!(store.read("a", 0..1).err().expect("no bucket").kind, Kind::NotFound);

    let wrong = [("AWS_ACCESS_KEY_ID", "key".to_owned()), ("AWS_SECRET_ACCESS_KEY", "guess".into())];
    let endpoint = [("AWS_ENDPOINT_URL", format!("http://{}", server.address()))];
    let store = open("s3://images", wrong.into_iter().chain(endpoint).collect());
    let error = store.list("").expect_err("a wrong key");
    assert_eq!(error.kind, Kind::Denied);
    assert!(error.source.to_string().contains("SignatureDoesNotMatch"), "{}", error.source);
    assert_eq!(store.put("a", b"x").expect_err("a wrong key").kind, Kind::Denied);
}

#[test]
fn a_large_object_goes_up_in_parts() {
    let (server, folder) = serve();
    let store = open("s3://images", environment(server.address()));
    let object = content(20_000_000);
    let (told, last) = (AtomicU64::new(0), AtomicU64::new(0));
    let progress = |sent| {
        assert!(sent > last.swap(sent, Ordering::Relaxed), "only forward");
        told.fetch_add(1, Ordering::Relaxed);
    };
    store.upload("disk", 20_000_000, &mut Cursor::new(&object), &progress).expect("is written");
    assert_eq!((told.into_inner(), last.into_inner()), (3, 20_000_000));
    assert!(std::fs::read(folder.path().join("images/disk")).expect("is there") == object);

    for size in [19_999_999, 20_000_001] {
        let error = store.upload("wrong", size, &mut Cursor::new(&object), &|_| ()).expect_err("another length");
        assert_eq!(error.kind, Kind::Invalid);
        assert_eq!(store.head("wrong").expect_err("leaves nothing").kind, Kind::NotFound);
    }
    assert!(!leftovers(folder.path()), "parts of a broken upload are removed");
}

/// Whether parts of uploads lie about.
fn leftovers(folder: &Path) -> bool {
    let mut entries = std::fs::read_dir(folder).expect("is there");
    entries.any(|entry| entry.expect("reads").file_name().to_string_lossy().contains(".part-"))
}

#[test]
fn an_upload_survives_connections_that_are_cut() {
    let (server, folder) = serve();
    // The first three connections carry half a part each; the budget is four retries for the whole upload.
    let cutter =
        Cutter::start(server.address(), |number| (if number < 3 { 4_000_000 } else { usize::MAX }, usize::MAX));
    let store = open("s3://images", environment(cutter.address));
    let object = content(20_000_000);
    store.upload("disk", 20_000_000, &mut Cursor::new(&object), &|_| ()).expect("is written");
    assert!(std::fs::read(folder.path().join("images/disk")).expect("is there") == object);
}

#[test]
fn an_upload_that_cannot_work_ends_and_leaves_nothing() {
    let (server, folder) = serve();
    // Long enough to begin, never for a part.
    let cutter = Cutter::start(server.address(), |_| (100_000, usize::MAX));
    let store = open("s3://images", environment(cutter.address));
    let object = content(20_000_000);
    let error = store.upload("disk", 20_000_000, &mut Cursor::new(&object), &|_| ()).expect_err("is always cut");
    assert_eq!(error.kind, Kind::Exhausted, "{error:?}");
    assert!(!folder.path().join("images/disk").exists());
    assert!(!leftovers(folder.path()));
}

#[test]
fn a_download_survives_connections_that_are_cut() {
    let (server, _folder) = serve();
    let object = content(3_000_000);
    open("s3://images", environment(server.address())).put("disk", &object).expect("is written");
    let cutter = Cutter::start(server.address(), |number| (usize::MAX, 700_000 + number * 100_000));
    let store = open("s3://images", environment(cutter.address));
    let transfer = Transfer::with(store, policy(), Arc::new(SystemClock::default()));
    assert!(transfer.get("disk", 0..3_000_000).expect("is put together") == object);
    let mut streamed = Vec::new();
    transfer.reader("disk", 0..3_000_000).read_to_end(&mut streamed).expect("streams");
    assert!(streamed == object);
}

#[test]
fn an_object_that_is_replaced_is_not_mixed_with_the_new_one() {
    let (server, _folder) = serve();
    let store = open("s3://images", environment(server.address()));
    store.put("disk", b"old old old").expect("is written");
    let mut version = None;
    store.read_version("disk", 0..3, &mut version).expect("opens");
    assert!(version.is_some());
    store.read_version("disk", 3..6, &mut version).expect("still the same");
    store.put("disk", b"new new new").expect("is written");
    let error = store.read_version("disk", 6..9, &mut version).err().expect("another one");
    assert_eq!(error.kind, Kind::Wrong);
    assert!(error.source.to_string().contains("replaced"), "{}", error.source);
}

#[test]
fn credentials_come_from_a_profile() {
    let (server, _folder) = serve();
    let home = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(home.path().join(".aws")).expect("a folder");
    let file = |name: &str, text: &str| std::fs::write(home.path().join(".aws").join(name), text).expect("is written");
    file(
        "credentials",
        "[default]\naws_access_key_id = nobody\naws_secret_access_key = nothing\n\
          [images]\naws_access_key_id = key\naws_secret_access_key = secret\n",
    );
    file(
        "config",
        &format!(
            "[profile images]\nendpoint_url = http://{0}\n[default]\nendpoint_url = http://{0}\n",
            server.address()
        ),
    );
    let home = [("HOME", home.path().to_str().expect("a text"))];
    let store = open("s3://images", home.into_iter().chain([("AWS_PROFILE", "images")]).collect());
    store.put("a", b"x").expect("is written");
    let error = open("s3://images", home.into_iter().collect()).put("a", b"x").expect_err("the default one");
    assert_eq!(error.kind, Kind::Denied);
    let both = home.into_iter().chain([("AWS_ACCESS_KEY_ID", "key"), ("AWS_SECRET_ACCESS_KEY", "secret")]);
    open("s3://images", both.collect()).put("a", b"x").expect("the environment goes before a profile");
}

#[test]
fn a_server_that_stops_answers_nobody() {
    let (server, _folder) = serve();
    let store = open("s3://images", environment(server.address()));
    store.put("a", b"x").expect("is written");
    server.stop();
    assert_eq!(store.head("a").expect_err("nobody is there").kind, Kind::Transient);
}

#[test]
fn what_cannot_be_served_is_said_so() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = |bucket: &str| Config {
        root: folder.path().to_owned(),
        bucket: bucket.into(),
        listen: "127.0.0.1:0".parse().expect("an address"),
        access_key: "key".into(),
        secret_key: "secret".into(),
    };
    for bucket in ["", "..", "a/b", "/etc"] {
        let error = Server::start(&config(bucket)).expect_err(bucket);
        assert!(error.to_string().contains("no bucket's name"), "{error}");
    }
    let server = Server::start(&config("images")).expect("starts");
    let taken = Config { listen: server.address(), ..config("images") };
    assert_eq!(Server::start(&taken).expect_err("taken").kind(), std::io::ErrorKind::AddrInUse);
}
